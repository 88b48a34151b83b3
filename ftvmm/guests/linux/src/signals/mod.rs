//! Signals: what is pending for the process and for each thread, who blocks what, and which thread takes a signal.
//!
//! A signal is delivered where a thread returns from a system call, and ends the waits of threads that take it
//! ([`delivery`]). As in Linux, one for the process as a whole goes to the first thread where that does not block it, else
//! to another one that does not; a thread that unblocks it takes it as well.

mod actions;
mod calls;
mod delivery;
mod frame;
mod queue;

pub use queue::QUEUED_MAX;
mod sets;
pub mod timer;

use linux_raw_sys::general::{SIGALRM, SIGCONT};

pub use actions::{Action, Disposition};
pub use calls::{
    alarm, getitimer, kill, pause, rt_sigaction, rt_sigpending, rt_sigprocmask, rt_sigqueueinfo, rt_sigsuspend,
    rt_sigtimedwait, rt_tgsigqueueinfo, set_of_program, setitimer, sigaltstack, tgkill, tkill,
};
pub use frame::{AlternateStack, rt_sigreturn};
pub use queue::Information;
pub use sets::SignalSet;

use crate::kernel::Kernel;
use crate::readiness::{Activity, Arrivals};
use crate::system_calls::{Errno, errno};
use crate::threads::Thread;
use actions::Actions;
use delivery::Interrupted;
use queue::{Full, Queue};
use timer::Timer;

impl From<Full> for Errno {
    fn from(_: Full) -> Errno {
        errno::EAGAIN
    }
}

/// What belongs to the process.
#[derive(Default)]
pub struct Signals {
    actions: Actions,
    queue: Queue,
    /// ITIMER_REAL
    alarm: Timer,
    /// when signals have been queued
    arrivals: Arrivals,
    /// nothing is pending anywhere, and nobody has to look, while this is false
    may_be_pending: bool,
    /// the signal that ends the process as soon as no handler runs
    fatal: Option<u32>,
    has_told_of_stop: bool,
}

impl Signals {
    /// When the first timer expires, in nanoseconds.
    pub fn first_deadline(&self) -> Option<u64> {
        self.alarm.next
    }

    /// When signals have been queued.
    pub fn activity(&self) -> Activity {
        self.arrivals.activity()
    }
}

/// What belongs to a thread.
#[derive(Clone, Debug, Default)]
pub struct ThreadSignals {
    /// those that are blocked
    mask: SignalSet,
    /// the mask to be restored behind a call that has set another one for its duration
    saved_mask: Option<SignalSet>,
    /// those that rt_sigtimedwait waits for: they are not delivered meanwhile
    awaited: SignalSet,
    queue: Queue,
    /// one for the process is to be taken by this thread
    takes_for_process: bool,
    alternate: AlternateStack,
    /// its last call was ended by a signal, and no handler has run since
    interrupted: Option<Interrupted>,
}

impl ThreadSignals {
    /// What a new thread has: the mask of the one that starts it.
    pub fn for_new_thread(&self) -> ThreadSignals {
        ThreadSignals { mask: self.mask, ..ThreadSignals::default() }
    }

    /// Whether a signal would be kept even though the process ignores it: what is done for it may change until the
    /// thread takes it.
    fn keeps(&self, signal: u32) -> bool {
        self.mask.with(self.awaited).contains(signal)
    }

    /// Whether the thread can take a signal now.
    fn can_take(&self, signal: u32) -> bool {
        !self.mask.without(self.awaited).contains(signal)
    }

    /// Those that are to be delivered to the thread, of those that are pending for the process and for itself.
    fn deliverable(&self, for_process: SignalSet) -> SignalSet {
        let all = if self.takes_for_process { for_process.with(self.queue.set()) } else { self.queue.set() };
        all.without(self.mask).without(self.awaited)
    }

