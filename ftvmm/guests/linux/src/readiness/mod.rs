//! Waiting until one of many files is ready: epoll, poll and select.
//!
//! Nobody tells these calls what has become ready: they ask the files ([`crate::files::Object::ready`]) again whenever
//! something has changed.

mod arrivals;
mod epoll;
mod poll;
mod select;

use linux_raw_sys::general::{
    __NR_ppoll as PPOLL, __NR_pselect6 as PSELECT6, __NR_select as SELECT, EPOLLIN, EPOLLOUT, EPOLLRDNORM, EPOLLWRNORM,
    O_PATH,
};

pub use arrivals::{Activity, Arrivals};
pub use epoll::{epoll_create, epoll_create1, epoll_ctl, epoll_pwait, epoll_pwait2, epoll_wait};
pub use poll::{poll, ppoll};
pub use select::{pselect6, select};

use crate::clock::{timespec, timeval};
use crate::events;
use crate::files::{Object, OpenFile};
use crate::kernel::Kernel;
use crate::memory::Memory;
use crate::signals::{SignalSet, set_of_program};
use crate::system_calls::{Call, Errno, Outcome, Stop, errno};

const MILLISECOND_NANOSECONDS: u64 = 1_000_000;

/// What a descriptor stands for, where it can be asked whether it is ready.
///
/// # Errors
/// EBADF, also for O_PATH.
fn open_file(kernel: &Kernel, descriptor: i32) -> Result<&OpenFile, Errno> {
    let file = &kernel.files.descriptor(descriptor)?.file;
    if file.flags.get() & O_PATH != 0 { Err(errno::EBADF) } else { Ok(file) }
}

/// What can be done with a file without waiting, of those events that are wanted.
fn ready(kernel: &Kernel, object: &dyn Object, wanted: u32) -> u32 {
    let mut ready = object.ready(kernel);
    // All files but those that count events have these as well.
    if wanted & (EPOLLRDNORM | EPOLLWRNORM) != 0 && !events::counts_events(object) {
        for (event, other) in [(EPOLLIN, EPOLLRDNORM), (EPOLLOUT, EPOLLWRNORM)] {
            ready |= if ready & event != 0 { other } else { 0 };
        }
    }
    ready & wanted
}

/// The earlier of two times, where there are any.
fn earlier(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

/// A timeout in milliseconds, where a negative one is none.
fn milliseconds(timeout: i32) -> Option<u64> {
    u64::try_from(timeout).ok().map(|milliseconds| milliseconds * MILLISECOND_NANOSECONDS)
}

/// Nothing is ready: the call ends with 0 where its timeout (nanoseconds from its start) is over, else it waits. `next` is
/// when a file becomes ready by itself.
fn nothing(kernel: &mut Kernel, timeout: Option<u64>, next: Option<u64>) -> Outcome {
    if timeout == Some(0) {
        kernel.in_vain();
        return Ok(0);
    }
    let now = kernel.clock.now();
    let pending = &mut kernel.threads.current_mut().pending;
    let deadline = timeout.map(|time| *pending.deadline.get_or_insert(now.saturating_add(time)));
    match deadline {
        Some(deadline) if deadline <= now => Ok(0),
        _ => Err(Stop::wait(earlier(deadline, next))),
    }
}

/// The same for poll and select, which a signal ends also where they do not wait.
fn nothing_or_signal(kernel: &mut Kernel, timeout: Option<u64>, next: Option<u64>) -> Outcome {
    match nothing(kernel, timeout, next) {
        Ok(0) if kernel.is_interrupted() => Err(errno::EINTR.into()),
        other => other,
    }
}

/// The mask that a call has for its duration; none where the pointer is null.
///
/// # Errors
/// EINVAL for a set of another size, EFAULT.
fn mask_for_call(kernel: &Kernel, address: u64, bytes: u64) -> Result<Option<SignalSet>, Errno> {
    if address == 0 { Ok(None) } else { set_of_program(kernel, address, bytes).map(Some) }
}

/// Does a call's work under such a mask.
fn with_mask(kernel: &mut Kernel, mask: Option<SignalSet>, work: impl FnOnce(&mut Kernel) -> Outcome) -> Outcome {
    let Some(mask) = mask else { return work(kernel) };
    kernel.set_mask_for_call(mask);
    let outcome = work(kernel);
    let is_over = !matches!(outcome, Err(Stop::Wait(_) | Stop::Error(errno::EINTR)));
    if is_over {
        kernel.restore_mask();
    }
    outcome
}

/// Tells the program what is left of its timeout once the call is over, as Linux does for select and ppoll.
fn with_rest_left(kernel: &mut Kernel, call: Call, outcome: Outcome) -> Outcome {
    if !matches!(outcome, Err(Stop::Wait(_))) {
        let deadline = kernel.threads.current().pending.deadline;
        let rest = deadline.map(|deadline| deadline.saturating_sub(kernel.clock.now()));
        leave_remaining(&kernel.memory, call, rest);
    }
    outcome
}

/// Writes what is left of a call's timeout, in nanoseconds, where the call is one that tells. Memory that cannot be written
/// is no error.
pub fn leave_remaining(memory: &Memory, call: Call, rest: Option<u64>) {
    let Some(rest) = rest else { return };
    let _ = match u32::try_from(call.number) {
        Ok(SELECT) => memory.put_if_wanted(call.word(4), timeval(rest)),
        Ok(PSELECT6) => memory.put_if_wanted(call.word(4), timespec(rest)),
        Ok(PPOLL) => memory.put_if_wanted(call.word(2), timespec(rest)),
        _ => Ok(()),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_time_counts() {
        assert_eq!(earlier(None, None), None);
        assert_eq!(earlier(Some(2), None), Some(2));
        assert_eq!(earlier(Some(2), Some(1)), Some(1));
    }

    #[test]
    fn a_negative_timeout_is_none() {
        assert_eq!(milliseconds(-1), None);
        assert_eq!(milliseconds(0), Some(0));
        assert_eq!(milliseconds(i32::MAX), Some(2_147_483_647_000_000));
    }
}
