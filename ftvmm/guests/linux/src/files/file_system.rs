//! What a file system is: nodes by their numbers, and what can be done with them. The RAM file system is one
//! ([`super::ram`]); one on a disk can be mounted beside it ([`super::tree::Tree::mount`]).

use alloc::rc::Rc;
use alloc::string::{String, ToString};

use linux_raw_sys::general::{
    DT_CHR, DT_DIR, DT_LNK, DT_REG, DT_SOCK, S_IFCHR, S_IFDIR, S_IFLNK, S_IFREG, S_IFSOCK, stat,
};

use super::image::Image;
use super::proc::Generated;
use super::special::Device;
use crate::clock::NANOSECONDS;
use crate::system_calls::{Errno, errno};

/// Longer names are refused (NAME_MAX).
pub const NAME_BYTES_MAX: usize = linux_raw_sys::general::NAME_MAX as usize;
/// Longer files are refused: by ext4, in blocks of 4 KiB.
pub const FILE_BYTES_MAX: u64 = (1 << 44) - BLOCK_BYTES;
/// st_blksize: what stdio reads and writes at once.
pub const BLOCK_BYTES: u64 = 4096;
/// The unit of st_blocks.
pub const SECTOR_BYTES: u64 = 512;

/// A file: which mounted file system holds it, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node {
    /// the index of the file system in the tree
    pub mount: usize,
    /// the inode number
    pub number: u64,
}

impl Node {
    /// st_dev: the device number of the file system.
    pub fn device(self) -> u64 {
        /// Small numbers belong to Linux's own file systems without names, such as pipes.
        const FIRST: u64 = 32;
        FIRST + self.mount as u64
    }
}

/// What a node is.
#[derive(Clone)]
pub enum Kind {
    /// a regular file
    File,
    /// a regular file that lies in the image as a packed ELF object
    Image(Rc<Image>),
    /// a directory
    Directory,
    /// a symbolic link
    Link,
    /// the name of a local socket
    Socket,
    /// a device, which does not need its file system to be read and written
    Device(Device),
    /// a file whose content is made when it is read
    Generated(Generated),
    /// the directory of the process's descriptors
    Descriptors,
    /// the link to the working directory
    WorkingDirectory,
}

impl Kind {
    /// The file type bits of st_mode.
    pub fn mode(&self) -> u32 {
        match self {
            Kind::File | Kind::Image(_) | Kind::Generated(_) => S_IFREG,
            Kind::Directory | Kind::Descriptors => S_IFDIR,
            Kind::Link | Kind::WorkingDirectory => S_IFLNK,
            Kind::Socket => S_IFSOCK,
            Kind::Device(_) => S_IFCHR,
        }
    }

    /// d_type of a directory entry.
    pub fn entry_type(&self) -> u8 {
        let number = match self.mode() {
            S_IFDIR => DT_DIR,
            S_IFLNK => DT_LNK,
            S_IFSOCK => DT_SOCK,
            S_IFCHR => DT_CHR,
            _ => DT_REG,
        };
        number as u8
    }

    /// Whether there are names in it.
    pub fn is_directory(&self) -> bool {
        matches!(self, Kind::Directory | Kind::Descriptors)
    }
}

/// What is known of a node. Times are in nanoseconds since 1970.
#[derive(Clone)]
pub struct Attributes {
    /// what it is
    pub kind: Kind,
    /// permission bits
    pub permissions: u32,
    /// its user
    pub owner: u32,
    /// its group
    pub group: u32,
    /// how many names it has
    pub links: u64,
    /// its length in bytes
    pub size: u64,
    /// the bytes that it takes
    pub allocated: u64,
    /// when it was read
    pub accessed: u64,
    /// when its content changed
    pub modified: u64,
    /// when it changed itself
    pub changed: u64,
}

