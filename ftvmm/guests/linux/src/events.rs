//! Files that stand for events: counters (eventfd), timers (timerfd) and pending signals (signalfd).

use alloc::rc::Rc;
use core::any::Any;
use core::cell::Cell;

use linux_raw_sys::general::{
    __kernel_itimerspec, CLOCK_BOOTTIME, CLOCK_BOOTTIME_ALARM, CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_REALTIME_ALARM,
    EFD_CLOEXEC, EFD_NONBLOCK, EFD_SEMAPHORE, EPOLLERR, EPOLLIN, EPOLLOUT, O_CLOEXEC, O_NONBLOCK, O_RDWR, SI_TIMER,
    TFD_CLOEXEC, TFD_NONBLOCK, TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET, stat,
};

use crate::clock::{of_timespec, timespec};
use crate::files::Object;
use crate::files::file_system::empty_status;
use crate::kernel::Kernel;
use crate::readiness::{Activity, Arrivals};
use crate::signals::timer::Timer;
use crate::signals::{Information, SignalSet, set_of_program};
use crate::system_calls::{Call, Errno, Outcome, Stop, errno};

/// Linux keeps all such files in one inode, which has no type.
const ANONYMOUS_MODE: u32 = 0o600;
const ANONYMOUS_NUMBER: u64 = 1;

/// What fstat says of a file that has no name and no type.
pub fn anonymous_metadata() -> stat {
    empty_status(ANONYMOUS_MODE, ANONYMOUS_NUMBER)
}

/// Whether the file is one of these: they do not know the finer events of poll.
pub fn counts_events(object: &dyn Object) -> bool {
    let kind = object.as_any();
    kind.is::<EventCounter>() || kind.is::<TimerFile>() || kind.is::<SignalFile>()
}

/// What all of them have in common.
macro_rules! anonymous {
    () => {
        fn seek(&self, _: &mut Kernel, _: i64, _: u32) -> Result<u64, Errno> {
            Ok(0)
        }

        fn metadata(&self, _: &Kernel) -> stat {
            anonymous_metadata()
        }

        fn as_any(&self) -> &dyn Any {
            self
        }
    };
}

/// A counter that one side adds to and the other takes (eventfd).
#[derive(Debug, Default)]
struct EventCounter {
    count: Cell<u64>,
    /// a read takes one, not all
    is_semaphore: bool,
    arrivals: Arrivals,
}

impl EventCounter {
    /// The events, in the order of Linux's `eventfd_poll`.
    fn events(&self) -> u32 {
        match self.count.get() {
            0 => EPOLLOUT,
            u64::MAX => EPOLLIN | EPOLLERR,
            count if count == u64::MAX - 1 => EPOLLIN,
            _ => EPOLLIN | EPOLLOUT,
        }
    }

    /// What a read gets, None where it waits.
    fn take(&self) -> Option<u64> {
        let count = self.count.get();
        let taken = if self.is_semaphore { count.min(1) } else { count };
        if self.events() & EPOLLOUT == 0 {
            // There is room again.
            self.arrivals.note(true);
        }
        self.count.set(count - taken);
        (taken > 0).then_some(taken)
    }

    /// Whether there was room for so much.
    fn add(&self, value: u64) -> bool {
        let count = self.count.get();
        let has_room = u64::MAX - count > value;
        if has_room {
            self.count.set(count + value);
            self.arrivals.note(count > 0);
        }
        has_room
    }
}

impl Object for EventCounter {
    fn read(&self, kernel: &mut Kernel, buffer: &mut [u8]) -> Result<usize, Stop> {
        let place = buffer.first_chunk_mut::<8>().ok_or(errno::EINVAL)?;
        *place = self.take().ok_or(Stop::wait(None))?.to_le_bytes();
        kernel.change();
        Ok(place.len())
    }

    fn write(&self, kernel: &mut Kernel, bytes: &[u8]) -> Result<usize, Stop> {
        let value = u64::from_le_bytes(bytes.try_into().map_err(|_| errno::EINVAL)?);
        if value == u64::MAX {
            return Err(errno::EINVAL.into());
        }
        if !self.add(value) {
            return Err(Stop::wait(None));
        }
        kernel.change();
        Ok(bytes.len())
    }

    fn ready(&self, _: &Kernel) -> u32 {
        self.events()
    }

    fn activity(&self, _: &Kernel) -> Activity {
        self.arrivals.activity()
    }

    anonymous!();
}