    /// Whether a return from a call has nothing to do but to look for signals.
    fn is_settled(&self) -> bool {
        self.saved_mask.is_none() && self.interrupted.is_none()
    }

    /// Sets the mask; a signal for the process that it lets through is the thread's to take.
    fn set_mask(&mut self, mask: SignalSet, for_process: SignalSet) {
        self.mask = mask.without(SignalSet::UNBLOCKABLE);
        self.takes_for_process |= !for_process.without(self.mask).is_empty();
    }
}

impl Kernel {
    /// Sends the running thread a signal, as for what it does itself: SIGPIPE.
    pub fn signal_current(&mut self, signal: u32) {
        let tid = self.threads.current().tid;
        // Only real-time signals can find a queue full.
        let _ = self.send_to_thread(tid, Information::by_program(signal, false));
    }

    /// Sends the process a signal, from the kernel.
    pub fn signal_process(&mut self, signal: u32) {
        // As above.
        let _ = self.send_to_process(None, Information::by_kernel(signal));
    }

    /// Raises SIGALRM where its time has come.
    pub fn expire_timers(&mut self, now: u64) {
        if self.signals.alarm.expire(now) > 0 {
            self.signal_process(SIGALRM);
        }
    }

    /// Sends the process a signal; a thread may be preferred to take it.
    fn send_to_process(&mut self, preferred: Option<i32>, information: Information) -> Result<(), Errno> {
        let signal = information.signal();
        self.discard_opposites(signal);
        let first = self.threads.iter().find(|thread| Some(thread.tid) == preferred).or(self.threads.iter().next());
        let Some(first) = first else { return Ok(()) };
        let is_ignored = self.signals.actions.disposition(signal) == Disposition::Ignore;
        if is_ignored && !first.signals.keeps(signal) {
            return Ok(());
        }
        let first = first.tid;
        self.signals.queue.add(information)?;
        self.give(first, signal);
        self.note_arrival();
        Ok(())
    }

    /// Sends one thread a signal.
    fn send_to_thread(&mut self, tid: i32, information: Information) -> Result<(), Errno> {
        let signal = information.signal();
        self.discard_opposites(signal);
        let disposition = self.signals.actions.disposition(signal);
        let Some(thread) = self.threads.iter_mut().find(|thread| thread.tid == tid) else { return Ok(()) };
        if disposition == Disposition::Ignore && !thread.signals.keeps(signal) {
            return Ok(());
        }
        thread.signals.queue.add(information)?;
        if disposition == Disposition::End && !thread.signals.keeps(signal) {
            self.signals.fatal.get_or_insert(signal);
        }
        self.note_arrival();
        Ok(())
    }

    fn note_arrival(&mut self) {
        self.signals.arrivals.note(false);
        self.signals.may_be_pending = true;
        // Somebody may read it from a signalfd or wait for it.
        self.change();
    }

    /// Lets a thread take a pending signal of the process: that one where it can, else the first that can. A signal that
    /// ends the process does so at once, whoever takes it.
    fn give(&mut self, preferred: i32, signal: u32) {
        let can_take = |thread: &&mut Thread| thread.signals.can_take(signal);
        let found = self.threads.iter_mut().find(|thread| thread.tid == preferred && thread.signals.can_take(signal));
        let found = match found {
            Some(found) => Some(found),
            None => self.threads.iter_mut().find(can_take),
        };
        if let Some(thread) = found {
            let is_awaited = thread.signals.awaited.contains(signal);
            thread.signals.takes_for_process |= !is_awaited;
            if self.signals.actions.disposition(signal) == Disposition::End && !is_awaited {
                self.signals.fatal.get_or_insert(signal);
            }
        }
    }

    /// SIGCONT takes back what stops, and the other way round: signal(7).
    fn discard_opposites(&mut self, signal: u32) {
        let opposites = match signal {
            SIGCONT => SignalSet::STOPPING,
            _ if SignalSet::STOPPING.contains(signal) => SignalSet::only(SIGCONT),
            _ => return,
        };
        self.discard_pending(opposites);
    }

