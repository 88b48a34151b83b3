//! The file system on the block device. What is left of it when the machine is lost is the crate `disk`'s business; here
//! it is a file system as all others, and fsync, fdatasync, sync and O_SYNC mean that the block writes have completed.
//!
//! Where it is not as Linux's ext4: times are told in whole seconds, reading a file does not change when it was read, and
//! fallocate sets no room aside.

mod listing;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use core::cell::{Cell, RefCell};
use core::sync::atomic::{AtomicU64, Ordering};

use disk::{DeviceError, Disk, DiskError, Inode, Timestamp};
use linux_raw_sys::general::EXT4_SUPER_MAGIC;
use sdk::block::BlockDevice;

use self::listing::Listing;
use super::file_system::{Attributes, BLOCK_BYTES, Change, Entry, FileSystem, Kind, New, SECTOR_BYTES, Space};
use super::tree::Tree;
use super::walk::Last;
use crate::clock::NANOSECONDS;
use crate::system_calls::{Errno, errno};

/// The manifest's name of the block device.
pub const DEVICE: &str = "storage";
/// Where its file system is.
const PATH: &str = "/data";
/// The permission bit of a directory that its group is shared.
const SET_GROUP: u16 = 0o2000;

/// Why the block device cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// its file system cannot be used
    #[error("the block device `{DEVICE}`: {0}")]
    Disk(#[from] DiskError),
    /// what was packed is in the way
    #[error("{PATH} is no directory, and the block device `{DEVICE}` is to be there")]
    Directory,
}

impl From<Errno> for MountError {
    fn from(_: Errno) -> MountError {
        MountError::Directory
    }
}

/// Mounts the block device; one that is blank gets a file system. `time` is in nanoseconds since 1970.
///
/// # Errors
/// Where the device holds something else or is damaged, or fails.
pub fn mount(tree: &mut Tree, device: BlockDevice, time: u64) -> Result<(), MountError> {
    let system = DiskFiles::mount(Box::new(Device(device)), time, |error| sdk::println!("linux: {PATH}: {error}"))?;
    let walk = tree.walk(tree.root(), PATH, Last::Name, &|_| None)?;
    if walk.target.is_none() {
        tree.create(&walk, &New::Directory, 0o755, time)?;
    }
    Ok(tree.mount(PATH, DEVICE, Box::new(system))?)
}

/// The block device as the crate takes it.
struct Device(BlockDevice);

impl disk::BlockDevice for Device {
    fn capacity_bytes(&self) -> u64 {
        self.0.capacity()
    }

    fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        self.0.read(offset, data).map_err(|_| DeviceError::Read { offset })
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.0.write(offset, data).map_err(|_| DeviceError::Write { offset })
    }
}

/// The time of the operation that is carried out, in nanoseconds since 1970: the crate asks for it from below.
#[cfg(not(test))]
static TIME: AtomicU64 = AtomicU64::new(0);
// Tests have their disks side by side, each in a thread of its own.
#[cfg(test)]
std::thread_local!(static TIME: AtomicU64 = const { AtomicU64::new(0) });

fn set_time(time: u64) {
    #[cfg(not(test))]
    TIME.store(time, Ordering::Relaxed);
    #[cfg(test)]
    TIME.with(|told| told.store(time, Ordering::Relaxed));
}

fn timestamp(time: u64) -> Timestamp {
    // Later ones could not be told.
    let seconds = (time / NANOSECONDS).min(u64::from(u32::MAX)) as i64;
    Timestamp { seconds, nanoseconds: (time % NANOSECONDS) as u32 }
}

fn clock() -> Timestamp {
    #[cfg(not(test))]
    let time = TIME.load(Ordering::Relaxed);
    #[cfg(test)]
    let time = TIME.with(|told| told.load(Ordering::Relaxed));
    timestamp(time)
}

fn inode(node: u64) -> Inode {
    // No file has the number 0.
    Inode(u32::try_from(node).unwrap_or(0))
}

fn number(inode: Inode) -> u64 {
    u64::from(inode.0)
}

fn kind(kind: disk::Kind) -> Kind {
    match kind {
        disk::Kind::File => Kind::File,
        disk::Kind::Directory => Kind::Directory,
        disk::Kind::SymbolicLink => Kind::Link,
        // Devices and pipes that another system left cannot be opened either.
        disk::Kind::Socket | disk::Kind::Other => Kind::Socket,
    }
}

/// The file system on the block device.
pub struct DiskFiles {
    disk: RefCell<Disk>,
    /// of the directories that are open
    listings: RefCell<BTreeMap<u64, Listing>>,
    /// since when something is not on the device
    changed_since: Cell<Option<u64>>,
    /// whether something could not be brought to the device: then nothing may be said to be there any more
    has_failed: Cell<bool>,
    /// tells of the device's first failure
    tell: fn(&DiskError),
    is_told: Cell<bool>,
}