/// eventfd(count)
///
/// # Errors
/// EMFILE.
pub fn eventfd(kernel: &mut Kernel, call: Call) -> Outcome {
    open_counter(kernel, call.unsigned(0), 0)
}

/// eventfd2(count, flags)
///
/// # Errors
/// EINVAL, EMFILE.
pub fn eventfd2(kernel: &mut Kernel, call: Call) -> Outcome {
    open_counter(kernel, call.unsigned(0), call.unsigned(1))
}

fn open_counter(kernel: &mut Kernel, count: u32, flags: u32) -> Outcome {
    if flags & !(EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE) != 0 {
        return Err(errno::EINVAL.into());
    }
    let is_semaphore = flags & EFD_SEMAPHORE != 0;
    let counter = EventCounter { count: Cell::new(u64::from(count)), is_semaphore, arrivals: Arrivals::default() };
    open(kernel, counter, flags & !EFD_SEMAPHORE)
}

/// Opens one of these; their flags are those of open.
fn open(kernel: &mut Kernel, object: impl Object, flags: u32) -> Outcome {
    const { assert!(EFD_CLOEXEC == O_CLOEXEC && EFD_NONBLOCK == O_NONBLOCK) };
    const { assert!(TFD_CLOEXEC == O_CLOEXEC && TFD_NONBLOCK == O_NONBLOCK) };
    Ok(kernel.files.open(Rc::new(object), O_RDWR | flags)? as u64)
}

/// A timer whose expirations are read (timerfd).
#[derive(Debug, Default)]
struct TimerFile {
    timer: Cell<Timer>,
    /// times of the wall clock
    is_wall_clock: bool,
    /// expirations that were noted and not read
    expirations: Cell<u64>,
    /// how often it was due and somebody took that away
    rounds: Cell<u64>,
    /// how often it had expired when it was looked at last
    noted: Cell<u64>,
    arrivals: Arrivals,
}

impl TimerFile {
    /// Notes what has expired.
    fn settle(&self, now: u64) {
        let mut timer = self.timer.get();
        self.expirations.set(self.expirations.get().saturating_add(timer.expire(now)));
        self.timer.set(timer);
    }

    fn is_due(&self, now: u64) -> bool {
        self.expirations.get() > 0 || self.timer.get().is_due(now)
    }

    /// Takes the expirations; 0 where there are none.
    fn take(&self, now: u64) -> u64 {
        self.settle(now);
        let expirations = self.expirations.take();
        self.rounds.set(self.rounds.get() + u64::from(expirations > 0));
        expirations
    }

    /// Arms it anew: what has expired before is forgotten.
    fn set(&self, timer: Timer, now: u64) {
        self.take(now);
        self.timer.set(timer);
    }

    /// As with any timer of Linux, it expires once and not again before that was read: one arrival.
    fn times_expired(&self, now: u64) -> u64 {
        self.rounds.get() + u64::from(self.is_due(now))
    }

    /// What is left, and the interval.
    fn setting(&self, now: u64) -> __kernel_itimerspec {
        self.settle(now);
        let timer = self.timer.get();
        __kernel_itimerspec { it_interval: timespec(timer.interval), it_value: timespec(timer.remaining(now)) }
    }
}

impl Object for TimerFile {
    fn read(&self, kernel: &mut Kernel, buffer: &mut [u8]) -> Result<usize, Stop> {
        let place = buffer.first_chunk_mut::<8>().ok_or(errno::EINVAL)?;
        match self.take(kernel.clock.now()) {
            0 => Err(Stop::wait(self.timer.get().next)),
            expirations => {
                *place = expirations.to_le_bytes();
                // It becomes ready at another time now.
                kernel.change();
                Ok(place.len())
            }
        }
    }

    fn ready(&self, kernel: &Kernel) -> u32 {
        if self.is_due(kernel.clock.now()) { EPOLLIN } else { 0 }
    }

    fn next_deadline(&self, kernel: &Kernel) -> Option<u64> {
        self.timer.get().next.filter(|next| *next > kernel.clock.now())
    }

    fn activity(&self, kernel: &Kernel) -> Activity {
        let expired = self.times_expired(kernel.clock.now());
        if self.noted.replace(expired) != expired {
            self.arrivals.note(false);
        }
        self.arrivals.activity()
    }

    anonymous!();
}

