//! Delivery: handlers start where a thread returns from a system call, and a wait ends for a signal that has one.

use linux_raw_sys::general::{
    __NR_accept, __NR_accept4, __NR_clock_nanosleep as CLOCK_NANOSLEEP, __NR_connect, __NR_fcntl, __NR_flock,
    __NR_futex, __NR_getrandom, __NR_ioctl, __NR_nanosleep as NANOSLEEP, __NR_open, __NR_openat, __NR_preadv2,
    __NR_pwritev2, __NR_read, __NR_readv, __NR_recvfrom, __NR_recvmmsg, __NR_recvmsg, __NR_sendfile, __NR_sendmmsg,
    __NR_sendmsg, __NR_sendto, __NR_write, __NR_writev, SA_RESETHAND, SIGSEGV, TIMER_ABSTIME,
};

use crate::clock::timespec;
use crate::kernel::Kernel;
use crate::memory::Memory;
use crate::readiness::leave_remaining;
use crate::signals::sets::Name;
use crate::signals::{Disposition, Information, SignalSet, Signals, ThreadSignals, frame};
use crate::system_calls::{Call, Errno, errno};
use crate::threads::{Pending, Thread};

/// What a shell adds to the signal that has ended a process.
const SIGNAL_EXIT_STATUS: i32 = 128;

/// A call that a signal has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted {
    /// the call's number
    pub number: u64,
    /// whether it starts again behind a handler with SA_RESTART
    pub restarts: bool,
}

/// Calls that start again behind a handler with SA_RESTART: signal(7).
const RESTARTING: [u32; 23] = [
    __NR_accept,
    __NR_accept4,
    __NR_connect,
    __NR_fcntl,
    __NR_flock,
    __NR_futex,
    __NR_getrandom,
    __NR_ioctl,
    __NR_open,
    __NR_openat,
    __NR_preadv2,
    __NR_pwritev2,
    __NR_read,
    __NR_readv,
    __NR_recvfrom,
    __NR_recvmmsg,
    __NR_recvmsg,
    __NR_sendfile,
    __NR_sendmmsg,
    __NR_sendmsg,
    __NR_sendto,
    __NR_write,
    __NR_writev,
];

/// Whether a call that was interrupted is one of these. None is that has a timeout, as it would start anew.
fn restarts(call: Call, pending: &Pending) -> bool {
    pending.deadline.is_none() && RESTARTING.iter().any(|number| u64::from(*number) == call.number)
}

/// What is left of a sleep that was interrupted goes to where the program wants it.
fn leave_rest_of_sleep(memory: &Memory, call: Call, rest: u64) -> Result<(), Errno> {
    match u32::try_from(call.number) {
        Ok(NANOSLEEP) => memory.put_if_wanted(call.word(1), timespec(rest)),
        Ok(CLOCK_NANOSLEEP) if call.unsigned(1) & TIMER_ABSTIME == 0 => {
            memory.put_if_wanted(call.word(3), timespec(rest))
        }
        _ => Ok(()),
    }
}

/// Ends the wait of a thread: with what its call has done so far, or EINTR.
fn interrupt(thread: &mut Thread, call: Call, memory: &Memory, now: u64) {
    let pending = core::mem::take(&mut thread.pending);
    let outcome = match pending.progress {
        0 => {
            let rest = pending.deadline.map(|deadline| deadline.saturating_sub(now));
            thread.signals.interrupted = Some(Interrupted { number: call.number, restarts: restarts(call, &pending) });
            leave_remaining(memory, call, rest);
            rest.map_or(Ok(()), |rest| leave_rest_of_sleep(memory, call, rest)).and(Err(errno::EINTR))
        }
        progress => Ok(progress as u64),
    };
    thread.frame.rax = outcome.unwrap_or_else(|Errno(number)| i64::from(number).wrapping_neg() as u64);
    thread.signals.awaited = SignalSet::EMPTY;
    thread.call = None;
    thread.wait = None;
}

impl Signals {
    /// Whether a signal for which something is done would end a wait of that thread.
    pub(super) fn interrupts(&self, thread: &ThreadSignals) -> bool {
        let matters = |signal| matches!(self.actions.disposition(signal), Disposition::Handle | Disposition::End);
        thread.deliverable(self.queue.set()).iter().any(matters)
    }
}

impl Kernel {
    /// Ends the waits of threads that take a signal. Called before another thread is chosen.
    pub fn interrupt_waits(&mut self) {
        if !self.signals.may_be_pending {
            return;
        }
        self.end_if_fatal();
        self.signals.may_be_pending = !self.signals.queue.set().is_empty()
            || self.threads.iter().any(|thread| !thread.signals.queue.set().is_empty());
        self.give_all();
        let Kernel { threads, signals, memory, clock, .. } = self;
        for thread in threads.iter_mut().filter(|thread| thread.wait.is_some()) {
            if let Some(call) = thread.call
                && signals.interrupts(&thread.signals)
            {
                interrupt(thread, call, memory, clock.now());
            }
        }
    }

