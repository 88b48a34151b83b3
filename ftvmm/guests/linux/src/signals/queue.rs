//! What comes with a signal, and the queue of those that wait to be delivered.

use alloc::collections::VecDeque;

use linux_raw_sys::general::{SI_KERNEL, SI_TKILL, SI_USER, SIGPOLL};

use crate::signals::sets::{SignalSet, is_real_time};
use crate::threads::PROCESS;

/// More signals are refused in one queue, which only real-time ones can fill (RLIMIT_SIGPENDING).
pub const QUEUED_MAX: usize = 16_384;

/// The words of `siginfo_t` that a kernel fills in. `include/uapi/asm-generic/siginfo.h`: number and error, code, sender's
/// process and user, value.
const WORDS: usize = 6;
/// All of `siginfo_t`.
pub const INFORMATION_WORDS: usize = 16;

/// What comes with a signal (`siginfo_t`), without the zeros at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Information([u64; WORDS]);

impl Information {
    fn new(signal: u32, code: i32, sender: i32) -> Information {
        // The user is root: 0.
        Information([u64::from(signal), u64::from(code as u32), u64::from(sender as u32), 0, 0, 0])
    }

    /// Sent by the program itself: to the process, or to one thread.
    pub fn by_program(signal: u32, is_for_thread: bool) -> Information {
        Information::new(signal, if is_for_thread { SI_TKILL } else { SI_USER as i32 }, PROCESS)
    }

    /// Sent by the kernel.
    pub fn by_kernel(signal: u32) -> Information {
        Information::new(signal, SI_KERNEL as i32, 0)
    }

    /// As the program has written it, for that signal.
    pub fn as_given(signal: u32, words: &[u64; INFORMATION_WORDS]) -> Information {
        let mut own = [0; WORDS];
        own.copy_from_slice(&words[..WORDS]);
        own[0] = own[0] & !u64::from(u32::MAX) | u64::from(signal);
        Information(own)
    }

    /// The whole structure.
    pub fn to_abi(self) -> [u64; INFORMATION_WORDS] {
        let mut words = [0; INFORMATION_WORDS];
        words[..WORDS].copy_from_slice(&self.0);
        words
    }

    /// The signal.
    pub fn signal(&self) -> u32 {
        self.0[0] as u32
    }

    /// Why it was sent: SI_USER, SI_TKILL, SI_KERNEL and so on.
    pub fn code(&self) -> i32 {
        self.0[1] as i32
    }

    /// The error number that came with it, which nobody uses.
    pub fn error(&self) -> u32 {
        (self.0[0] >> 32) as u32
    }

    /// The sender's process and user.
    pub fn sender(&self) -> (u32, u32) {
        (self.0[2] as u32, (self.0[2] >> 32) as u32)
    }

    /// What sigqueue sends along.
    pub fn value(&self) -> u64 {
        self.0[3]
    }
}

/// Whether Linux takes this `siginfo_t` from a program (`known_siginfo_layout` in `kernel/signal.c`): a code that it does
/// not know must have zeros behind the words that a kernel fills in.
pub fn is_acceptable(words: &[u64; INFORMATION_WORDS], signal: u32) -> bool {
    /// The highest code of those signals that have codes of their own (`NSIGILL` and the like): none has more.
    const CODES_MAX: i32 = 15;
    let code = words[1] as i32;
    let is_known = match code {
        _ if code <= SI_USER as i32 || code == SI_KERNEL as i32 => true,
        _ if code <= CODES_MAX => !is_real_time(signal) && signal <= SIGPOLL,
        _ => false,
    };
    is_known || words[WORDS..].iter().all(|word| *word == 0)
}

/// Why a signal was not queued: there are too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Signals that wait to be delivered, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    set: SignalSet,
    waiting: VecDeque<Information>,
}

impl Queue {
    /// Which signals there are.
    pub fn set(&self) -> SignalSet {
        self.set
    }

