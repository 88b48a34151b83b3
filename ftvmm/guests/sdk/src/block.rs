//! A block device.

use crate::boot::BootInfo;
use crate::hypercall::{self, HypercallError};
use crate::manifest::BlockProperties;

/// A block device that the host attached.
#[derive(Debug, Clone, Copy)]
pub struct BlockDevice {
    properties: BlockProperties,
}

impl BlockDevice {
    /// The device of that name, or None where the manifest lacks it.
    pub fn open(boot_info: &BootInfo, name: &str) -> Option<BlockDevice> {
        Some(BlockDevice { properties: boot_info.manifest()?.block(name)? })
    }

    /// Size in bytes.
    pub fn capacity(&self) -> u64 {
        self.properties.capacity
    }

    /// Size of a block in bytes: offsets and lengths are multiples of it.
    pub fn block_bytes(&self) -> u16 {
        self.properties.block_bytes
    }

    /// Reads whole blocks.
    ///
    /// # Errors
    /// What the host answered.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), HypercallError> {
        hypercall::block_read(self.properties.handle, offset, data)
    }

    /// Writes whole blocks; they are down when it returns.
    ///
    /// # Errors
    /// What the host answered.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), HypercallError> {
        hypercall::block_write(self.properties.handle, offset, data)
    }
}
