//! A network device on an existing TAP of the host. See `linux/if_tun.h`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

/// `TUNSETIFF`.
const SET_INTERFACE: libc::c_ulong = 0x4004_54ca;

/// An attached TAP; dropping it takes the carrier away.
#[derive(Debug)]
pub struct Tap {
    file: File,
}

impl Tap {
    /// Attaches to the TAP of this name, which has to exist: a typing error must not make a new one.
    ///
    /// # Errors
    /// The operating system's; `NotFound` where there is no such interface, `ResourceBusy` where someone else has it.
    pub fn open(name: &str) -> io::Result<Tap> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains('/') {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the name of a network interface"));
        }
        if !std::path::Path::new("/sys/class/net").join(name).exists() && !interface_exists(name) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "there is no such TAP: ip tuntap add NAME mode tap"));
        }
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
        // SAFETY: a zeroed ifreq is valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (target, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *target = byte as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: the descriptor is open, and the kernel reads and writes the ifreq within its size.
        if unsafe { libc::ioctl(file.as_raw_fd(), SET_INTERFACE, &mut request) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Tap { file })
    }

    /// Puts a frame on the wire.
    ///
    /// # Errors
    /// The operating system's: the frame did not leave.
    pub fn write(&self, frame: &[u8]) -> io::Result<()> {
        (&self.file).write(frame).map(|_| ())
    }

    /// The next frame, cut to the buffer; `None` when there is none now.
    ///
    /// # Errors
    /// The operating system's.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match (&self.file).read(buffer) {
            Ok(length) => Ok(Some(length)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Asks the kernel of this network namespace, which `/sys` may not show.
fn interface_exists(name: &str) -> bool {
    std::ffi::CString::new(name)
        // SAFETY: the string is terminated and lives through the call.
        .is_ok_and(|name| unsafe { libc::if_nametoindex(name.as_ptr()) } != 0)
}

/// Waits until one of the TAPs is readable, for at most so many nanoseconds. One bit a readable one, by its number.
pub fn wait_readable<'a>(taps: impl Iterator<Item = (u8, &'a Tap)>, timeout_nanoseconds: u64) -> u64 {
    let (numbers, mut descriptors): (Vec<u8>, Vec<libc::pollfd>) = taps
        .map(|(number, tap)| (number, libc::pollfd { fd: tap.file.as_raw_fd(), events: libc::POLLIN, revents: 0 }))
        .unzip();
    let timeout = libc::timespec {
        tv_sec: (timeout_nanoseconds / 1_000_000_000).min(i64::MAX as u64) as i64,
        tv_nsec: (timeout_nanoseconds % 1_000_000_000) as i64,
    };
    // SAFETY: the array is valid for its length, the timespec for the call; no signal mask is given.
    let ready = unsafe {
        libc::ppoll(descriptors.as_mut_ptr(), descriptors.len() as libc::nfds_t, &timeout, std::ptr::null())
    };
    if ready <= 0 {
        return 0;
    }
    let readable = numbers.iter().zip(&descriptors).filter(|(_, descriptor)| descriptor.revents & libc::POLLIN != 0);
    readable.fold(0, |set, (number, _)| set | 1 << number)
}