    /// Adds one. A standard signal that is pending already stays as it is, with what came along with the first.
    ///
    /// # Errors
    /// [`Full`], for real-time signals only.
    pub fn add(&mut self, information: Information) -> Result<(), Full> {
        let signal = information.signal();
        if !is_real_time(signal) && self.set.contains(signal) {
            return Ok(());
        }
        if is_real_time(signal) && self.waiting.len() >= QUEUED_MAX {
            return Err(Full);
        }
        self.set = self.set.with(SignalSet::only(signal));
        self.waiting.push_back(information);
        Ok(())
    }

    /// Takes out the one of these signals that is to be delivered first.
    pub fn take(&mut self, wanted: SignalSet) -> Option<Information> {
        let signal = self.set.and(wanted).first()?;
        let at = self.waiting.iter().position(|information| information.signal() == signal)?;
        let taken = self.waiting.remove(at);
        if !self.waiting.iter().skip(at).any(|information| information.signal() == signal) {
            self.set = self.set.without(SignalSet::only(signal));
        }
        taken
    }

    /// Forgets these signals.
    pub fn discard(&mut self, unwanted: SignalSet) {
        if !self.set.and(unwanted).is_empty() {
            self.waiting.retain(|information| !unwanted.contains(information.signal()));
            self.set = self.set.without(unwanted);
        }
    }
}

#[cfg(test)]
mod tests {
    use linux_raw_sys::general::{SI_QUEUE, SIGHUP, SIGUSR1};

    use super::*;

    const ALL: SignalSet = SignalSet(u64::MAX);

    fn queued(signal: u32, value: u64) -> Information {
        let mut words = [0; INFORMATION_WORDS];
        (words[1], words[3]) = (u64::from(SI_QUEUE as u32), value);
        Information::as_given(signal, &words)
    }

    #[test]
    fn a_standard_signal_is_pending_once_with_what_came_first() {
        let mut queue = Queue::default();
        assert_eq!(queue.add(queued(SIGUSR1, 1)), Ok(()));
        assert_eq!(queue.add(queued(SIGUSR1, 2)), Ok(()));
        assert_eq!(queue.take(ALL).map(|one| one.value()), Some(1));
        assert_eq!(queue.take(ALL), None);
        assert!(queue.set().is_empty());
    }

    #[test]
    fn real_time_signals_queue_in_order() {
        let mut queue = Queue::default();
        for (signal, value) in [(41, 1), (40, 2), (41, 3), (40, 4)] {
            assert_eq!(queue.add(queued(signal, value)), Ok(()));
        }
        let taken: Vec<u64> = core::iter::from_fn(|| queue.take(ALL)).map(|one| one.value()).collect();
        assert_eq!(taken, [2, 4, 1, 3]);
        assert!(queue.set().is_empty());
    }

    #[test]
    fn only_what_is_wanted_is_taken() {
        let mut queue = Queue::default();
        let _ = queue.add(Information::by_kernel(SIGHUP));
        let _ = queue.add(Information::by_program(SIGUSR1, true));
        let taken = queue.take(SignalSet::only(SIGUSR1)).unwrap();
        assert_eq!((taken.signal(), taken.code(), taken.sender()), (SIGUSR1, SI_TKILL, (PROCESS as u32, 0)));
        assert_eq!(queue.set(), SignalSet::only(SIGHUP));
        queue.discard(ALL);
        assert_eq!(queue.take(ALL), None);
    }

    #[test]
    fn there_is_an_end_to_real_time_signals_and_not_to_others() {
        let mut queue = Queue::default();
        let added = (0..QUEUED_MAX + 1).filter(|value| queue.add(queued(40, *value as u64)).is_ok()).count();
        assert_eq!(added, QUEUED_MAX);
        assert_eq!(queue.add(Information::by_kernel(SIGHUP)), Ok(()));
    }

    #[test]
    fn the_number_in_a_given_structure_does_not_count() {
        let words = [u64::MAX; INFORMATION_WORDS];
        let given = Information::as_given(SIGUSR1, &words);
        assert_eq!((given.signal(), given.error()), (SIGUSR1, u32::MAX));
        assert!(is_acceptable(&words, SIGUSR1));
        let mut unknown = [0; INFORMATION_WORDS];
        unknown[1] = 1000;
        assert!(is_acceptable(&unknown, SIGUSR1));
        unknown[15] = 1;
        assert!(!is_acceptable(&unknown, SIGUSR1));
    }
}
