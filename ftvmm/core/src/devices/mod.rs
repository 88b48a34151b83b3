//! The outside world of a VM that runs live: TAPs and disk files.

mod block_file;
mod tap;

pub use block_file::BlockFile;
pub use tap::{Tap, wait_readable};