/// timerfd_create(clock, flags)
///
/// # Errors
/// EINVAL, EMFILE.
pub fn timerfd_create(kernel: &mut Kernel, call: Call) -> Outcome {
    let (clock, flags) = (call.unsigned(0), call.unsigned(1));
    let is_wall_clock = matches!(clock, CLOCK_REALTIME | CLOCK_REALTIME_ALARM);
    let is_known = is_wall_clock || matches!(clock, CLOCK_MONOTONIC | CLOCK_BOOTTIME | CLOCK_BOOTTIME_ALARM);
    if !is_known || flags & !(TFD_CLOEXEC | TFD_NONBLOCK) != 0 {
        return Err(errno::EINVAL.into());
    }
    open(kernel, TimerFile { is_wall_clock, ..TimerFile::default() }, flags)
}

/// timerfd_settime(descriptor, flags, new setting, old setting)
///
/// # Errors
/// EBADF, EINVAL, EFAULT.
pub fn timerfd_settime(kernel: &mut Kernel, call: Call) -> Outcome {
    let new: __kernel_itimerspec = kernel.memory.get(call.word(2))?;
    let (value, interval) = (of_timespec(&new.it_value)?, of_timespec(&new.it_interval)?);
    let flags = call.unsigned(1);
    if flags & !(TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET) != 0 {
        return Err(errno::EINVAL.into());
    }
    let file = kernel.files.get(call.int(0))?;
    let timer: &TimerFile = file.kind().ok_or(errno::EINVAL)?;
    let now = kernel.clock.now();
    let old = timer.setting(now);
    let at = match (flags & TFD_TIMER_ABSTIME != 0, timer.is_wall_clock) {
        (false, _) => now.saturating_add(value),
        (true, true) => kernel.clock.monotonic(value),
        (true, false) => value,
    };
    timer.set(Timer { next: (value > 0).then_some(at), interval }, now);
    // Who waits for it waits until another time now.
    kernel.change();
    kernel.memory.put_if_wanted(call.word(3), old)?;
    Ok(0)
}

/// timerfd_gettime(descriptor, setting)
///
/// # Errors
/// EBADF, EINVAL, EFAULT.
pub fn timerfd_gettime(kernel: &mut Kernel, call: Call) -> Outcome {
    let file = kernel.files.get(call.int(0))?;
    let timer: &TimerFile = file.kind().ok_or(errno::EINVAL)?;
    let now = kernel.clock.look();
    kernel.memory.put(call.word(1), timer.setting(now))?;
    Ok(0)
}

/// Signals that are read rather than handled (signalfd).
#[derive(Debug, Default)]
struct SignalFile {
    mask: Cell<SignalSet>,
}

/// `struct signalfd_siginfo` of `include/uapi/linux/signalfd.h`.
const SIGNAL_BYTES: usize = 128;

/// A signal as that structure has it. A timer's number and overruns are where the sender's process and user are.
fn signal_bytes(information: &Information) -> [u8; SIGNAL_BYTES] {
    let mut bytes = [0; SIGNAL_BYTES];
    let (process, user) = information.sender();
    let (sender, timer) =
        if information.code() == SI_TIMER { ([0; 2], [process, user]) } else { ([process, user], [0; 2]) };
    let value = information.value();
    let words = [
        information.signal(),
        information.error(),
        information.code() as u32,
        sender[0],
        sender[1],
        // the descriptor of SIGIO
        0,
        timer[0],
        // its event
        0,
        timer[1],
        // trap number and status of a child
        0,
        0,
        value as u32,
        value as u32,
        (value >> 32) as u32,
    ];
    for (place, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *place = word.to_le_bytes();
    }
    bytes
}

impl Object for SignalFile {
    fn read(&self, kernel: &mut Kernel, buffer: &mut [u8]) -> Result<usize, Stop> {
        let places = buffer.as_chunks_mut::<SIGNAL_BYTES>().0;
        if places.is_empty() {
            return Err(errno::EINVAL.into());
        }
        let mut count = 0;
        for place in places {
            let Some(information) = kernel.take_signal(self.mask.get()) else { break };
            *place = signal_bytes(&information);
            count += 1;
        }
        if count == 0 { Err(Stop::wait(None)) } else { Ok(count * SIGNAL_BYTES) }
    }

    fn ready(&self, kernel: &Kernel) -> u32 {
        if kernel.pending_signals().and(self.mask.get()).is_empty() { 0 } else { EPOLLIN }
    }

    fn activity(&self, kernel: &Kernel) -> Activity {
        kernel.signals.activity()
    }

    anonymous!();
}

/// signalfd(descriptor or -1, set, size of a set)
///
/// # Errors
/// As signalfd4.
pub fn signalfd(kernel: &mut Kernel, call: Call) -> Outcome {
    signal_file(kernel, call, 0)
}