impl DiskFiles {
    /// Mounts a device. `tell` hears of its first failure.
    ///
    /// # Errors
    /// Where the device holds something else or is damaged, or fails.
    pub fn mount(device: Box<dyn disk::BlockDevice>, time: u64, tell: fn(&DiskError)) -> Result<DiskFiles, DiskError> {
        set_time(time);
        Ok(DiskFiles {
            disk: RefCell::new(Disk::mount(device, clock)?),
            listings: RefCell::default(),
            changed_since: Cell::new(None),
            has_failed: Cell::new(false),
            tell,
            is_told: Cell::new(false),
        })
    }

    /// Carries out what only looks.
    fn look<T>(&self, operation: impl FnOnce(&mut Disk) -> Result<T, DiskError>) -> Result<T, Errno> {
        operation(&mut self.disk.borrow_mut()).map_err(|error| self.number_of(&error))
    }

    /// Carries out what changes something, at that time.
    fn alter<T>(&mut self, time: u64, operation: impl FnOnce(&mut Disk) -> Result<T, DiskError>) -> Result<T, Errno> {
        set_time(time);
        self.changed_since.set(self.changed_since.get().or(Some(time)));
        self.look(operation)
    }

    fn number_of(&self, error: &DiskError) -> Errno {
        let number = Errno(error.errno().unsigned_abs());
        if number == errno::EIO && !self.is_told.replace(true) {
            (self.tell)(error);
        }
        number
    }

    /// What is known of a directory that has a name.
    fn named(&self, directory: u64) -> Result<disk::Attributes, Errno> {
        let attributes = self.look(|disk| disk.attributes(inode(directory)))?;
        if attributes.links == 0 { Err(errno::ENOENT) } else { Ok(attributes) }
    }

    /// The names in a directory have changed.
    fn outdate(&mut self, directory: u64) {
        if let Some(listing) = self.listings.get_mut().get_mut(&directory) {
            listing.is_current = false;
        }
    }
}

