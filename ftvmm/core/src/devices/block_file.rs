//! A disk that is a file or a block device of the host.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// An open disk.
#[derive(Debug)]
pub struct BlockFile {
    file: File,
    capacity_bytes: u64,
}

impl BlockFile {
    /// Opens a disk; its size is its capacity.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open(path: &Path) -> io::Result<BlockFile> {
        // O_DSYNC: a write that is reported done is on the disk, or an acknowledged write could be lost with the host.
        let mut file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DSYNC).open(path)?;
        let capacity_bytes = file.seek(SeekFrom::End(0))?;
        Ok(BlockFile { file, capacity_bytes })
    }

    /// Size of the disk, in bytes.
    pub fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    /// Writes all the bytes; they are durable when this returns.
    ///
    /// # Errors
    /// The operating system's.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    /// Fills the buffer.
    ///
    /// # Errors
    /// The operating system's.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}
