//! Threads of a node.

use std::thread;

use crate::remark::{remark, wait_until_said};

/// Priority of the threads that a peer's failure detector waits for, on the SCHED_RR scale from 1 to 99: above every
/// ordinary thread, so that a busy guest cannot make its own node look dead.
const URGENT_PRIORITY: libc::c_int = 10;

/// A node that lost one of its threads cannot keep its promises, and must not look alive either: it ends at once, and
/// the peer sees it dead.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

/// Starts a thread that the peer waits for.
pub fn urgent(name: &str, work: impl FnOnce() + Send + 'static) {
    start(name, move || {
        let parameters = libc::sched_param { sched_priority: URGENT_PRIORITY };
        // SAFETY: `parameters` is valid for the call; thread 0 is the calling one. Without the right to real-time
        // scheduling the thread runs at ordinary priority: slower to answer, never wrong.
        unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &parameters) };
        work();
    });
}

/// Starts a thread of ordinary priority.
pub fn start(name: &str, work: impl FnOnce() + Send + 'static) {
    let guarded = move || {
        let _whole = AbortOnPanic;
        work();
    };
    if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(guarded) {
        // Without its threads a node cannot keep its promises: stopping is the safe answer.
        remark(format!("ftvmm: the thread {name} could not be started: {error}"));
        wait_until_said();
        std::process::abort();
    }
}
