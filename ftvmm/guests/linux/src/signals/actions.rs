//! What is to be done for each signal.

use linux_raw_sys::general::{
    SA_EXPOSE_TAGBITS, SA_NOCLDSTOP, SA_NOCLDWAIT, SA_NODEFER, SA_ONSTACK, SA_RESETHAND, SA_RESTART, SA_RESTORER,
    SA_SIGINFO,
};

use crate::signals::sets::{SIGNALS, SignalSet};

/// SIG_DFL and SIG_IGN of `asm-generic/signal-defs.h`.
const DEFAULT: u64 = 0;
const IGNORE: u64 = 1;
/// The flags that Linux knows; it forgets others, so that a program can tell.
const KNOWN_FLAGS: u64 = (SA_NOCLDSTOP
    | SA_NOCLDWAIT
    | SA_SIGINFO
    | SA_ONSTACK
    | SA_RESTART
    | SA_NODEFER
    | SA_RESETHAND
    | SA_EXPOSE_TAGBITS
    | SA_RESTORER) as u64;

/// What happens when a signal is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// the program's handler runs
    Handle,
    /// nothing
    Ignore,
    /// the process would stop
    Stop,
    /// the process ends
    End,
}

/// An action as rt_sigaction takes it (`struct sigaction` of `asm/signal.h`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Action {
    /// guest address, SIG_DFL or SIG_IGN
    pub handler: u64,
    /// SA_RESTART and the like
    pub flags: u64,
    /// what the handler returns to: it makes rt_sigreturn
    pub restorer: u64,
    /// blocked while the handler runs
    pub mask: SignalSet,
}

impl Action {
    /// Whether it has a flag.
    pub fn has(&self, flag: u32) -> bool {
        self.flags & u64::from(flag) != 0
    }

    /// What it means for that signal.
    pub fn disposition(&self, signal: u32) -> Disposition {
        match self.handler {
            DEFAULT if SignalSet::STOPPING.contains(signal) => Disposition::Stop,
            DEFAULT if !SignalSet::IGNORED_BY_DEFAULT.contains(signal) => Disposition::End,
            DEFAULT | IGNORE => Disposition::Ignore,
            _ => Disposition::Handle,
        }
    }
}

/// The actions for all signals.
#[derive(Clone, Debug)]
pub struct Actions([Action; SIGNALS as usize]);

impl Default for Actions {
    fn default() -> Actions {
        Actions([Action::default(); SIGNALS as usize])
    }
}

impl Actions {
    /// The action for a signal; the default one for a number that is none.
    pub fn get(&self, signal: u32) -> Action {
        (signal as usize).checked_sub(1).and_then(|index| self.0.get(index)).copied().unwrap_or_default()
    }

    /// What happens when a signal is delivered.
    pub fn disposition(&self, signal: u32) -> Disposition {
        self.get(signal).disposition(signal)
    }

    /// Sets the action for a signal.
    pub fn set(&mut self, signal: u32, action: Action) {
        if let Some(place) = (signal as usize).checked_sub(1).and_then(|index| self.0.get_mut(index)) {
            let mask = action.mask.without(SignalSet::UNBLOCKABLE);
            *place = Action { flags: action.flags & KNOWN_FLAGS, mask, ..action };
        }
    }

    /// Lets a signal have its default action again; flags and mask stay, as in Linux.
    pub fn reset(&mut self, signal: u32) {
        let action = self.get(signal);
        self.set(signal, Action { handler: DEFAULT, ..action });
    }
}

#[cfg(test)]
mod tests {
    use linux_raw_sys::general::{SIGCHLD, SIGKILL, SIGTERM, SIGTSTP};

    use super::*;

    #[test]
    fn defaults_are_those_of_signal_7() {
        let actions = Actions::default();
        assert_eq!(actions.disposition(SIGTERM), Disposition::End);
        assert_eq!(actions.disposition(40), Disposition::End);
        assert_eq!(actions.disposition(SIGCHLD), Disposition::Ignore);
        assert_eq!(actions.disposition(SIGTSTP), Disposition::Stop);
    }

    #[test]
    fn an_action_keeps_what_linux_keeps() {
        let mut actions = Actions::default();
        let mask = SignalSet::of(&[SIGKILL, SIGTERM]);
        let flags = u64::MAX;
        actions.set(SIGTERM, Action { handler: 0x1000, flags, restorer: 0x2000, mask });
        let action = actions.get(SIGTERM);
        assert_eq!(action.mask, SignalSet::only(SIGTERM));
        assert_eq!(action.flags, KNOWN_FLAGS);
        assert_eq!(action.disposition(SIGTERM), Disposition::Handle);
        actions.reset(SIGTERM);
        assert_eq!(actions.get(SIGTERM), Action { handler: DEFAULT, ..action });
        actions.set(SIGTERM, Action { handler: IGNORE, ..action });
        assert_eq!(actions.disposition(SIGTERM), Disposition::Ignore);
    }

    #[test]
    fn numbers_that_are_no_signals_have_no_action() {
        let mut actions = Actions::default();
        actions.set(0, Action { handler: 0x1000, ..Action::default() });
        actions.set(SIGNALS + 1, Action { handler: 0x1000, ..Action::default() });
        assert_eq!(actions.get(0), Action::default());
        assert_eq!(actions.get(SIGNALS + 1), Action::default());
    }
}
