//! The outside world of a VM that runs live: TAP, block file, console, clocks and randomness.

mod attached;
mod block_file;
pub mod clock;
mod console;
mod readiness;
mod tap;
mod world;

pub use attached::Devices;
pub use block_file::{BlockFile, Sharing};
pub use console::Console;
pub use readiness::{Readiness, wait};
pub use tap::Tap;
#[cfg(test)]
pub(crate) use tap::tests::{beside_a_tap, ip};
pub use world::{World, instruction_answer};

use std::io;

use thiserror::Error;

/// A device cannot be opened, or fails.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// A device cannot be opened.
    #[error("{kind} {name:?} cannot be opened: {reason}")]
    Open { kind: &'static str, name: String, reason: String },
    /// A device failed while the VM ran.
    #[error("{kind} {name:?} failed to {operation}: {source}")]
    Failed { kind: &'static str, name: String, operation: &'static str, source: io::Error },
    /// A device is used that is not attached.
    #[error("device {device} is not attached")]
    Missing { device: u8 },
}

impl DeviceError {
    /// Whether a network interface took nothing because it is down.
    pub fn is_down(&self) -> bool {
        let DeviceError::Failed { kind, source, .. } = self else { return false };
        *kind == tap::KIND && matches!(source.raw_os_error(), Some(libc::EIO | libc::ENETDOWN))
    }
}

/// Random bytes from the operating system.
///
/// # Errors
/// The operating system's.
pub fn random<const LENGTH: usize>() -> io::Result<[u8; LENGTH]> {
    let mut bytes = [0u8; LENGTH];
    // SAFETY: the buffer is writable and LENGTH bytes long.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), LENGTH, 0) };
    if got == LENGTH as isize { Ok(bytes) } else { Err(io::Error::last_os_error()) }
}
