//! A block device in a regular file or a block device of the host.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::DeviceError;
use crate::machine::SECTOR_BYTES;

const KIND: &str = "block device";

/// An open image. A write is on the disk when it returns (O_DSYNC).
#[derive(Debug)]
pub struct BlockFile {
    file: File,
    name: String,
    capacity_bytes: u64,
}

impl BlockFile {
    /// Opens an image for reading and writing; its size, in whole sectors, is the capacity.
    pub fn open(path: &Path) -> Result<BlockFile, DeviceError> {
        let name = path.display().to_string();
        let wrong = |reason: String| DeviceError::Open { kind: KIND, name: name.clone(), reason };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DSYNC)
            .open(path)
            .map_err(|error| wrong(error.to_string()))?;
        let kind = file.metadata().map_err(|error| wrong(error.to_string()))?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(wrong("it is neither a regular file nor a block device".into()));
        }
        // A block device's metadata has no size.
        let bytes = file.seek(SeekFrom::End(0)).map_err(|error| wrong(error.to_string()))?;
        let capacity_bytes = bytes - bytes % u64::from(SECTOR_BYTES);
        match capacity_bytes {
            0 => Err(wrong(format!("it has {bytes} bytes, less than a sector of {SECTOR_BYTES}"))),
            _ => Ok(BlockFile { file, name, capacity_bytes }),
        }
    }

    pub fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    /// Whether the disk can be read.
    ///
    /// # Errors
    /// What the disk says.
    pub fn check(&self) -> Result<(), DeviceError> {
        // What is read here may be another host's to write until the VM comes: no page of it is kept.
        self.advise(libc::POSIX_FADV_RANDOM);
        let read = self.read(0, u32::from(SECTOR_BYTES));
        self.forget_read();
        self.advise(libc::POSIX_FADV_NORMAL);
        read.map(drop)
    }

    /// Drops what the page cache holds of the disk: another host has written to it.
    pub fn forget_read(&self) {
        self.advise(libc::POSIX_FADV_DONTNEED);
    }

    fn advise(&self, advice: libc::c_int) {
        // SAFETY: the call takes no memory. It fails for no regular file and no block device.
        unsafe { libc::posix_fadvise(self.file.as_raw_fd(), 0, 0, advice) };
    }

    /// Reads `length` bytes at `offset`.
    pub fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>, DeviceError> {
        let mut data = vec![0; length as usize];
        self.file.read_exact_at(&mut data, offset).map_err(|source| self.failed("read", source))?;
        Ok(data)
    }

    /// Writes `data` at `offset`; it is on the disk when this returns.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.file.write_all_at(data, offset).map_err(|source| self.failed("write", source))
    }

    fn failed(&self, operation: &'static str, source: std::io::Error) -> DeviceError {
        DeviceError::Failed { kind: KIND, name: self.name.clone(), operation, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_sectors_are_whole() {
        let path = std::env::temp_dir().join(format!("ftvmm-block-{}", std::process::id()));
        std::fs::write(&path, [0; 1500]).unwrap();
        let block = BlockFile::open(&path).unwrap();
        assert_eq!(block.capacity_bytes(), 1024);
        block.write(512, &[7; 512]).unwrap();
        assert_eq!(block.read(510, 4).unwrap(), [0, 0, 7, 7]);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        assert!(BlockFile::open(Path::new("/dev/null")).unwrap_err().to_string().contains("neither"));
        assert!(BlockFile::open(Path::new("/nonexistent")).unwrap_err().to_string().contains("No such file"));
    }
}
