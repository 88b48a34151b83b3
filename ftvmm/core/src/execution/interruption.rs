//! Ctrl-C and SIGTERM while a VM runs: leave the guest, wake a waiting POLL, and end cleanly.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use crate::machine::leave_guest_from_signal_handler;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static WAKE: AtomicI32 = AtomicI32::new(-1);
const SIGNALS: [libc::c_int; 2] = [libc::SIGINT, libc::SIGTERM];

extern "C" fn on_signal(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::SeqCst);
    leave_guest_from_signal_handler();
    let one = 1_u64.to_ne_bytes();
    // SAFETY: write is async-signal-safe; the descriptor is open as long as the handler is installed.
    unsafe { libc::write(WAKE.load(Ordering::SeqCst), one.as_ptr().cast(), one.len()) };
}

/// The handlers, in place as long as this lives; one at a time in a process.
pub struct Interruption {
    wake: OwnedFd,
    previous: Vec<(libc::c_int, libc::sigaction)>,
}

impl Interruption {
    /// Takes SIGINT and SIGTERM over.
    pub fn install() -> io::Result<Interruption> {
        // SAFETY: no preconditions; the result is checked.
        let descriptor = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let wake = unsafe { OwnedFd::from_raw_fd(descriptor) };
        INTERRUPTED.store(false, Ordering::SeqCst);
        WAKE.store(wake.as_raw_fd(), Ordering::SeqCst);
        let mut previous = Vec::new();
        for signal in SIGNALS {
            // SAFETY: zeroed sigactions are valid; the handler does only what is async-signal-safe.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                let mut old: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_signal as *const () as usize;
                libc::sigemptyset(&mut action.sa_mask);
                if libc::sigaction(signal, &action, &mut old) == 0 {
                    previous.push((signal, old));
                }
            }
        }
        Ok(Interruption { wake, previous })
    }

    /// Whether one of the signals has come.
    pub fn is_interrupted(&self) -> bool {
        INTERRUPTED.load(Ordering::SeqCst)
    }

    /// Readable once one of the signals has come.
    pub fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl Drop for Interruption {
    fn drop(&mut self) {
        for (signal, action) in &self.previous {
            // SAFETY: this is what was installed before.
            unsafe { libc::sigaction(*signal, action, std::ptr::null_mut()) };
        }
        WAKE.store(-1, Ordering::SeqCst);
    }
}
