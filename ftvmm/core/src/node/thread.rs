//! Threads of a node.

use std::thread;
use std::time::{Duration, Instant};

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

/// Makes the calling thread one that the peer waits for, or one of ordinary priority.
fn set_urgent(urgent: bool) {
    let (policy, sched_priority) = if urgent { (libc::SCHED_RR, URGENT_PRIORITY) } else { (libc::SCHED_OTHER, 0) };
    let parameters = libc::sched_param { sched_priority };
    // SAFETY: `parameters` is valid for the call; thread 0 is the calling one. Without the right to real-time
    // scheduling the thread runs at ordinary priority: slower to answer, never wrong.
    unsafe { libc::sched_setscheduler(0, policy, &parameters) };
}

/// Starts a thread that the peer waits for. Of its time it may be urgent for this share at most, in thousandths.
pub fn urgent(name: &str, share: u32, work: impl FnOnce(&mut Urgency) + Send + 'static) {
    start(name, move || {
        set_urgent(true);
        work(&mut Urgency::new(share));
    });
}

/// Within so much time an urgent thread runs for no more than its share, or goes on at ordinary priority until it is over.
const WINDOW: Duration = Duration::from_millis(100);
/// A look at what was used is a system call: not at each turn.
const LOOK: Duration = Duration::from_millis(2);

/// Keeps the kernel's throttling of real-time threads out of reach. Where they run for 95 % of a second on a processor (sched(7),
/// `sched_rt_runtime_us`) none of them runs for the rest of it, 50 ms: half a lease. The shares of one node's threads together stay well below.
#[derive(Debug)]
pub struct Urgency {
    share: Duration,
    is_urgent: bool,
    window_began: Instant,
    used_before: Duration,
    /// `None`: it has rested since.
    looked_at: Option<Instant>,
}

impl Urgency {
    fn new(share: u32) -> Urgency {
        let now = Instant::now();
        let share = WINDOW * share / 1000;
        Urgency { share, is_urgent: true, window_began: now, used_before: processor_time(), looked_at: None }
    }

    /// The thread is about to wait: that costs nothing, and it wakes as an urgent one, to `look` first of all.
    pub fn rest(&mut self) {
        if !std::mem::replace(&mut self.is_urgent, true) {
            set_urgent(true);
            self.looked_at = None;
        }
    }

    /// To be called by the thread itself, often.
    pub fn look(&mut self) {
        let now = Instant::now();
        if self.looked_at.is_some_and(|at| now.duration_since(at) < LOOK) {
            return;
        }
        self.looked_at = Some(now);
        let used = processor_time();
        if now.duration_since(self.window_began) >= WINDOW {
            (self.window_began, self.used_before) = (now, used);
        }
        let is_urgent = used.saturating_sub(self.used_before) < self.share;
        if std::mem::replace(&mut self.is_urgent, is_urgent) != is_urgent {
            set_urgent(is_urgent);
        }
    }
}

/// What the calling thread has used of the processors.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, writable timespec for the duration of the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_thread_that_never_rests_is_urgent_for_its_share_alone() {
        let (told, shares) = channel();
        urgent("busy", 500, move |urgency| {
            // SAFETY: asks for the calling thread's policy, with no memory involved.
            let policy = || unsafe { libc::sched_getscheduler(0) };
            if policy() != libc::SCHED_RR {
                return;
            }
            let (began, mut urgent_for, mut last) = (Instant::now(), Duration::ZERO, processor_time());
            while began.elapsed() < 10 * WINDOW {
                urgency.look();
                let now = processor_time();
                urgent_for += if policy() == libc::SCHED_RR { now - last } else { Duration::ZERO };
                last = now;
            }
            let _ = told.send(urgent_for.as_secs_f64() / began.elapsed().as_secs_f64());
        });
        // Without the right to real-time scheduling there is nothing to see.
        let share = shares.recv().unwrap_or(0.5);
        // Of the time that went by, whatever else wants the processor: a look comes 2 ms late at most.
        assert!((0.1..0.6).contains(&share), "{share}");
    }
}