impl Attributes {
    /// As stat says it.
    pub fn status(&self, node: Node) -> stat {
        let mut status = empty_status(self.kind.mode() | self.permissions, node.number);
        status.st_dev = node.device();
        status.st_nlink = self.links;
        (status.st_uid, status.st_gid) = (self.owner, self.group);
        if let Kind::Device(device) = self.kind {
            let (major, minor) = device.number();
            status.st_rdev = u64::from(major << 8 | minor);
        }
        status.st_size = self.size as i64;
        status.st_blocks = self.allocated.div_ceil(SECTOR_BYTES) as i64;
        (status.st_atime, status.st_atime_nsec) = (self.accessed / NANOSECONDS, self.accessed % NANOSECONDS);
        (status.st_mtime, status.st_mtime_nsec) = (self.modified / NANOSECONDS, self.modified % NANOSECONDS);
        (status.st_ctime, status.st_ctime_nsec) = (self.changed / NANOSECONDS, self.changed % NANOSECONDS);
        status
    }
}

/// What stat says of a file of which nothing is known but its type, permissions and number.
pub fn empty_status(mode: u32, number: u64) -> stat {
    stat {
        st_dev: 0,
        st_ino: number,
        st_nlink: 1,
        st_mode: mode,
        st_uid: 0,
        st_gid: 0,
        __pad0: 0,
        st_rdev: 0,
        st_size: 0,
        st_blksize: BLOCK_BYTES as i64,
        st_blocks: 0,
        st_atime: 0,
        st_atime_nsec: 0,
        st_mtime: 0,
        st_mtime_nsec: 0,
        st_ctime: 0,
        st_ctime_nsec: 0,
        __unused: [0; 3],
    }
}

/// A node that is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum New<'a> {
    /// an empty regular file
    File,
    /// an empty directory
    Directory,
    /// a symbolic link that leads there
    Link(&'a str),
    /// the name of a local socket
    Socket,
}

/// What is to be changed of a node; None stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// permission bits
    pub permissions: Option<u32>,
    /// its user
    pub owner: Option<u32>,
    /// its group
    pub group: Option<u32>,
    /// when it was read, in nanoseconds since 1970
    pub accessed: Option<u64>,
    /// when its content changed, in nanoseconds since 1970
    pub modified: Option<u64>,
}

/// A name in a directory.
pub struct Entry<'a> {
    /// the name
    pub name: &'a str,
    /// the node's number
    pub number: u64,
    /// what it is
    pub kind: Kind,
    /// its place in the directory, which grows from entry to entry and stays while the name does; 1 or more
    pub place: u64,
}

/// How much room a file system has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// f_type
    pub magic: u32,
    /// the size of a block in bytes
    pub block_bytes: u64,
    /// all blocks
    pub blocks: u64,
    /// those that are free
    pub free_blocks: u64,
    /// all nodes that there could be
    pub nodes: u64,
    /// those that are free
    pub free_nodes: u64,
}

/// A file system. The tree above it finds paths, keeps `.`, `..` and mounts, and checks what is the same everywhere:
/// names are no longer than [`NAME_BYTES_MAX`] and are neither `.` nor `..`, a directory's number is a directory's,
/// what is made does not exist yet. Times are in nanoseconds since 1970.
///
/// A node that was removed stays until its last [`FileSystem::close`]. What only looks takes `&self`, as fstat and poll
/// do: a file system that has to remember what it has read keeps that in a cell.
pub trait FileSystem {
    /// Its type, as /proc/mounts says it.
    fn name(&self) -> &'static str;

    /// The number of its first directory.
    fn root(&self) -> u64;

    /// What is known of a node.
    ///
    /// # Errors
    /// ENOENT where there is none, EIO.
    fn attributes(&self, node: u64) -> Result<Attributes, Errno>;

    /// The node with that name, None where there is none.
    ///
    /// # Errors
    /// EIO.
    fn lookup(&self, directory: u64, name: &str) -> Result<Option<u64>, Errno>;

    /// The directory that a directory is in; the first one is in itself.
    ///
    /// # Errors
    /// ENOENT where the directory has been removed, EIO.
    fn parent(&self, directory: u64) -> Result<u64, Errno>;

