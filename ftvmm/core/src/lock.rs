//! Locks between a thread that the peer waits for and one of ordinary priority.
//!
//! Who holds such a lock runs at the priority of whoever waits for it (priority inheritance, FUTEX_LOCK_PI in futex(2)).
//! Without that the guest's thread, which every other program on the host may keep from running, keeps the node's
//! thread from running as well. `parking_lot` even hands a lock over to a thread that sleeps, so as to be fair: the
//! thread that steps the protocol of a healthy backup was seen to wait 77 ms for a lock that nobody was using.
//!
//! The mutex is `priority-inheriting-lock`, which has no condition variable; that is here.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use linux_futex::{Futex, Private};
use priority_inheriting_lock::{PriorityInheritingLock, PriorityInheritingLockGuard};

/// A lock whose holder inherits the priority of those who wait.
pub type Mutex<T> = PriorityInheritingLock<T>;
/// What shows that the calling thread holds a [`Mutex`].
pub type MutexGuard<'a, T> = PriorityInheritingLockGuard<'a, T>;

/// Wakes threads that wait for a change of what a [`Mutex`] guards. May wake them for nothing: they look, and wait again.
pub struct Condvar {
    /// How many changes there were, modulo 2^32: a thread sleeps only while none has come since it looked.
    changes: Futex<Private>,
    waiting: AtomicU32,
}

impl Default for Condvar {
    fn default() -> Condvar {
        Condvar::new()
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Condvar").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

impl Condvar {
    /// One that nobody waits for.
    pub const fn new() -> Condvar {
        Condvar { changes: Futex::new(0), waiting: AtomicU32::new(0) }
    }

    /// Lets go of the lock until a change comes.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        self.sleep(guard, |changes| {
            // Each way that this can fail is a reason to look again.
            let _ = self.changes.wait(changes);
        });
    }

    /// The same, until `until` at the longest. Returns whether it has come.
    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, until: Instant) -> bool {
        self.sleep(guard, |changes| {
            let _ = self.changes.wait_for(changes, until.saturating_duration_since(Instant::now()));
        });
        Instant::now() >= until
    }

    fn sleep<T>(&self, guard: &mut MutexGuard<'_, T>, sleep: impl FnOnce(u32)) {
        // Under the lock: whoever makes a change after this sees that somebody waits, and this one that there was a change.
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let changes = self.changes.value.load(Ordering::SeqCst);
        MutexGuard::unlocked(guard, || sleep(changes));
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// Wakes everybody who waits. The change is made before, under the lock.
    pub fn notify_all(&self) {
        self.changes.value.fetch_add(1, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.changes.wake(i32::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// The kernel's priority of the calling thread: below 0 under a real-time policy (stat, proc(5)).
    fn own_priority() -> i64 {
        let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
        stat.rsplit(')').next().unwrap().split_whitespace().nth(15).unwrap().parse().unwrap()
    }

    /// Whether this thread runs under SCHED_RR from now on.
    fn hurry() -> bool {
        let parameters = libc::sched_param { sched_priority: 10 };
        // SAFETY: `parameters` is valid for the call; thread 0 is the calling one.
        unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &parameters) == 0 }
    }

    #[test]
    fn a_holder_has_the_priority_of_an_urgent_thread_that_waits() {
        let lock = Arc::new(Mutex::new(()));
        let held = lock.lock();
        assert!(own_priority() >= 0);
        let (said, is_urgent) = channel();
        let urgent = {
            let lock = lock.clone();
            thread::spawn(move || {
                said.send(hurry()).unwrap();
                drop(lock.lock());
            })
        };
        if is_urgent.recv().unwrap() {
            let give_up = Instant::now() + Duration::from_secs(60);
            while own_priority() >= 0 {
                assert!(Instant::now() < give_up, "the holder's priority is what it was");
                thread::yield_now();
            }
        }
        drop(held);
        urgent.join().unwrap();
        assert!(own_priority() >= 0);
    }

    #[test]
    fn no_change_is_slept_through() {
        let shared = Arc::new((Mutex::new(0_u32), Condvar::new()));
        let threads: Vec<_> = (0..4)
            .map(|own| {
                let shared = shared.clone();
                thread::spawn(move || {
                    let (count, changed) = &*shared;
                    let mut count = count.lock();
                    for _ in 0..1000 {
                        while *count % 4 != own {
                            changed.wait(&mut count);
                        }
                        *count += 1;
                        changed.notify_all();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|each| each.join().unwrap());
        assert_eq!(*shared.0.lock(), 4000);
    }

    #[test]
    fn a_wait_ends_when_its_time_has_come() {
        let (lock, changed) = (Mutex::new(()), Condvar::new());
        let mut held = lock.lock();
        while !changed.wait_until(&mut held, Instant::now() + Duration::from_millis(1)) {}
        let later = Instant::now() + Duration::from_secs(3600);
        thread::scope(|scope| {
            scope.spawn(|| {
                drop(lock.lock());
                changed.notify_all();
            });
            assert!(!changed.wait_until(&mut held, later));
        });
    }
}
