//! The operations on files.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use rsext4::{
    DirectoryCursor, ErrorContext, Ext4Result, FileName, FilePermissions, InodeMetadataUpdate, InodeNumber,
    MutationContext, RangeOperation, RenameOptions, UnlinkOutcome,
};

use crate::device::{BLOCK_BYTES, BlockDevice};
use crate::error::DiskError;
use crate::format::{self, FileSystem};
use crate::inode::{Attributes, Change, Clock, Entry, Inode, Kind};
use crate::volume::Health;

/// The longest name in bytes.
const NAME_BYTES_MAX: usize = 255;
/// What is written of a file in one go, in bytes: the journal must take what one write adds to it.
const WRITE_BYTES_MAX: usize = 1024 * 1024;
/// After so many changes they are brought down unasked, so that the journal never has to commit before the data is down.
const UNSYNCED_CHANGES_MAX: u32 = 64;
/// What the ext4 crate says when it should cut off a file of more than some 700 pieces, and undoes: it cannot write a node
/// of the file's tree that has become empty.
const EMPTIED_INDEX: ErrorContext = ErrorContext::Operation { op: "extent:empty_index" };
/// How many names are read in one go.
const LISTED_NAMES: usize = 256;
/// The permissions of a symbolic link mean nothing.
pub(crate) const OWNER: MutationContext = MutationContext::new(0, 0, 0, 0);

/// Room on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// all of it, in bytes
    pub total_bytes: u64,
    /// what is free, in bytes
    pub free_bytes: u64,
    /// how many files there can be
    pub total_inodes: u32,
    /// how many more there can be
    pub free_inodes: u32,
}

/// A mounted file system.
pub struct Disk {
    pub(crate) file_system: FileSystem,
    health: Health,
    /// how often each file is open
    open: BTreeMap<Inode, u32>,
    /// those of them that have no name any more
    nameless: BTreeSet<Inode>,
    /// whether blocks were freed by changes that are not down: they must not be written while the device still has them
    /// in a file
    freed: bool,
    unsynced_changes: u32,
}

impl Disk {
    /// Mounts the file system of a device. A device whose first block is all zero is formatted.
    ///
    /// # Errors
    /// Where the device fails, holds something else, or is too small to be formatted.
    pub fn mount(device: Box<dyn BlockDevice>, clock: Clock) -> Result<Disk, DiskError> {
        let volume = format::open(device, clock)?;
        let health = volume.health();
        let file_system = format::mount(volume, clock)?;
        Ok(Disk {
            file_system,
            health,
            open: BTreeMap::new(),
            nameless: BTreeSet::new(),
            freed: false,
            unsynced_changes: 0,
        })
    }

    /// The directory that all others are in.
    pub fn root(&self) -> Inode {
        self.file_system.root_inode().into()
    }

    /// Room on the device.
    pub fn usage(&self) -> Usage {
        let statistics = self.file_system.statfs();
        Usage {
            total_bytes: statistics.total_blocks * statistics.block_size,
            free_bytes: statistics.free_blocks * statistics.block_size,
            total_inodes: statistics.total_inodes,
            free_inodes: statistics.free_inodes,
        }
    }

    /// What a name in a directory stands for; `.` and `..` are names too.
    ///
    /// # Errors
    /// [`DiskError::NotFound`], [`DiskError::NotDirectory`], or where the device fails.
    pub fn lookup(&mut self, directory: Inode, name: &[u8]) -> Result<Attributes, DiskError> {
        self.expect_directory(directory)?;
        let found = self.file_system.lookup_child(directory.number()?, file_name(name)?)?;
        found.map(Attributes::from).ok_or(DiskError::NotFound)
    }

    /// The attributes of an inode.
    ///
    /// # Errors
    /// [`DiskError::NotFound`], or where the device fails.
    pub fn attributes(&mut self, inode: Inode) -> Result<Attributes, DiskError> {
        Ok(self.file_system.inode(inode.number()?)?.into())
    }

    /// Changes attributes.
    ///
    /// # Errors
    /// As [`Disk::attributes`].
    pub fn set_attributes(&mut self, inode: Inode, change: &Change) -> Result<Attributes, DiskError> {
        let number = inode.number()?;
        let update = InodeMetadataUpdate {
            permissions: change.permissions.map(|bits| FilePermissions::new(bits & 0o7777)).transpose()?,
            owner: change.owner,
            atime: change.accessed.map(Into::into),
            mtime: change.modified.map(Into::into),
            ..InodeMetadataUpdate::default()
        };
        Ok(self.change(|file_system| file_system.update_inode_metadata(number, update))?.into())
    }

