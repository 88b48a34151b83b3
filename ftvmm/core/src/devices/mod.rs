//! The outside world of a VM that runs live: TAP, block file, console, clocks and randomness.

mod block_file;
pub mod clock;
mod console;
mod readiness;
mod tap;
mod world;

pub use block_file::{BlockFile, Sharing};
pub use console::Console;
pub use readiness::{Readiness, wait};
pub use tap::Tap;
#[cfg(test)]
pub(crate) use tap::tests::{beside_a_tap, ip};
pub use world::World;

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
