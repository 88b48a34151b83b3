//! Interrupting a vCPU from another thread, or from a signal handler, without losing a kick to a race.
//!
//! A signal alone would be lost between the last look at a flag and KVM_RUN. So the handler, which runs on the vCPU's
//! own thread, sets `immediate_exit` in the structure that KVM_RUN looks at first. A signal that comes too late, as the
//! guest has left by itself, is taken before the thread does anything else: no other system call of it is interrupted.

use std::cell::Cell;
use std::ptr;
use std::sync::{Arc, Once};

use crate::lock::Mutex;

thread_local! {
    /// `kvm_run.immediate_exit` of the vCPU that this thread is running.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
    /// A signal came to this thread while it was not in the guest: it must not enter it again before it has heard.
    static LEAVE_REQUESTED: Cell<bool> = const { Cell::new(false) };
}

/// Makes the vCPU of the calling thread, if any, leave the guest at once; may be called from a signal handler.
pub fn leave_guest_from_signal_handler() {
    let immediate_exit = IMMEDIATE_EXIT.with(Cell::get);
    if immediate_exit.is_null() {
        LEAVE_REQUESTED.with(|cell| cell.set(true));
    } else {
        // SAFETY: the pointer is set by `Running::begin` while the vCPU's mapping is alive, and cleared when it ends;
        // this thread is the one that set it, and a single byte is written.
        unsafe { immediate_exit.write_volatile(1) };
    }
}

extern "C" fn on_kick(_signal: libc::c_int) {
    leave_guest_from_signal_handler();
}

fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

/// Makes a `run` in another thread return [`super::MachineError::Interrupted`].
#[derive(Clone, Default)]
pub struct Kicker {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    kicked: bool,
    runner: Option<libc::pthread_t>,
    /// The runner has been sent a signal.
    is_signalled: bool,
    /// How often the guest has left by itself.
    exits: u64,
}

impl State {
    fn signal_runner(&mut self) {
        if let Some(runner) = self.runner {
            self.is_signalled = true;
            // SAFETY: the runner clears this field, under the same lock, before it can end.
            unsafe { libc::pthread_kill(runner, kick_signal()) };
        }
    }
}

impl Kicker {
    pub(super) fn new() -> Kicker {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(|| {
            // SAFETY: a zeroed sigaction is valid; the handler only does what is async-signal-safe. Without
            // SA_RESTART, so that KVM_RUN and system calls of the thread return EINTR.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_kick as *const () as usize;
                libc::sigemptyset(&mut action.sa_mask);
                libc::sigaction(kick_signal(), &action, ptr::null_mut());
            }
        });
        Kicker::default()
    }

    /// Interrupts the current `run`, or else the next.
    pub fn kick(&self) {
        let mut state = self.state.lock();
        state.kicked = true;
        state.signal_runner();
    }

    /// Interrupts the guest where it has not left by itself since this returned `seen`. Returns how often it had left
    /// when it was entered; `None` where it is not in there now.
    pub(super) fn kick_if_still(&self, seen: Option<u64>) -> Option<u64> {
        let mut state = self.state.lock();
        let exits = state.runner.map(|_| state.exits)?;
        if seen == Some(exits) {
            state.signal_runner();
        }
        Some(exits)
    }

    /// Marks the calling thread as the one that runs the vCPU; `None` where a kick came before.
    pub(super) fn begin(&self, immediate_exit: *mut u8) -> Option<Running<'_>> {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.kicked) {
            return None;
        }
        // SAFETY: always succeeds, and has no preconditions.
        state.runner = Some(unsafe { libc::pthread_self() });
        drop(state);
        IMMEDIATE_EXIT.with(|cell| cell.set(immediate_exit));
        let running = Running { kicker: self, is_interrupted: false };
        // After the pointer is set: a signal from here on finds it, one from before has left its mark.
        if LEAVE_REQUESTED.with(|cell| cell.replace(false)) {
            running.was_interrupted();
            return None;
        }
        Some(running)
    }
}

/// As long as this lives, a kick interrupts the thread.
pub(super) struct Running<'a> {
    kicker: &'a Kicker,
    is_interrupted: bool,
}

impl Running<'_> {
    /// The guest was left because of a kick, which is thereby used up.
    pub fn was_interrupted(mut self) {
        self.is_interrupted = true;
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.kicker.state.lock();
        state.runner = None;
        if self.is_interrupted {
            state.kicked = false;
        } else {
            state.exits += 1;
        }
        let is_signalled = std::mem::take(&mut state.is_signalled);
        drop(state);
        if is_signalled {
            // SAFETY: no preconditions. Whoever sent the signal held the lock, so that it is here by now: the thread
            // takes it on its way back from any system call.
            unsafe { libc::sched_yield() };
        }
        IMMEDIATE_EXIT.with(|cell| cell.set(ptr::null_mut()));
    }
}
