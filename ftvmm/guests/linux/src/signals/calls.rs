//! The system calls of signals.

use linux_raw_sys::general::{
    __kernel_old_itimerval, __kernel_old_timeval, ITIMER_REAL, SI_TKILL, SIG_BLOCK, SIG_SETMASK, SIG_UNBLOCK,
};

use crate::clock::{MICROSECOND_NANOSECONDS, NANOSECONDS, optional_duration, timeval};
use crate::kernel::Kernel;
use crate::signals::queue::{INFORMATION_WORDS, is_acceptable};
use crate::signals::sets::SIGNALS;
use crate::signals::timer::Timer;
use crate::signals::{Action, AlternateStack, Disposition, Information, SignalSet};
use crate::system_calls::{Call, Errno, Outcome, Stop, Wait, WaitFor, errno};
use crate::threads::PROCESS;

const SET_BYTES: u64 = size_of::<SignalSet>() as u64;

/// A set that the program hands over with its size.
///
/// # Errors
/// EINVAL for another size, EFAULT.
pub fn set_of_program(kernel: &Kernel, address: u64, bytes: u64) -> Result<SignalSet, Errno> {
    if bytes == SET_BYTES { kernel.memory.get(address) } else { Err(errno::EINVAL) }
}

/// The number of a signal, or 0.
fn signal_or_nothing(number: i32) -> Result<u32, Errno> {
    u32::try_from(number).ok().filter(|signal| *signal <= SIGNALS).ok_or(errno::EINVAL)
}

/// rt_sigaction(signal, new action, old action, size of a set)
///
/// # Errors
/// EINVAL, EFAULT.
pub fn rt_sigaction(kernel: &mut Kernel, call: Call) -> Outcome {
    if call.word(3) != SET_BYTES {
        return Err(errno::EINVAL.into());
    }
    let new: Option<Action> = if call.word(1) == 0 { None } else { Some(kernel.memory.get(call.word(1))?) };
    let signal = signal_or_nothing(call.int(0))?;
    if signal == 0 || (new.is_some() && SignalSet::UNBLOCKABLE.contains(signal)) {
        return Err(errno::EINVAL.into());
    }
    let old = kernel.signals.actions.get(signal);
    if let Some(new) = new {
        kernel.signals.actions.set(signal, new);
        if new.disposition(signal) == Disposition::Ignore {
            kernel.discard_pending(SignalSet::only(signal));
        }
    }
    kernel.memory.put_if_wanted(call.word(2), old)?;
    Ok(0)
}

/// rt_sigprocmask(how, new set, old set, size of a set)
///
/// # Errors
/// EINVAL, EFAULT.
pub fn rt_sigprocmask(kernel: &mut Kernel, call: Call) -> Outcome {
    if call.word(3) != SET_BYTES {
        return Err(errno::EINVAL.into());
    }
    let old = kernel.threads.current().signals.mask;
    if call.word(1) != 0 {
        let set: SignalSet = kernel.memory.get(call.word(1))?;
        let new = match call.unsigned(0) {
            SIG_BLOCK => old.with(set),
            SIG_UNBLOCK => old.without(set),
            SIG_SETMASK => set,
            _ => return Err(errno::EINVAL.into()),
        };
        kernel.set_mask(new);
    }
    kernel.memory.put_if_wanted(call.word(2), old)?;
    Ok(0)
}

/// rt_sigpending(set, size of a set): those that are pending and blocked.
///
/// # Errors
/// EINVAL, EFAULT.
pub fn rt_sigpending(kernel: &mut Kernel, call: Call) -> Outcome {
    if call.word(1) > SET_BYTES {
        return Err(errno::EINVAL.into());
    }
    let pending = kernel.pending_signals().and(kernel.threads.current().signals.mask);
    let bytes = pending.0.to_le_bytes();
    let place = kernel.memory.bytes_mut(call.word(0), call.word(1))?;
    place.copy_from_slice(&bytes[..place.len()]);
    Ok(0)
}