/// signalfd4(descriptor or -1, set, size of a set, flags)
///
/// # Errors
/// EINVAL, EBADF, EFAULT, EMFILE.
pub fn signalfd4(kernel: &mut Kernel, call: Call) -> Outcome {
    signal_file(kernel, call, call.unsigned(3))
}

fn signal_file(kernel: &mut Kernel, call: Call, flags: u32) -> Outcome {
    let mask = set_of_program(kernel, call.word(1), call.word(2))?.without(SignalSet::UNBLOCKABLE);
    // SFD_CLOEXEC and SFD_NONBLOCK are those of open.
    if flags & !(O_CLOEXEC | O_NONBLOCK) != 0 {
        return Err(errno::EINVAL.into());
    }
    if call.int(0) == -1 {
        return open(kernel, SignalFile { mask: Cell::new(mask) }, flags);
    }
    let file = kernel.files.get(call.int(0))?;
    let signals: &SignalFile = file.kind().ok_or(errno::EINVAL)?;
    signals.mask.set(mask);
    kernel.change();
    Ok(call.int(0) as u64)
}

#[cfg(test)]
mod tests {
    use linux_raw_sys::general::SIGUSR1;

    use super::*;

    #[test]
    fn a_counter_gives_all_or_one_at_a_time() {
        let all = EventCounter { count: Cell::new(3), ..EventCounter::default() };
        assert_eq!([all.take(), all.take()], [Some(3), None]);
        let one = EventCounter { count: Cell::new(2), is_semaphore: true, ..EventCounter::default() };
        assert_eq!([one.take(), one.take(), one.take()], [Some(1), Some(1), None]);
    }

    #[test]
    fn a_counter_that_would_overflow_takes_nothing() {
        let counter = EventCounter::default();
        assert_eq!(counter.events(), EPOLLOUT);
        assert!(counter.add(1) && counter.events() == EPOLLIN | EPOLLOUT);
        assert!(!counter.add(u64::MAX - 1));
        assert!(counter.add(u64::MAX - 2) && counter.events() == EPOLLIN);
        assert!(!counter.add(1) && counter.add(0));
        let before = counter.arrivals.activity();
        assert_eq!(counter.take(), Some(u64::MAX - 1));
        assert!(counter.arrivals.activity() > before);
    }

    #[test]
    fn expirations_are_read_once() {
        let file = TimerFile::default();
        assert_eq!((file.take(50), file.times_expired(50)), (0, 0));
        file.set(Timer { next: Some(100), interval: 10 }, 50);
        assert!(!file.is_due(99) && file.is_due(100));
        assert_eq!((file.times_expired(99), file.times_expired(100), file.times_expired(125)), (0, 1, 1));
        assert_eq!((file.take(125), file.take(125), file.times_expired(125)), (3, 0, 1));
        assert_eq!((file.times_expired(130), file.setting(131).it_value.tv_nsec), (2, 9));
        assert!(file.is_due(131));
        assert_eq!((file.times_expired(139), file.take(139)), (2, 1));
    }

    #[test]
    fn a_timer_that_is_set_anew_forgets_what_has_expired() {
        let file = TimerFile::default();
        file.set(Timer { next: Some(10), interval: 0 }, 0);
        assert_eq!(file.setting(20).it_value.tv_nsec, 0);
        file.set(Timer { next: Some(30), interval: 0 }, 20);
        assert!(!file.is_due(29));
        assert_eq!((file.times_expired(29), file.times_expired(30), file.take(30)), (1, 2, 1));
        file.set(Timer::default(), 40);
        assert_eq!((file.is_due(u64::MAX), file.timer.get().next), (false, None));
    }

    #[test]
    fn a_signal_is_read_as_the_structure_says() {
        let mut words = [0; 16];
        (words[1], words[2], words[3]) = (u64::from(SI_TIMER as u32), 5 | 6 << 32, 7 | 8 << 32);
        let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let timer = signal_bytes(&Information::as_given(SIGUSR1, &words));
        // ssi_signo, ssi_pid, ssi_tid, ssi_overrun, ssi_int, ssi_ptr
        assert_eq!([0, 12, 24, 32, 44, 48, 52].map(|at| word(&timer, at)), [SIGUSR1, 0, 5, 6, 7, 7, 8]);
        words[1] = u64::from(-1i32 as u32);
        let queued = signal_bytes(&Information::as_given(SIGUSR1, &words));
        assert_eq!([8, 12, 16, 24, 32].map(|at| word(&queued, at)), [u32::MAX, 5, 6, 0, 0]);
    }
}