    /// Creates an empty file.
    ///
    /// # Errors
    /// [`DiskError::AlreadyExists`], [`DiskError::NotDirectory`], [`DiskError::NoSpace`], or where the device fails.
    pub fn create(&mut self, directory: Inode, name: &[u8], permissions: u16) -> Result<Attributes, DiskError> {
        let (parent, name) = self.new_name(directory, name)?;
        let permissions = FilePermissions::new(permissions & 0o7777)?;
        let change = |file_system: &mut FileSystem| file_system.create_regular_file(OWNER, parent, name, permissions);
        Ok(self.change(change)?.into())
    }

    /// Creates an empty directory.
    ///
    /// # Errors
    /// As [`Disk::create`].
    pub fn create_directory(
        &mut self,
        directory: Inode,
        name: &[u8],
        permissions: u16,
    ) -> Result<Attributes, DiskError> {
        let (parent, name) = self.new_name(directory, name)?;
        let permissions = FilePermissions::new(permissions & 0o7777)?;
        let change = |file_system: &mut FileSystem| file_system.create_directory(OWNER, parent, name, permissions);
        Ok(self.change(change)?.into())
    }

    /// Says that a file is used: it stays when its last name goes, until it is closed as often.
    pub fn open(&mut self, inode: Inode) {
        *self.open.entry(inode).or_default() += 1;
    }

    /// Whether a file is used.
    pub fn is_open(&self, inode: Inode) -> bool {
        self.open.contains_key(&inode)
    }

