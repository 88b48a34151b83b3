//! Waiting: the only place where a guest gives the processor up.

use crate::hypercall;

/// The longest wait, so that a guest shows up in its host's log now and then, in nanoseconds.
const WAIT_NANOSECONDS_MAX: u64 = 10_000_000_000;

/// Waits until a network device is readable or the timeout in nanoseconds is over (None: no timeout of its own). Returns
/// whether a device is readable.
pub fn wait(timeout_nanoseconds: Option<u64>) -> bool {
    hypercall::poll(timeout_nanoseconds.unwrap_or(WAIT_NANOSECONDS_MAX).min(WAIT_NANOSECONDS_MAX)) != 0
}
