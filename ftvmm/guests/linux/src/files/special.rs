//! Devices: the console, and those that every program expects in /dev.

use linux_raw_sys::general::{O_RDWR, SEEK_CUR, SEEK_END, SEEK_SET};

use super::walk::Last;
use crate::kernel::Kernel;
use crate::system_calls::{Errno, Stop, errno};

/// The host takes no more at once.
const CONSOLE_BYTES_MAX: usize = 1 << 20;

/// A device that programs know by its name in /dev.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// nothing comes out, all goes in
    Null,
    /// zeros come out
    Zero,
    /// zeros come out, nothing goes in
    Full,
    /// random bytes
    Random,
    /// random bytes, by its other name
    UnlimitedRandom,
    /// what the process's terminal would be: it has none
    Terminal,
    /// Text goes to the host; nothing comes.
    Console,
}

impl Device {
    /// Its major and minor number (`Documentation/admin-guide/devices.txt`).
    pub fn number(self) -> (u32, u32) {
        match self {
            Device::Null => (1, 3),
            Device::Zero => (1, 5),
            Device::Full => (1, 7),
            Device::Random => (1, 8),
            Device::UnlimitedRandom => (1, 9),
            Device::Terminal => (5, 0),
            Device::Console => (5, 1),
        }
    }

    /// Whether it can be read and written at a place, which means nothing to it.
    pub fn has_places(self) -> bool {
        !matches!(self, Device::Console | Device::Terminal)
    }

    /// Takes bytes out.
    ///
    /// # Errors
    /// EIO for the terminal that is not there.
    pub fn read(self, kernel: &mut Kernel, buffer: &mut [u8]) -> Result<usize, Stop> {
        match self {
            Device::Null | Device::Console => return Ok(0),
            Device::Zero | Device::Full => buffer.fill(0),
            Device::Random | Device::UnlimitedRandom => kernel.process.fill_random(buffer),
            Device::Terminal => return Err(errno::EIO.into()),
        }
        Ok(buffer.len())
    }

    /// Puts bytes in.
    ///
    /// # Errors
    /// ENOSPC where it is full, EIO for the terminal that is not there.
    pub fn write(self, bytes: &[u8]) -> Result<usize, Stop> {
        match self {
            Device::Full => return Err(errno::ENOSPC.into()),
            Device::Terminal => return Err(errno::EIO.into()),
            // Each write is an exit, so that a text goes as a whole.
            Device::Console => bytes.chunks(CONSOLE_BYTES_MAX).for_each(sdk::hypercall::puts),
            _ => {}
        }
        Ok(bytes.len())
    }

    /// What ioctl says that it does not know the request.
    pub fn unknown_request(self) -> Errno {
        match self {
            Device::Random | Device::UnlimitedRandom => errno::EINVAL,
            _ => errno::ENOTTY,
        }
    }

    /// Moves the place, which stays where it is.
    ///
    /// # Errors
    /// ESPIPE where there is none, EINVAL.
    pub fn seek(self, whence: u32) -> Result<u64, Errno> {
        match whence {
            _ if !self.has_places() => Err(errno::ESPIPE),
            SEEK_SET | SEEK_CUR | SEEK_END => Ok(0),
            _ => Err(errno::EINVAL),
        }
    }
}

/// Opens the console as the lowest free descriptor.
///
/// # Errors
/// EMFILE, ENOMEM.
pub fn open_console(kernel: &mut Kernel) -> Result<i32, Errno> {
    let root = kernel.files.tree.root();
    let walk = kernel.files.walk(root, "/dev/console", Last::Follow)?;
    kernel.open_node(walk.node()?, Some(&walk), O_RDWR)
}