impl FileSystem for DiskFiles {
    fn name(&self) -> &'static str {
        "ext4"
    }

    fn root(&self) -> u64 {
        number(self.disk.borrow().root())
    }

    fn attributes(&self, node: u64) -> Result<Attributes, Errno> {
        let attributes = self.look(|disk| disk.attributes(inode(node)))?;
        Ok(Attributes {
            kind: kind(attributes.kind),
            permissions: attributes.permissions.into(),
            owner: attributes.user,
            group: attributes.group,
            links: attributes.links.into(),
            size: attributes.size_bytes,
            allocated: attributes.sectors.saturating_mul(SECTOR_BYTES),
            accessed: u64::from(attributes.accessed_seconds) * NANOSECONDS,
            modified: u64::from(attributes.modified_seconds) * NANOSECONDS,
            changed: u64::from(attributes.changed_seconds) * NANOSECONDS,
        })
    }

    fn lookup(&self, directory: u64, name: &str) -> Result<Option<u64>, Errno> {
        match self.look(|disk| disk.lookup(inode(directory), name.as_bytes())) {
            Ok(found) => Ok(Some(number(found.inode))),
            Err(errno::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn parent(&self, directory: u64) -> Result<u64, Errno> {
        self.named(directory)?;
        self.look(|disk| disk.lookup(inode(directory), b"..")).map(|found| number(found.inode))
    }

    fn list(&self, directory: u64, behind: u64, take: &mut dyn FnMut(Entry) -> bool) -> Result<(), Errno> {
        self.named(directory)?;
        let mut listings = self.listings.borrow_mut();
        // Places have to stay for whoever has the directory open.
        let is_kept = self.disk.borrow().is_open(inode(directory));
        let mut fresh = Listing::default();
        let listing = if is_kept { listings.entry(directory).or_default() } else { &mut fresh };
        if !listing.is_current {
            listing.update(self.look(|disk| disk.list(inode(directory)))?);
        }
        for (place, name, entry) in listing.behind(behind) {
            if !take(Entry { name: &name, number: number(entry.inode), kind: kind(entry.kind), place }) {
                break;
            }
        }
        Ok(())
    }

    fn read_link(&self, node: u64) -> Result<String, Errno> {
        let target = self.look(|disk| disk.read_link(inode(node)))?;
        Ok(String::from_utf8_lossy(&target).into_owned())
    }

    fn read_at(&self, node: u64, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        self.look(|disk| disk.read_at(inode(node), offset, buffer))
    }

    fn space(&self) -> Space {
        let usage = self.disk.borrow().usage();
        Space {
            magic: EXT4_SUPER_MAGIC,
            block_bytes: BLOCK_BYTES,
            blocks: usage.total_bytes / BLOCK_BYTES,
            free_blocks: usage.free_bytes / BLOCK_BYTES,
            nodes: usage.total_inodes.into(),
            free_nodes: usage.free_inodes.into(),
        }
    }

    fn create(&mut self, directory: u64, name: &str, new: &New, permissions: u32, time: u64) -> Result<u64, Errno> {
        let above = self.named(directory)?;
        // What is made in a directory with setgid gets its group, and a directory the bit as well.
        let is_shared = above.permissions & SET_GROUP != 0;
        let inherited = if is_shared && *new == New::Directory { SET_GROUP } else { 0 };
        let permissions = permissions as u16 | inherited;
        let (parent, name) = (inode(directory), name.as_bytes());
        let made = self.alter(time, |disk| match new {
            New::File => disk.create(parent, name, permissions),
            New::Directory => disk.create_directory(parent, name, permissions),
            New::Link(target) => disk.create_symbolic_link(parent, name, target.as_bytes()),
            New::Socket => disk.create_socket(parent, name, permissions),
        })?;
        self.outdate(directory);
        let made = number(made.inode);
        if is_shared {
            self.change(made, &Change { group: Some(above.group), ..Change::default() }, time)?;
        }
        Ok(made)
    }

    fn link(&mut self, node: u64, directory: u64, name: &str, time: u64) -> Result<(), Errno> {
        self.named(directory)?;
        self.alter(time, |disk| disk.link(inode(node), inode(directory), name.as_bytes()))?;
        self.outdate(directory);
        Ok(())
    }

    fn remove(&mut self, directory: u64, name: &str, time: u64) -> Result<(), Errno> {
        let (parent, name) = (inode(directory), name.as_bytes());
        self.alter(time, |disk| match disk.lookup(parent, name)?.kind {
            disk::Kind::Directory => disk.remove_directory(parent, name),
            _ => disk.remove(parent, name),
        })?;
        self.outdate(directory);
        Ok(())
    }

    fn rename(&mut self, from: (u64, &str), to: (u64, &str), time: u64) -> Result<(), Errno> {
        self.named(to.0)?;
        let (old, new) = (from.1.as_bytes(), to.1.as_bytes());
        self.alter(time, |disk| disk.rename(inode(from.0), old, inode(to.0), new))?;
        self.outdate(from.0);
        self.outdate(to.0);
        Ok(())
    }

    fn change(&mut self, node: u64, change: &Change, time: u64) -> Result<(), Errno> {
        let node = inode(node);
        self.alter(time, |disk| {
            let mut permissions = change.permissions.map(|bits| bits as u16);
            if change.owner.is_some() || change.group.is_some() {
                let old = disk.attributes(node)?;
                let owner = Some((change.owner.unwrap_or(old.user), change.group.unwrap_or(old.group)));
                disk.set_attributes(node, &disk::Change { owner, ..disk::Change::default() })?;
                // That took setuid and setgid away.
                permissions = permissions.or(Some(old.permissions));
            }
            let (accessed, modified) = (change.accessed.map(timestamp), change.modified.map(timestamp));
            disk.set_attributes(node, &disk::Change { permissions, owner: None, accessed, modified })
        })
        .map(|_| ())
    }

    fn write_at(&mut self, node: u64, offset: u64, bytes: &[u8], time: u64) -> Result<usize, Errno> {
        self.alter(time, |disk| disk.write_at(inode(node), offset, bytes))
    }

    fn truncate(&mut self, node: u64, length: u64, time: u64) -> Result<(), Errno> {
        self.alter(time, |disk| disk.truncate(inode(node), length))
    }

    fn open(&mut self, node: u64) {
        self.disk.get_mut().open(inode(node));
    }

    fn close(&mut self, node: u64) {
        // Nobody could be told but by the next fsync.
        let outcome = self.look(|disk| disk.close(inode(node)));
        self.has_failed.set(self.has_failed.get() || outcome.is_err());
        if !self.disk.get_mut().is_open(inode(node)) {
            self.listings.get_mut().remove(&node);
        }
    }

    fn synchronise(&mut self, _node: Option<u64>) -> Result<(), Errno> {
        self.changed_since.set(None);
        if self.has_failed.get() {
            return Err(errno::EIO);
        }
        self.look(Disk::sync).map_err(|_| {
            self.has_failed.set(true);
            errno::EIO
        })
    }

    fn changed_since(&self) -> Option<u64> {
        self.changed_since.get()
    }
}
