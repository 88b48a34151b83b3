//! The block device as the storage log sees it.

/// The device could not read or write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
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
    /// the live data does not fit half of the device
    #[error("the live data does not fit half of the device")]
    Full,
}

/// A block device. Offsets and lengths are multiples of [`super::sector::SECTOR_BYTES`].
pub trait Disk {
    /// Size in bytes.
    fn capacity(&self) -> u64;

    /// Fills `data` from an offset in bytes.
    ///
    /// # Errors
    /// Where the device cannot.
    fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), DiskError>;

    /// Writes `data` at an offset in bytes; it is down when this returns.
    ///
    /// # Errors
    /// Where the device cannot; then any of the sectors may have been written.
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), DiskError>;
}