/// sigaltstack(new, old)
///
/// # Errors
/// EPERM while a handler runs there, ENOMEM where it is too small, EINVAL, EFAULT.
pub fn sigaltstack(kernel: &mut Kernel, call: Call) -> Outcome {
    let new: Option<AlternateStack> = if call.word(0) == 0 { None } else { Some(kernel.memory.get(call.word(0))?) };
    let thread = kernel.threads.current_mut();
    let stack = thread.frame.rsp;
    let old = thread.signals.alternate.seen_from(stack);
    if let Some(new) = new {
        thread.signals.alternate.replace(new, stack)?;
    }
    kernel.memory.put_if_wanted(call.word(1), old)?;
    Ok(0)
}

fn is_thread(kernel: &Kernel, tid: i32) -> bool {
    kernel.threads.iter().any(|thread| thread.tid == tid)
}

/// Sends the process a signal, or none: then it only looks whether it could.
fn send_to_process(kernel: &mut Kernel, process: i32, number: i32, information: &Information) -> Outcome {
    // A thread's number stands for its process, and the thread is asked first whether it takes the signal.
    if process != PROCESS && !is_thread(kernel, process) {
        return Err(errno::ESRCH.into());
    }
    if signal_or_nothing(number)? != 0 {
        kernel.send_to_process(Some(process), *information)?;
    }
    Ok(0)
}

/// Sends a thread a signal, or none.
fn send_to_thread(kernel: &mut Kernel, tid: i32, number: i32, information: &Information) -> Outcome {
    if !is_thread(kernel, tid) {
        return Err(errno::ESRCH.into());
    }
    if signal_or_nothing(number)? != 0 {
        kernel.send_to_thread(tid, *information)?;
    }
    Ok(0)
}

/// kill(process, signal): the process itself is the only one, and its group.
///
/// # Errors
/// ESRCH, EINVAL.
pub fn kill(kernel: &mut Kernel, call: Call) -> Outcome {
    let process = match call.int(0) {
        // All processes but this one: none.
        -1 => return Err(errno::ESRCH.into()),
        0 => PROCESS,
        group if group < 0 && group.wrapping_neg() == PROCESS => PROCESS,
        process => process,
    };
    let information = Information::by_program(call.unsigned(1), false);
    send_to_process(kernel, process, call.int(1), &information)
}

/// tkill(thread, signal)
///
/// # Errors
/// ESRCH, EINVAL.
pub fn tkill(kernel: &mut Kernel, call: Call) -> Outcome {
    if call.int(0) <= 0 {
        return Err(errno::EINVAL.into());
    }
    let information = Information::by_program(call.unsigned(1), true);
    send_to_thread(kernel, call.int(0), call.int(1), &information)
}

/// tgkill(process, thread, signal)
///
/// # Errors
/// ESRCH, EINVAL.
pub fn tgkill(kernel: &mut Kernel, call: Call) -> Outcome {
    let (process, tid) = (call.int(0), call.int(1));
    if process <= 0 || tid <= 0 {
        return Err(errno::EINVAL.into());
    }
    if process != PROCESS {
        return Err(errno::ESRCH.into());
    }
    let information = Information::by_program(call.unsigned(2), true);
    send_to_thread(kernel, tid, call.int(2), &information)
}

/// What the program wants to come with a signal. To others it may not say that the kernel or kill has sent it.
fn information_of_program(kernel: &Kernel, address: u64, signal: u32, to: i32) -> Result<Information, Errno> {
    let words: [u64; INFORMATION_WORDS] = kernel.memory.get(address)?;
    if !is_acceptable(&words, signal) {
        return Err(errno::E2BIG);
    }
    let information = Information::as_given(signal, &words);
    let is_pretence = information.code() >= 0 || information.code() == SI_TKILL;
    if is_pretence && to != PROCESS { Err(errno::EPERM) } else { Ok(information) }
}