    /// Forgets these signals wherever they are pending.
    fn discard_pending(&mut self, unwanted: SignalSet) {
        self.signals.queue.discard(unwanted);
        for thread in self.threads.iter_mut() {
            thread.signals.queue.discard(unwanted);
        }
    }

    /// Those that are pending for the running thread, blocked or not.
    pub fn pending_signals(&self) -> SignalSet {
        self.signals.queue.set().with(self.threads.current().signals.queue.set())
    }

    /// Takes the first of these signals that is pending for the running thread: its own before those of the process.
    pub fn take_signal(&mut self, wanted: SignalSet) -> Option<Information> {
        let thread = &mut self.threads.current_mut().signals;
        thread.queue.take(wanted).or_else(|| self.signals.queue.take(wanted))
    }

    /// Whether a signal would end a wait of the running thread.
    pub fn is_interrupted(&self) -> bool {
        self.signals.may_be_pending && self.signals.interrupts(&self.threads.current().signals)
    }

    fn set_mask(&mut self, mask: SignalSet) {
        self.threads.current_mut().signals.set_mask(mask, self.signals.queue.set());
    }

    /// Sets the running thread's mask for the duration of its call, which may run several times.
    pub fn set_mask_for_call(&mut self, mask: SignalSet) {
        let thread = &mut self.threads.current_mut().signals;
        thread.saved_mask.get_or_insert(thread.mask);
        self.set_mask(mask);
    }

    /// Restores the mask behind such a call. Where a signal has ended it, that is left to the delivery: the handler runs
    /// with the call's mask.
    pub fn restore_mask(&mut self) {
        if let Some(mask) = self.threads.current_mut().signals.saved_mask.take() {
            self.set_mask(mask);
        }
    }
}

#[cfg(test)]
mod tests {
    use linux_raw_sys::general::{SIGKILL, SIGTERM, SIGUSR1, SIGUSR2};

    use super::*;

    #[test]
    fn a_new_thread_has_the_mask_and_nothing_else() {
        let mut parent = ThreadSignals::default();
        parent.set_mask(SignalSet::of(&[SIGUSR1, SIGKILL]), SignalSet::EMPTY);
        let _ = parent.queue.add(Information::by_kernel(SIGUSR1));
        let child = parent.for_new_thread();
        assert_eq!(child.mask, SignalSet::only(SIGUSR1));
        assert!(child.queue.set().is_empty());
    }

    #[test]
    fn what_is_blocked_is_delivered_once_it_is_not() {
        let mut thread = ThreadSignals::default();
        thread.set_mask(SignalSet::only(SIGUSR1), SignalSet::EMPTY);
        let _ = thread.queue.add(Information::by_kernel(SIGUSR1));
        let for_process = SignalSet::of(&[SIGUSR1, SIGUSR2]);
        assert_eq!(thread.deliverable(for_process), SignalSet::EMPTY);
        assert!(thread.keeps(SIGUSR1) && !thread.can_take(SIGUSR1));
        thread.set_mask(SignalSet::EMPTY, SignalSet::EMPTY);
        assert_eq!(thread.deliverable(for_process), SignalSet::only(SIGUSR1));
        thread.set_mask(SignalSet::EMPTY, for_process);
        assert_eq!(thread.deliverable(for_process), for_process);
    }

    #[test]
    fn what_is_awaited_goes_to_the_thread_but_not_to_its_handler() {
        let awaited = SignalSet::only(SIGTERM);
        let thread = ThreadSignals { mask: awaited, awaited, takes_for_process: true, ..ThreadSignals::default() };
        assert!(thread.can_take(SIGTERM) && thread.keeps(SIGTERM));
        assert_eq!(thread.deliverable(awaited), SignalSet::EMPTY);
    }
}
