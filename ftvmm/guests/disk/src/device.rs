//! The block device as the file system needs it.

/// Offsets and lengths of reads and writes are multiples of this, in bytes. A device may have smaller sectors.
pub const BLOCK_BYTES: usize = 4096;

/// The device could not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// the device cannot read at byte {offset}
    #[error("the device cannot read at byte {offset}")]
    Read {
        /// in bytes
        offset: u64,
    },
    /// the device cannot write at byte {offset}
    #[error("the device cannot write at byte {offset}")]
    Write {
        /// in bytes
        offset: u64,
    },
}

/// A block device whose writes are down when they return. Offsets and lengths are multiples of [`BLOCK_BYTES`], and no
/// transfer is longer than 64 KiB.
pub trait BlockDevice: Send {
    /// Size in bytes; a rest that is no whole block is not used.
    fn capacity_bytes(&self) -> u64;

    /// Fills `data` from an offset in bytes.
    ///
    /// # Errors
    /// Where the device cannot.
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), DeviceError>;

    /// Writes `data` at an offset in bytes.
    ///
    /// # Errors
    /// Where the device cannot; then any of the sectors may have been written.
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), DeviceError>;
}