/// rt_sigqueueinfo(process, signal, information)
///
/// # Errors
/// EFAULT, E2BIG, EPERM, ESRCH, EINVAL; EAGAIN where too many are queued.
pub fn rt_sigqueueinfo(kernel: &mut Kernel, call: Call) -> Outcome {
    let information = information_of_program(kernel, call.word(2), call.unsigned(1), call.int(0))?;
    send_to_process(kernel, call.int(0), call.int(1), &information)
}

/// rt_tgsigqueueinfo(process, thread, signal, information)
///
/// # Errors
/// As rt_sigqueueinfo.
pub fn rt_tgsigqueueinfo(kernel: &mut Kernel, call: Call) -> Outcome {
    let (process, tid) = (call.int(0), call.int(1));
    let information = information_of_program(kernel, call.word(3), call.unsigned(2), process)?;
    if process <= 0 || tid <= 0 {
        return Err(errno::EINVAL.into());
    }
    if process != PROCESS {
        return Err(errno::ESRCH.into());
    }
    send_to_thread(kernel, tid, call.int(2), &information)
}

/// rt_sigtimedwait(set, information, timeout, size of a set)
///
/// # Errors
/// EAGAIN where none has come in time, EINTR, EINVAL, EFAULT.
pub fn rt_sigtimedwait(kernel: &mut Kernel, call: Call) -> Outcome {
    let wanted = set_of_program(kernel, call.word(0), call.word(3))?.without(SignalSet::UNBLOCKABLE);
    let timeout = optional_duration(kernel, call.word(2))?;
    let taken = kernel.take_signal(wanted);
    let now = kernel.clock.now();
    let thread = kernel.threads.current_mut();
    let deadline = timeout.map(|time| *thread.pending.deadline.get_or_insert(now.saturating_add(time)));
    if let Some(information) = taken {
        thread.signals.awaited = SignalSet::EMPTY;
        kernel.memory.put_if_wanted(call.word(1), information.to_abi())?;
        return Ok(u64::from(information.signal()));
    }
    if deadline.is_some_and(|deadline| deadline <= now) {
        thread.signals.awaited = SignalSet::EMPTY;
        return Err(errno::EAGAIN.into());
    }
    thread.signals.awaited = wanted;
    Err(Stop::wait(deadline))
}

/// rt_sigsuspend(mask, size of a set)
///
/// # Errors
/// EINTR behind a handler, EINVAL, EFAULT.
pub fn rt_sigsuspend(kernel: &mut Kernel, call: Call) -> Outcome {
    let mask = set_of_program(kernel, call.word(0), call.word(1))?;
    kernel.set_mask_for_call(mask);
    pause(kernel, call)
}

/// pause()
///
/// # Errors
/// EINTR behind a handler.
pub fn pause(_: &mut Kernel, _: Call) -> Outcome {
    Err(Stop::Wait(Wait { on: WaitFor::Signal, until: None }))
}

/// Arms ITIMER_REAL; returns what was left of the old setting and its interval, both in nanoseconds.
fn set_alarm(kernel: &mut Kernel, value: u64, interval: u64) -> (u64, u64) {
    // The time of the round may be long ago for a program that computes.
    kernel.clock.refresh();
    let now = kernel.clock.now();
    let old = remaining(&kernel.signals.alarm, now);
    let next = (value > 0).then(|| now.saturating_add(value));
    kernel.signals.alarm = Timer { next, interval };
    old
}

/// What is left and the interval. A timer that is armed has something left: setitimer(2) says 0 for one that is not.
fn remaining(timer: &Timer, now: u64) -> (u64, u64) {
    let least = if timer.next.is_some() { MICROSECOND_NANOSECONDS } else { 0 };
    (timer.remaining(now).max(least), timer.interval)
}

/// alarm(seconds): the seconds that were left, rounded, but not to none.
///
/// # Errors
/// None.
pub fn alarm(kernel: &mut Kernel, call: Call) -> Outcome {
    let (left, _) = set_alarm(kernel, u64::from(call.unsigned(0)) * NANOSECONDS, 0);
    Ok(rounded_seconds(left))
}

