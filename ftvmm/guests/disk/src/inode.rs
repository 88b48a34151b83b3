//! What is known of a file: its number, its attributes, its place in a directory.

use alloc::vec::Vec;

use rsext4::{Ext4Result, Ext4Timestamp, InodeInfo, InodeNumber};

use crate::error::DiskError;

/// Tells the time for the stamps of files.
pub type Clock = fn() -> Timestamp;

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamp {
    /// since 1970
    pub seconds: i64,
    /// of the second
    pub nanoseconds: u32,
}

impl From<Timestamp> for Ext4Timestamp {
    fn from(timestamp: Timestamp) -> Ext4Timestamp {
        Ext4Timestamp::new(timestamp.seconds, timestamp.nanoseconds)
    }
}

/// The clock as the ext4 crate takes it.
pub(crate) struct Ext4Clock(pub(crate) Clock);

impl rsext4::Clock for Ext4Clock {
    fn now(&self) -> Ext4Result<Ext4Timestamp> {
        Ok((self.0)().into())
    }
}

/// The number of a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Inode(pub u32);

impl Inode {
    pub(crate) fn number(self) -> Result<InodeNumber, DiskError> {
        InodeNumber::new(self.0).map_err(|_| DiskError::NotFound)
    }
}

impl From<InodeNumber> for Inode {
    fn from(number: InodeNumber) -> Inode {
        Inode(number.raw())
    }
}

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// a regular file
    File,
    /// a directory
    Directory,
    /// a symbolic link
    SymbolicLink,
    /// the name of a local socket
    Socket,
    /// a device or pipe, which nothing here makes
    Other,
}

impl From<rsext4::DirectoryEntryType> for Kind {
    fn from(kind: rsext4::DirectoryEntryType) -> Kind {
        match kind {
            rsext4::DirectoryEntryType::RegularFile => Kind::File,
            rsext4::DirectoryEntryType::Directory => Kind::Directory,
            rsext4::DirectoryEntryType::Symlink => Kind::SymbolicLink,
            rsext4::DirectoryEntryType::Socket => Kind::Socket,
            _ => Kind::Other,
        }
    }
}

/// Attributes of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// which one
    pub inode: Inode,
    /// what it is
    pub kind: Kind,
    /// the low twelve bits of the mode
    pub permissions: u16,
    /// user who owns it
    pub user: u32,
    /// group that owns it
    pub group: u32,
    /// how many names it has
    pub links: u16,
    /// length in bytes
    pub size_bytes: u64,
    /// what it takes on the device, in units of 512 bytes
    pub sectors: u64,
    /// last read, in seconds since 1970
    pub accessed_seconds: u32,
    /// content last changed, in seconds since 1970
    pub modified_seconds: u32,
    /// attributes last changed, in seconds since 1970
    pub changed_seconds: u32,
}

impl From<InodeInfo> for Attributes {
    fn from(info: InodeInfo) -> Attributes {
        Attributes {
            inode: info.number.into(),
            kind: info.file_type().into(),
            permissions: info.mode & 0o7777,
            user: info.uid,
            group: info.gid,
            links: info.links,
            size_bytes: info.size,
            sectors: info.blocks,
            accessed_seconds: info.atime,
            modified_seconds: info.mtime,
            changed_seconds: info.ctime,
        }
    }
}

/// Attributes to set; None leaves one as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// the low twelve bits of the mode
    pub permissions: Option<u16>,
    /// user and group
    pub owner: Option<(u32, u32)>,
    /// last read
    pub accessed: Option<Timestamp>,
    /// content last changed
    pub modified: Option<Timestamp>,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// without a zero at the end
    pub name: Vec<u8>,
    /// what it names
    pub inode: Inode,
    /// what that is
    pub kind: Kind,
}
