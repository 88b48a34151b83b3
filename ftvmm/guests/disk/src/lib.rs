//! Files on a block device: ext4 with its journal, kept so that no loss of the machine takes what was synced.
//!
//! The format and its journal are the `rsext4` crate's; why it, is written in `docs/decisions/file-system.md`. This crate
//! is what a personality's file layer talks to ([`Disk`]), and it adds what ext4 leaves to the machine below it
//! (`volume`): the device may halve a write at any sector.
//!
//! **What holds.** When [`Disk::sync`] returns, all that was done before is on the device; after a loss at any write, in
//! the middle of one too, the next [`Disk::mount`] finds it all. A rename replaces its target at once or not at all. What
//! was not synced may be there or not, each operation for itself and in order, and of bytes written over in place each
//! sector is the old or the new one.
//!
//! **What is asked of the device.** A write is down when it returns, writes happen in the order in which they are asked
//! for, and one that is cut off leaves each of its sectors (of at least 512 bytes) old or new.
//!
//! **When the device refuses a write**, nothing more is written until it is mounted again: what is in memory and what is
//! on the device have parted, and only the journal tells how far. Every operation that would write answers
//! [`DiskError::Stopped`]; reading goes on as far as it can.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod device;
mod disk;
mod error;
mod format;
mod inode;
mod links;
mod superblock;
mod volume;

#[cfg(test)]
mod tests;

pub use device::{BLOCK_BYTES, BlockDevice, DeviceError};
pub use disk::{Disk, Usage};
pub use error::DiskError;
pub use inode::{Attributes, Change, Clock, Entry, Inode, Kind, Timestamp};