fn rounded_seconds(left: u64) -> u64 {
    match left {
        0 => 0,
        _ => ((left.saturating_add(NANOSECONDS / 2)) / NANOSECONDS).max(1),
    }
}

fn nanoseconds(time: &__kernel_old_timeval) -> Result<u64, Errno> {
    let is_valid = time.tv_sec >= 0 && (0..1_000_000).contains(&time.tv_usec);
    let seconds = (time.tv_sec as u64).saturating_mul(NANOSECONDS);
    let whole = seconds.saturating_add((time.tv_usec as u64).saturating_mul(MICROSECOND_NANOSECONDS));
    if is_valid { Ok(whole) } else { Err(errno::EINVAL) }
}

fn timer_value((left, interval): (u64, u64)) -> __kernel_old_itimerval {
    __kernel_old_itimerval { it_interval: timeval(interval), it_value: timeval(left) }
}

/// setitimer(which, new, old)
///
/// # Errors
/// EINVAL for all but ITIMER_REAL and times that are none, EFAULT.
pub fn setitimer(kernel: &mut Kernel, call: Call) -> Outcome {
    // No new value is as good as one of zero, says Linux.
    let (mut value, mut interval) = (0, 0);
    if call.word(1) != 0 {
        let new: __kernel_old_itimerval = kernel.memory.get(call.word(1))?;
        (value, interval) = (nanoseconds(&new.it_value)?, nanoseconds(&new.it_interval)?);
    }
    if call.unsigned(0) != ITIMER_REAL {
        return Err(errno::EINVAL.into());
    }
    let old = set_alarm(kernel, value, interval);
    kernel.memory.put_if_wanted(call.word(2), timer_value(old))?;
    Ok(0)
}

/// getitimer(which, value)
///
/// # Errors
/// EINVAL for all but ITIMER_REAL, EFAULT.
pub fn getitimer(kernel: &mut Kernel, call: Call) -> Outcome {
    if call.unsigned(0) != ITIMER_REAL {
        return Err(errno::EINVAL.into());
    }
    let now = kernel.clock.look();
    kernel.memory.put(call.word(1), timer_value(remaining(&kernel.signals.alarm, now)))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_signals_are_0_to_64() {
        assert_eq!(signal_or_nothing(0), Ok(0));
        assert_eq!(signal_or_nothing(64), Ok(64));
        assert_eq!(signal_or_nothing(65), Err(errno::EINVAL));
        assert_eq!(signal_or_nothing(-1), Err(errno::EINVAL));
    }

    #[test]
    fn an_alarm_that_runs_has_at_least_a_second_left() {
        let half = NANOSECONDS / 2;
        let left = [0, 1, half, NANOSECONDS + half - 1, NANOSECONDS + half];
        assert_eq!(left.map(rounded_seconds), [0, 1, 1, 1, 2]);
    }

    #[test]
    fn times_of_timers_go_both_ways() {
        let value = timer_value((1_500_000_999, 2 * NANOSECONDS));
        assert_eq!((value.it_value.tv_sec, value.it_value.tv_usec), (1, 500_000));
        assert_eq!(nanoseconds(&value.it_interval), Ok(2 * NANOSECONDS));
        let wrong = __kernel_old_timeval { tv_sec: 0, tv_usec: 1_000_000 };
        assert_eq!(nanoseconds(&wrong), Err(errno::EINVAL));
        let wrong = __kernel_old_timeval { tv_sec: -1, tv_usec: 0 };
        assert_eq!(nanoseconds(&wrong), Err(errno::EINVAL));
        let long = __kernel_old_timeval { tv_sec: i64::MAX, tv_usec: 0 };
        assert_eq!(nanoseconds(&long), Ok(u64::MAX));
    }

    #[test]
    fn a_timer_that_is_due_has_something_left_and_one_that_is_not_armed_has_nothing() {
        assert_eq!(remaining(&Timer { next: Some(5), interval: 7 }, 10), (MICROSECOND_NANOSECONDS, 7));
        assert_eq!(remaining(&Timer::default(), 10), (0, 0));
    }
}