    /// Takes back an [`Disk::open`].
    ///
    /// # Errors
    /// Where the device fails when a file without a name is freed.
    pub fn close(&mut self, inode: Inode) -> Result<(), DiskError> {
        if let Some(count) = self.open.get_mut(&inode) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&inode);
                if self.nameless.remove(&inode) {
                    return self.free(inode);
                }
            }
        }
        Ok(())
    }

    /// Removes the name of a file.
    ///
    /// # Errors
    /// [`DiskError::NotFound`], [`DiskError::IsDirectory`], [`DiskError::NotDirectory`], or where the device fails.
    pub fn remove(&mut self, directory: Inode, name: &[u8]) -> Result<(), DiskError> {
        if self.lookup(directory, name)?.kind == Kind::Directory {
            return Err(DiskError::IsDirectory);
        }
        let (parent, name) = (directory.number()?, file_name(name)?);
        let outcome = self.change(|file_system| file_system.unlink(parent, name))?;
        self.name_went(outcome)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// [`DiskError::NotEmpty`], [`DiskError::NotFound`], [`DiskError::NotDirectory`], or where the device fails.
    pub fn remove_directory(&mut self, directory: Inode, name: &[u8]) -> Result<(), DiskError> {
        if self.lookup(directory, name)?.kind != Kind::Directory {
            return Err(DiskError::NotDirectory);
        }
        let (parent, name) = (directory.number()?, file_name(name)?);
        if name.is_reserved() {
            return Err(DiskError::Invalid);
        }
        let outcome = self.change(|file_system| file_system.remove_empty_directory(parent, name))?;
        self.name_went(outcome)
    }

    /// Gives a file or directory another name, which replaces what had that name at once.
    ///
    /// # Errors
    /// [`DiskError::NotFound`]; [`DiskError::IsDirectory`], [`DiskError::NotDirectory`] or [`DiskError::NotEmpty`] where
    /// the target cannot be replaced; [`DiskError::Invalid`] into itself; or where the device fails.
    pub fn rename(
        &mut self,
        old_directory: Inode,
        old_name: &[u8],
        new_directory: Inode,
        new_name: &[u8],
    ) -> Result<(), DiskError> {
        let source = self.lookup(old_directory, old_name)?;
        let replaces = match self.lookup(new_directory, new_name) {
            // Two names of the same file: POSIX asks that nothing happens.
            Ok(target) if target.inode == source.inode => return Ok(()),
            // As Linux has it: these two come before what the names are.
            _ if source.kind == Kind::Directory && self.is_within(new_directory, source.inode)? => {
                return Err(DiskError::Invalid);
            }
            Ok(target) if target.kind == Kind::Directory && self.is_within(old_directory, target.inode)? => {
                return Err(DiskError::NotEmpty);
            }
            Ok(target) if target.kind == Kind::Directory && source.kind != Kind::Directory => {
                return Err(DiskError::IsDirectory);
            }
            Ok(target) if target.kind != Kind::Directory && source.kind == Kind::Directory => {
                return Err(DiskError::NotDirectory);
            }
            Ok(_) => true,
            Err(DiskError::NotFound) => false,
            Err(error) => return Err(error),
        };
        let (old_parent, old) = (old_directory.number()?, file_name(old_name)?);
        let (new_parent, new) = (new_directory.number()?, file_name(new_name)?);
        if old.is_reserved() || new.is_reserved() {
            return Err(DiskError::Invalid);
        }
        let rename =
            |file_system: &mut FileSystem| file_system.rename(old_parent, old, new_parent, new, RenameOptions::REPLACE);
        let outcome = match self.change(rename) {
            // The new name needed another block of the directory. When that makes one of several blocks, the ext4 crate
            // looks for the old name where it was before, and undoes the rename. With a file to be replaced there is no
            // need of a block; it comes and goes in one transaction.
            Err(DiskError::Damaged(_) | DiskError::NotFound) if old_directory == new_directory && !replaces => {
                self.sync()?;
                let is_directory = source.kind == Kind::Directory;
                if is_directory {
                    self.create_directory(new_directory, new_name, 0)?;
                } else {
                    self.create(new_directory, new_name, 0)?;
                }
                let result = self.change(rename);
                if result.is_err() {
                    let remove = if is_directory { Disk::remove_directory } else { Disk::remove };
                    remove(self, new_directory, new_name)?;
                }
                result?
            }
            result => result?,
        };
        outcome.replaced.map_or(Ok(()), |outcome| self.name_went(outcome))
    }

    /// Whether a directory is this one, or somewhere in it.
    fn is_within(&mut self, directory: Inode, above: Inode) -> Result<bool, DiskError> {
        let (mut at, root) = (directory, self.root());
        while at != above && at != root {
            at = self.lookup(at, b"..")?.inode;
        }
        Ok(at == above)
    }

    /// The names in a directory, without `.` and `..`.
    ///
    /// # Errors
    /// [`DiskError::NotDirectory`], or where the device fails.
    pub fn list(&mut self, directory: Inode) -> Result<Vec<Entry>, DiskError> {
        self.expect_directory(directory)?;
        let number = directory.number()?;
        let mut reader = self.file_system.open_directory_reader(number)?;
        let (mut entries, mut cursor) = (Vec::new(), DirectoryCursor::Start);
        while cursor != DirectoryCursor::End {
            let part = self.file_system.read_directory_with_reader(&mut reader, cursor, LISTED_NAMES)?;
            let Some(last) = part.last() else { break };
            cursor = last.next_cursor;
            entries.extend(
                part.into_iter().filter(|entry| entry.name != b"." && entry.name != b"..").map(|entry| Entry {
                    name: entry.name,
                    inode: entry.inode.into(),
                    kind: entry.file_type.into(),
                }),
            );
        }
        Ok(entries)
    }

    /// Reads from a byte on, and tells how many bytes were read: fewer than asked for only where the file ends.
    ///
    /// # Errors
    /// [`DiskError::IsDirectory`], [`DiskError::NotFound`], or where the device fails.
    pub fn read_at(&mut self, inode: Inode, offset: u64, data: &mut [u8]) -> Result<usize, DiskError> {
        self.expect_file(inode)?;
        let (number, mut done) = (inode.number()?, 0);
        while done < data.len() {
            match self.file_system.read_inode(number, offset + done as u64, &mut data[done..])? {
                0 => break,
                count => done += count,
            }
        }
        Ok(done)
    }

    /// Writes from a byte on, and tells how many bytes were written: fewer than given only where the room ends. Past the
    /// end the file grows; what is between reads as zeros and takes no room.
    ///
    /// # Errors
    /// [`DiskError::NoSpace`] where there is no room for the first byte; [`DiskError::IsDirectory`],
    /// [`DiskError::FileTooLarge`], or where the device fails.
    pub fn write_at(&mut self, inode: Inode, offset: u64, data: &[u8]) -> Result<usize, DiskError> {
        self.expect_file(inode)?;
        let number = inode.number()?;
        offset.checked_add(data.len() as u64).ok_or(DiskError::FileTooLarge)?;
        let mut done = 0;
        while done < data.len() {
            self.let_go_of_freed()?;
            let (place, rest) = (offset + done as u64, &data[done..]);
            let part = &rest[..self.writable_bytes(place).min(rest.len())];
            match self.change(|file_system| file_system.write_inode(number, place, part)) {
                Ok(()) => done += part.len(),
                Err(DiskError::NoSpace) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Brings down that blocks were freed, before content is written into them.
    pub(crate) fn let_go_of_freed(&mut self) -> Result<(), DiskError> {
        if self.freed { self.sync() } else { Ok(()) }
    }

    /// How much is written at once from an offset on. When the device is nearly full it is a block: of several blocks for
    /// which there is not enough room, the ext4 crate takes those that there are, and does not give them back when the
    /// file is removed.
    fn writable_bytes(&self, offset: u64) -> usize {
        let is_roomy = self.usage().free_bytes > 2 * WRITE_BYTES_MAX as u64;
        if is_roomy { WRITE_BYTES_MAX } else { BLOCK_BYTES - (offset % BLOCK_BYTES as u64) as usize }
    }

    /// Cuts a file off, or lets it grow by zeros that take no room.
    ///
    /// # Errors
    /// As [`Disk::write_at`].
    pub fn truncate(&mut self, inode: Inode, size_bytes: u64) -> Result<(), DiskError> {
        let old_size_bytes = self.expect_file(inode)?.size_bytes;
        let number = inode.number()?;
        self.freed |= size_bytes < old_size_bytes;
        self.change(|file_system| match file_system.truncate_inode(number, size_bytes) {
            Err(error) if error.context() == Some(EMPTIED_INDEX) => {
                cut_out(file_system, number, size_bytes, old_size_bytes).ok_or(error)??;
                file_system.truncate_inode(number, size_bytes)
            }
            result => result,
        })
    }

    /// Brings all down that was done so far. One journal serves all files, so there is no less than that for one of them.
    ///
    /// # Errors
    /// Where a write failed; then it is not known which of the last changes are down.
    pub fn sync(&mut self) -> Result<(), DiskError> {
        self.expect_health()?;
        self.file_system.sync()?;
        self.freed = false;
        self.unsynced_changes = 0;
        Ok(())
    }

    /// Brings all down and says on the device that it is clean, so that the next mount has nothing to replay.
    ///
    /// # Errors
    /// As [`Disk::sync`].
    pub fn unmount(mut self) -> Result<(), DiskError> {
        for inode in core::mem::take(&mut self.nameless) {
            self.free(inode)?;
        }
        self.begin_transaction()?;
        Ok(self.file_system.unmount()?)
    }

    /// Has the ext4 crate make room in its journal. It does so when a transaction begins, but not (and answers "busy") when
    /// it begins with the superblock, as that of an unmount does.
    fn begin_transaction(&mut self) -> Result<(), DiskError> {
        let root = self.root();
        let permissions = Some(self.attributes(root)?.permissions);
        self.set_attributes(root, &Change { permissions, ..Change::default() }).map(drop)
    }

    pub(crate) fn change<T>(
        &mut self,
        operation: impl FnOnce(&mut FileSystem) -> Ext4Result<T>,
    ) -> Result<T, DiskError> {
        self.expect_health()?;
        let result = operation(&mut self.file_system)?;
        self.unsynced_changes += 1;
        if self.unsynced_changes >= UNSYNCED_CHANGES_MAX {
            self.sync()?;
        }
        Ok(result)
    }

    fn name_went(&mut self, outcome: UnlinkOutcome) -> Result<(), DiskError> {
        let inode = Inode::from(outcome.inode);
        if !outcome.requires_reap() {
            return Ok(());
        }
        if self.open.contains_key(&inode) {
            self.nameless.insert(inode);
            return Ok(());
        }
        self.free(inode)
    }

    fn free(&mut self, inode: Inode) -> Result<(), DiskError> {
        let number = inode.number()?;
        self.freed = true;
        self.change(|file_system| file_system.reap_unlinked_inode(number))
    }

    pub(crate) fn new_name<'a>(
        &mut self,
        directory: Inode,
        name: &'a [u8],
    ) -> Result<(InodeNumber, FileName<'a>), DiskError> {
        match self.lookup(directory, name) {
            Ok(_) => Err(DiskError::AlreadyExists),
            Err(DiskError::NotFound) => Ok((directory.number()?, file_name(name)?)),
            Err(error) => Err(error),
        }
    }

    fn expect_health(&self) -> Result<(), DiskError> {
        if self.health.has_failed() { Err(DiskError::Stopped) } else { Ok(()) }
    }

    fn expect_directory(&mut self, inode: Inode) -> Result<(), DiskError> {
        if self.attributes(inode)?.kind == Kind::Directory { Ok(()) } else { Err(DiskError::NotDirectory) }
    }

    fn expect_file(&mut self, inode: Inode) -> Result<Attributes, DiskError> {
        let attributes = self.attributes(inode)?;
        match attributes.kind {
            Kind::File => Ok(attributes),
            Kind::Directory => Err(DiskError::IsDirectory),
            Kind::SymbolicLink | Kind::Socket | Kind::Other => Err(DiskError::Invalid),
        }
    }
}

/// Takes all whole blocks but the last one out of what is to be cut off, which builds the tree of the rest anew. None if
/// there are none.
fn cut_out(
    file_system: &mut FileSystem,
    number: InodeNumber,
    size_bytes: u64,
    old_size_bytes: u64,
) -> Option<Ext4Result<()>> {
    let start = size_bytes.next_multiple_of(BLOCK_BYTES as u64);
    let last = old_size_bytes.saturating_sub(1) / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
    let length = last.checked_sub(start).filter(|length| *length > 0)?;
    Some(file_system.operate_inode_range(number, start, length, RangeOperation::Collapse))
}

fn file_name(name: &[u8]) -> Result<FileName<'_>, DiskError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(DiskError::NameTooLong);
    }
    Ok(FileName::new(name)?)
}
