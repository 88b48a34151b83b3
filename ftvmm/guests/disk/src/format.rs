//! Finding the file system on a device, or making one.

use alloc::boxed::Box;
use alloc::string::ToString;

use rsext4::{
    Ext4, InodeFlags, InodeMetadataUpdate, MkfsOptions, MountOptions, MountServices, MountedServices, NoopObserver,
};

use crate::device::BlockDevice;
use crate::error::DiskError;
use crate::inode::{Clock, Ext4Clock};
use crate::superblock::{Found, look_at};
use crate::volume::Volume;

/// The mounted file system of the ext4 crate.
pub(crate) type FileSystem = Ext4<Volume, MountedServices<(), NoopObserver>>;

/// A new file system has a journal of 16 MiB; with less than this there would be little room beside it, in bytes.
pub(crate) const CAPACITY_BYTES_MIN: u64 = 24 * 1024 * 1024;

/// Opens a device; one that is blank is formatted first.
pub(crate) fn open(device: Box<dyn BlockDevice>, clock: Clock) -> Result<Volume, DiskError> {
    let mut volume = Volume::new(device)?;
    match look_at(volume.first_block()) {
        Found::FileSystem => Ok(volume),
        Found::Torn => {
            volume.restore_superblock()?;
            Ok(volume)
        }
        Found::Blank | Found::Unfinished => format(volume, clock),
        Found::Damaged => Err(DiskError::Damaged("neither the superblock nor its copy is right".to_string())),
        Found::Foreign => Err(DiskError::Foreign),
    }
}

fn format(mut volume: Volume, clock: Clock) -> Result<Volume, DiskError> {
    let capacity_bytes = volume.capacity_bytes();
    if capacity_bytes < CAPACITY_BYTES_MIN {
        return Err(DiskError::TooSmall { capacity_bytes, needed_bytes: CAPACITY_BYTES_MIN });
    }
    volume.begin_formatting()?;
    let mut volume = rsext4::format(volume, Ext4Clock(clock), MkfsOptions::default())?;
    volume.end_formatting()?;
    Ok(volume)
}

/// Mounts what was opened: the journal is replayed, and files that lost their last name are freed.
pub(crate) fn mount(volume: Volume, clock: Clock) -> Result<FileSystem, DiskError> {
    let services = MountServices::new(Ext4Clock(clock), (), NoopObserver);
    let mounted = Ext4::mount(volume, services, MountOptions::read_write());
    let mut file_system = mounted.map_err(|error| match DiskError::from(error) {
        // Of files it would mean something else.
        DiskError::Invalid => DiskError::Unsupported(error.to_string()),
        error => error,
    })?;
    keep_no_access_times(&mut file_system)?;
    Ok(file_system)
}

/// Without this every read would change an inode, outside of what is counted. All that is made inherits it.
fn keep_no_access_times(file_system: &mut FileSystem) -> Result<(), DiskError> {
    let root = file_system.root_inode();
    let flags = file_system.inode(root)?.flags;
    if !flags.contains(InodeFlags::NO_ATIME) {
        let flags = Some(flags | InodeFlags::NO_ATIME);
        file_system.update_inode_metadata(root, InodeMetadataUpdate { flags, ..InodeMetadataUpdate::default() })?;
    }
    Ok(())
}
