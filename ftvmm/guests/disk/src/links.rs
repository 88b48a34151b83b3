//! Names of what has no content of its own: further names of a file, symbolic links, and sockets.

use alloc::vec::Vec;

use rsext4::{FilePermissions, SpecialInodeKind};

use crate::device::BLOCK_BYTES;
use crate::disk::{Disk, OWNER};
use crate::error::DiskError;
use crate::format::FileSystem;
use crate::inode::{Attributes, Inode, Kind};

impl Disk {
    /// Gives what is no directory a further name.
    ///
    /// # Errors
    /// [`DiskError::NotPermitted`] for a directory, [`DiskError::NotFound`] where the last name has gone,
    /// [`DiskError::TooManyLinks`]; as [`Disk::create`].
    pub fn link(&mut self, inode: Inode, directory: Inode, name: &[u8]) -> Result<(), DiskError> {
        let attributes = self.attributes(inode)?;
        if attributes.kind == Kind::Directory {
            return Err(DiskError::NotPermitted);
        }
        if attributes.links == 0 {
            return Err(DiskError::NotFound);
        }
        let number = inode.number()?;
        let (parent, name) = self.new_name(directory, name)?;
        self.change(|file_system| file_system.hard_link(number, parent, name)).map(drop)
    }

    /// Creates a symbolic link that leads to `target`.
    ///
    /// # Errors
    /// [`DiskError::NameTooLong`] for a target of a block or more, [`DiskError::Invalid`] for an empty one; as
    /// [`Disk::create`].
    pub fn create_symbolic_link(
        &mut self,
        directory: Inode,
        name: &[u8],
        target: &[u8],
    ) -> Result<Attributes, DiskError> {
        if target.is_empty() {
            return Err(DiskError::Invalid);
        }
        if target.len() >= BLOCK_BYTES {
            return Err(DiskError::NameTooLong);
        }
        let (parent, name) = self.new_name(directory, name)?;
        // A target that the inode has no room for is written as content is.
        self.let_go_of_freed()?;
        let change = |file_system: &mut FileSystem| file_system.create_symlink(OWNER, parent, name, target);
        Ok(self.change(change)?.into())
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// [`DiskError::Invalid`] where it is none, [`DiskError::NotFound`], or where the device fails.
    pub fn read_link(&mut self, inode: Inode) -> Result<Vec<u8>, DiskError> {
        let attributes = self.attributes(inode)?;
        if attributes.kind != Kind::SymbolicLink {
            return Err(DiskError::Invalid);
        }
        let mut target = alloc::vec![0; attributes.size_bytes.min(BLOCK_BYTES as u64) as usize];
        let count = self.file_system.read_inode(inode.number()?, 0, &mut target)?;
        target.truncate(count);
        Ok(target)
    }

    /// Creates the name of a local socket.
    ///
    /// # Errors
    /// As [`Disk::create`].
    pub fn create_socket(&mut self, directory: Inode, name: &[u8], permissions: u16) -> Result<Attributes, DiskError> {
        let (parent, name) = self.new_name(directory, name)?;
        let permissions = FilePermissions::new(permissions & 0o7777)?;
        let change = |file_system: &mut FileSystem| {
            file_system.create_special_inode(OWNER, parent, name, permissions, SpecialInodeKind::Socket)
        };
        Ok(self.change(change)?.into())
    }
}