    /// Shows the entries of a directory behind a place, in order, until `take` does not want more.
    ///
    /// # Errors
    /// ENOENT where the directory has been removed, EIO.
    fn list(&self, directory: u64, behind: u64, take: &mut dyn FnMut(Entry) -> bool) -> Result<(), Errno>;

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// EINVAL where it is none, EIO.
    fn read_link(&self, node: u64) -> Result<String, Errno>;

    /// Reads from a regular file; returns the number of bytes, less than asked for at the end only.
    ///
    /// # Errors
    /// EIO.
    fn read_at(&self, node: u64, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno>;

    /// How much room there is.
    fn space(&self) -> Space;

    /// Makes a node; returns its number.
    ///
    /// # Errors
    /// EPERM for a kind that it does not keep, ENOENT where the directory has been removed, ENOSPC, EROFS, EIO.
    fn create(&mut self, directory: u64, name: &str, new: &New, permissions: u32, time: u64) -> Result<u64, Errno>;

    /// Gives a node that is no directory another name.
    ///
    /// # Errors
    /// EPERM where nodes have one name only; as [`FileSystem::create`].
    fn link(&mut self, node: u64, directory: u64, name: &str, time: u64) -> Result<(), Errno>;

    /// Takes a name away, a directory's too.
    ///
    /// # Errors
    /// ENOTEMPTY for a directory with names in it, EPERM, EROFS, EIO.
    fn remove(&mut self, directory: u64, name: &str, time: u64) -> Result<(), Errno>;

    /// Moves a name. What has the new name goes; the tree has checked that it is a directory if and only if the moved
    /// node is one, that they differ, and that the new directory is not within the moved one.
    ///
    /// # Errors
    /// ENOTEMPTY for a directory with names in it, and as [`FileSystem::create`].
    fn rename(&mut self, from: (u64, &str), to: (u64, &str), time: u64) -> Result<(), Errno>;

    /// Changes what is known of a node.
    ///
    /// # Errors
    /// EPERM, EROFS, EIO.
    fn change(&mut self, node: u64, change: &Change, time: u64) -> Result<(), Errno>;

    /// Writes into a regular file; returns the number of bytes, less than given where there is no more room.
    ///
    /// # Errors
    /// ENOSPC, EROFS, EIO.
    fn write_at(&mut self, node: u64, offset: u64, bytes: &[u8], time: u64) -> Result<usize, Errno>;

    /// Sets the length of a regular file; what comes to it is zero.
    ///
    /// # Errors
    /// ENOSPC, EROFS, EIO.
    fn truncate(&mut self, node: u64, length: u64, time: u64) -> Result<(), Errno>;

    /// Fills a part of a regular file with zeros, which need not take room; the part lies within the file.
    ///
    /// # Errors
    /// As [`FileSystem::write_at`].
    fn clear(&mut self, node: u64, offset: u64, length: u64, time: u64) -> Result<(), Errno> {
        let (zeros, end) = ([0; BLOCK_BYTES as usize], offset.saturating_add(length));
        let mut at = offset;
        while at < end {
            let count = (end - at).min(BLOCK_BYTES) as usize;
            match self.write_at(node, at, &zeros[..count], time)? {
                0 => return Err(errno::ENOSPC),
                written => at += written as u64,
            }
        }
        Ok(())
    }

    /// Somebody uses a node: it stays, even without a name, until it is closed as often as opened.
    fn open(&mut self, node: u64);

    /// The opposite of [`FileSystem::open`].
    fn close(&mut self, node: u64);

    /// Brings to the device what is not there yet: of one node, or of all.
    ///
    /// # Errors
    /// EIO.
    fn synchronise(&mut self, node: Option<u64>) -> Result<(), Errno>;

    /// Since when something is not on the device: None where there is no such thing.
    fn changed_since(&self) -> Option<u64> {
        None
    }

    /// The name of a node in a directory.
    ///
    /// # Errors
    /// ENOENT where it has none there, EIO.
    fn name_of(&self, directory: u64, node: u64) -> Result<String, Errno> {
        let mut found = None;
        self.list(directory, 0, &mut |entry| {
            if entry.number == node {
                found = Some(entry.name.to_string());
            }
            found.is_none()
        })?;
        found.ok_or(errno::ENOENT)
    }
}
