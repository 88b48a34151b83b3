//! The guest's console: an open file of the host, for instance standard output.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};

use super::DeviceError;

/// Where console output goes, byte for byte.
#[derive(Debug)]
pub struct Console {
    file: File,
}

impl Console {
    /// Writes to a duplicate of `descriptor`.
    pub fn new(descriptor: BorrowedFd<'_>) -> Result<Console, DeviceError> {
        let failed = |error: std::io::Error| DeviceError::Open {
            kind: "console",
            name: "descriptor".into(),
            reason: error.to_string(),
        };
        Ok(Console { file: File::from(descriptor.try_clone_to_owned().map_err(failed)?) })
    }

    /// The VMM's own standard output.
    pub fn standard_output() -> Result<Console, DeviceError> {
        Console::new(std::io::stdout().as_fd())
    }

    /// Writes everything.
    pub fn write(&mut self, data: &[u8]) -> Result<(), DeviceError> {
        self.file.write_all(data).map_err(|source| DeviceError::Failed {
            kind: "console",
            name: "output".into(),
            operation: "write",
            source,
        })
    }
}
