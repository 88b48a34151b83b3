//! Waiting until a network device is readable: POLL, with a timeout in nanoseconds.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// One bit for each readable descriptor of those asked for; 0 where the time was over.
    Ready { set: u64 },
    /// A signal came, or `wake` became readable.
    Interrupted,
}

/// Waits until one of the descriptors, each with the bit that stands for it, is readable, or the time is over.
pub fn wait(
    descriptors: &[(u8, BorrowedFd<'_>)],
    wake: Option<BorrowedFd<'_>>,
    timeout_nanoseconds: u64,
) -> io::Result<Readiness> {
    let entry =
        |descriptor: &BorrowedFd<'_>| libc::pollfd { fd: descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut entries: Vec<libc::pollfd> =
        descriptors.iter().map(|(_, descriptor)| entry(descriptor)).chain(wake.iter().map(entry)).collect();
    let seconds = timeout_nanoseconds / 1_000_000_000;
    let timeout = libc::timespec {
        tv_sec: seconds.min(i64::MAX as u64) as i64,
        tv_nsec: (timeout_nanoseconds % 1_000_000_000) as i64,
    };
    // SAFETY: the entries are a valid array of that length, the timeout outlives the call, no mask is given.
    let count = unsafe { libc::ppoll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, &timeout, std::ptr::null()) };
    if count < 0 {
        let error = io::Error::last_os_error();
        return match error.kind() {
            io::ErrorKind::Interrupted => Ok(Readiness::Interrupted),
            _ => Err(error),
        };
    }
    if entries.len() > descriptors.len() && entries[descriptors.len()].revents != 0 {
        return Ok(Readiness::Interrupted);
    }
    let ready = descriptors.iter().zip(&entries).filter(|(_, entry)| entry.revents & libc::POLLIN != 0);
    Ok(Readiness::Ready { set: ready.fold(0, |set, ((bit, _), _)| set | 1 << bit) })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn tells_what_is_readable_and_what_is_not() {
        let (quiet, _other) = UnixStream::pair().unwrap();
        let (ready, mut sender) = UnixStream::pair().unwrap();
        sender.write_all(b"x").unwrap();
        let descriptors = [(1, quiet.as_fd()), (5, ready.as_fd())];
        assert_eq!(wait(&descriptors, None, u64::MAX).unwrap(), Readiness::Ready { set: 1 << 5 });
        assert_eq!(wait(&descriptors[..1], None, 1).unwrap(), Readiness::Ready { set: 0 });
        assert_eq!(wait(&descriptors[..1], Some(ready.as_fd()), u64::MAX).unwrap(), Readiness::Interrupted);
    }
}
