//! Sets of signals, the groups that Linux treats alike, and their names.

use core::fmt;

use linux_raw_sys::general::{
    _NSIG, SIGABRT, SIGALRM, SIGBUS, SIGCHLD, SIGCONT, SIGFPE, SIGHUP, SIGILL, SIGINT, SIGIO, SIGKILL, SIGPIPE,
    SIGPROF, SIGPWR, SIGQUIT, SIGRTMIN, SIGSEGV, SIGSTKFLT, SIGSTOP, SIGSYS, SIGTERM, SIGTRAP, SIGTSTP, SIGTTIN,
    SIGTTOU, SIGURG, SIGUSR1, SIGUSR2, SIGVTALRM, SIGWINCH, SIGXCPU, SIGXFSZ,
};

/// The highest signal.
pub const SIGNALS: u32 = _NSIG;

/// A set of signals, as the ABI has it: bit 0 is signal 1.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalSet(pub u64);

impl SignalSet {
    /// No signal.
    pub const EMPTY: SignalSet = SignalSet(0);
    /// Those that nobody can block, catch or ignore.
    pub const UNBLOCKABLE: SignalSet = SignalSet::of(&[SIGKILL, SIGSTOP]);
    /// Those that stop a process where it has no handler.
    pub const STOPPING: SignalSet = SignalSet::of(&[SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU]);
    /// Those that are ignored where the process has no handler.
    pub const IGNORED_BY_DEFAULT: SignalSet = SignalSet::of(&[SIGCHLD, SIGCONT, SIGURG, SIGWINCH]);
    /// Those that tell of a fault: they come first.
    const SYNCHRONOUS: SignalSet = SignalSet::of(&[SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV, SIGSYS]);

    /// The set of these signals.
    pub const fn of(signals: &[u32]) -> SignalSet {
        let mut set = SignalSet::EMPTY;
        let mut index = 0;
        while index < signals.len() {
            set = set.with(SignalSet::only(signals[index]));
            index += 1;
        }
        set
    }

    /// The set of one signal; empty for a number that is none.
    pub const fn only(signal: u32) -> SignalSet {
        match signal {
            1..=SIGNALS => SignalSet(1 << (signal - 1)),
            _ => SignalSet::EMPTY,
        }
    }

    /// Whether a signal is among them.
    pub const fn contains(self, signal: u32) -> bool {
        self.0 & SignalSet::only(signal).0 != 0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// These and the others.
    pub const fn with(self, other: SignalSet) -> SignalSet {
        SignalSet(self.0 | other.0)
    }

    /// These, but none of the others.
    pub const fn without(self, other: SignalSet) -> SignalSet {
        SignalSet(self.0 & !other.0)
    }

    /// Those that are in both.
    pub const fn and(self, other: SignalSet) -> SignalSet {
        SignalSet(self.0 & other.0)
    }

    /// The one that is delivered first: faults before others, the lowest number before higher ones.
    pub const fn first(self) -> Option<u32> {
        let faults = self.and(SignalSet::SYNCHRONOUS);
        let candidates = if faults.is_empty() { self } else { faults };
        if candidates.is_empty() { None } else { Some(candidates.0.trailing_zeros() + 1) }
    }

    /// All of them, in ascending order.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        (1..=SIGNALS).filter(move |signal| self.contains(*signal))
    }
}

/// Whether several of one signal can be pending.
pub const fn is_real_time(signal: u32) -> bool {
    signal >= SIGRTMIN
}

/// A signal by its name.
pub struct Name(pub u32);

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        macro_rules! names { ($($name:ident)*) => { match self.0 { $($name => stringify!($name),)* other => {
            return write!(formatter, "{other}");
        } } } }
        formatter.write_str(names! {
            SIGHUP SIGINT SIGQUIT SIGILL SIGTRAP SIGABRT SIGBUS SIGFPE SIGKILL SIGUSR1 SIGSEGV SIGUSR2 SIGPIPE SIGALRM
            SIGTERM SIGSTKFLT SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGTTIN SIGTTOU SIGURG SIGXCPU SIGXFSZ SIGVTALRM SIGPROF
            SIGWINCH SIGIO SIGPWR SIGSYS
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_the_signals_1_to_64() {
        assert_eq!(SignalSet::of(&[1, 64]).0, 1 | 1 << 63);
        assert_eq!(SignalSet::only(0).with(SignalSet::only(65)), SignalSet::EMPTY);
        assert!(!SignalSet(u64::MAX).contains(0) && !SignalSet(u64::MAX).contains(65));
        assert_eq!(SignalSet(u64::MAX).iter().count(), 64);
    }

    #[test]
    fn faults_come_first_and_then_the_lowest_number() {
        assert_eq!(SignalSet::of(&[SIGHUP, SIGUSR1, SIGSEGV]).first(), Some(SIGSEGV));
        assert_eq!(SignalSet::of(&[SIGTERM, SIGUSR1, 40]).first(), Some(SIGUSR1));
        assert_eq!(SignalSet::EMPTY.first(), None);
    }

    #[test]
    fn signals_have_names() {
        assert_eq!(format!("{} {}", Name(SIGTERM), Name(40)), "SIGTERM 40");
    }
}