    /// Signals for the process that no thread is to take: the thread that was has blocked them, or has ended.
    fn give_all(&mut self) {
        let is_taken = |kernel: &Kernel, signal| {
            let takes = |thread: &Thread| thread.signals.takes_for_process && thread.signals.can_take(signal);
            kernel.threads.iter().any(takes)
        };
        let first = self.threads.iter().next().map(|thread| thread.tid);
        for signal in self.signals.queue.set().iter() {
            if let Some(first) = first
                && !is_taken(self, signal)
            {
                self.give(first, signal);
            }
        }
    }

    /// Delivers the signals that the running thread takes, which is about to return to the program: its frame becomes
    /// that of the handler. A signal that ends the thread ends the process.
    pub fn deliver_signals(&mut self) {
        if !self.signals.may_be_pending && self.threads.current().signals.is_settled() {
            return;
        }
        self.end_if_fatal();
        loop {
            while let Some(information) = self.take_deliverable() {
                self.act_on(information);
            }
            let Kernel { threads, memory, .. } = self;
            let thread = threads.current_mut();
            if let Some(interrupted) = thread.signals.interrupted.take()
                && frame::restart(memory, &mut thread.frame, interrupted.number).is_err()
            {
                self.force(SIGSEGV, false);
                continue;
            }
            if self.threads.current().signals.saved_mask.is_none() {
                return;
            }
            // What that mask lets through comes next.
            self.restore_mask();
        }
    }

    /// The next signal for the running thread.
    fn take_deliverable(&mut self) -> Option<Information> {
        let for_process = self.signals.queue.set();
        let thread = &mut self.threads.current_mut().signals;
        let wanted = thread.deliverable(for_process);
        let taken = thread.queue.take(wanted).or_else(|| self.signals.queue.take(wanted));
        // It goes on with what else it lets through.
        let rest = self.signals.queue.set().without(thread.mask);
        thread.takes_for_process = thread.takes_for_process && !rest.is_empty();
        taken
    }

    fn act_on(&mut self, information: Information) {
        let signal = information.signal();
        let action = self.signals.actions.get(signal);
        match action.disposition(signal) {
            Disposition::Ignore => {}
            Disposition::Stop => {
                if !core::mem::replace(&mut self.signals.has_told_of_stop, true) {
                    sdk::println!("linux: {} is ignored: nobody could let the program go on", Name(signal));
                }
            }
            Disposition::End => self.end_by(signal),
            Disposition::Handle => {
                if action.has(SA_RESETHAND) {
                    self.signals.actions.reset(signal);
                }
                let Kernel { threads, memory, .. } = self;
                let thread = threads.current_mut();
                let entered = frame::enter(memory, &mut thread.frame, &mut thread.signals, information, &action);
                if entered.is_err() {
                    self.force(SIGSEGV, signal == SIGSEGV);
                }
            }
        }
    }

    /// Sends the running thread a signal that it cannot put off: where it blocks or ignores it, or the handler is what
    /// has failed, the default action is taken.
    pub(super) fn force(&mut self, signal: u32, is_final: bool) {
        let thread = &mut self.threads.current_mut().signals;
        let is_ignored = self.signals.actions.disposition(signal) == Disposition::Ignore;
        if is_final || is_ignored || thread.mask.contains(signal) {
            self.signals.actions.reset(signal);
            thread.mask = thread.mask.without(SignalSet::only(signal));
        }
        // A standard signal always finds room.
        let _ = thread.queue.add(Information::by_kernel(signal));
        self.note_arrival();
    }

    fn end_if_fatal(&mut self) {
        if let Some(signal) = self.signals.fatal {
            self.end_by(signal);
        }
    }

    fn end_by(&mut self, signal: u32) -> ! {
        sdk::println!("linux: ended by signal {}", Name(signal));
        self.exit(SIGNAL_EXIT_STATUS + signal as i32)
    }
}

#[cfg(test)]
mod tests {
    use linux_raw_sys::general::{__NR_epoll_wait, __NR_poll, SIGCHLD, SIGTSTP, SIGUSR1};

    use super::*;
    use crate::signals::Action;

    fn call(number: u32) -> Call {
        Call { number: u64::from(number), arguments: [0; 6] }
    }

    #[test]
    fn calls_restart_as_signal_7_says() {
        let endless = Pending::default();
        let timed = Pending { deadline: Some(1), ..endless };
        assert!(restarts(call(__NR_read), &endless) && restarts(call(__NR_futex), &endless));
        assert!(!restarts(call(__NR_read), &timed) && !restarts(call(__NR_futex), &timed));
        for number in [__NR_poll, __NR_epoll_wait, NANOSLEEP] {
            assert!(!restarts(call(number), &endless));
        }
        assert!(!restarts(Call { number: 1 << 32, arguments: [0; 6] }, &endless));
    }

    #[test]
    fn a_wait_ends_for_handlers_and_for_the_end_only() {
        let mut signals = Signals::default();
        let mut thread = ThreadSignals::default();
        for signal in [SIGCHLD, SIGTSTP] {
            let _ = thread.queue.add(Information::by_kernel(signal));
            assert!(!signals.interrupts(&thread));
        }
        let _ = thread.queue.add(Information::by_kernel(SIGUSR1));
        assert!(signals.interrupts(&thread));
        thread.mask = SignalSet::only(SIGUSR1);
        assert!(!signals.interrupts(&thread));
        signals.actions.set(SIGCHLD, Action { handler: 0x1000, ..Action::default() });
        assert!(signals.interrupts(&thread));
    }
}
