//! What a takeover needs beside the log: NIC and disk, open and just checked before the arbiter is asked (R24).
//!
//! Who wins and cannot attach has killed the VM: the other side has lost, and halts.

use super::node::Node;
use super::output::{HaltReason, Output};
use super::role::Role;
use super::time::Instant;

/// What of the VM's devices a check could not open or found unusable, in words; nothing: the VM can be attached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unusable {
    /// A network interface that is missing, down or another process's.
    pub network: Option<String>,
    /// A disk that cannot be opened or read.
    pub disk: Option<String>,
}

impl Unusable {
    /// All that was found, in one line; `None`: nothing.
    pub fn reason(&self) -> Option<String> {
        let found: Vec<&str> = [&self.network, &self.disk].into_iter().flatten().map(String::as_str).collect();
        (!found.is_empty()).then(|| found.join("; "))
    }
}

/// Where this node stands with its checks.
#[derive(Clone, Debug, Default)]
pub(super) struct Readiness {
    /// The check under way.
    checking: Option<u64>,
    /// When the next one is due.
    pub(super) due_at: Instant,
    /// When the last one ended; `None`: what it found counts for nothing now.
    checked_at: Option<Instant>,
    found: Unusable,
}

impl Readiness {
    /// Only what a check says from now on counts: the one under way, or a new one at once.
    pub(super) fn begin(&mut self, now: Instant) {
        self.checked_at = None;
        self.due_at = now;
    }
}

impl Node {
    /// Has the devices checked when that is due. Never beside a request to the arbiter: what it wins is attached at once.
    pub(super) fn check_devices(&mut self, outputs: &mut Vec<Output>) {
        let wanted = match self.role {
            Role::Candidate => self.arbitration.is_idle(),
            Role::Spare => self.awaits_bootstrap(),
            _ => false,
        };
        if wanted && self.readiness.checking.is_none() && self.readiness.due_at <= self.now {
            let request = self.request();
            self.readiness.checking = Some(request);
            outputs.push(Output::CheckDevices { request });
        }
    }

    /// The bootstrap waits for the check: generation 1 must not be won for nothing, as nobody can win it twice.
    fn awaits_bootstrap(&self) -> bool {
        self.role == Role::Spare && self.arbitration.bootstraps() && !self.arbitration.is_committed()
    }

    pub(super) fn devices_checked(&mut self, request: u64, found: Unusable, outputs: &mut Vec<Output>) {
        if self.readiness.checking != Some(request) {
            return;
        }
        let timing = &self.config.timing;
        let pause = if found == Unusable::default() { timing.check } else { timing.retry };
        self.readiness = Readiness { checking: None, due_at: self.now.after(pause), checked_at: Some(self.now), found };
        if self.awaits_bootstrap() {
            match self.readiness.found.reason() {
                None => self.ask_for_bootstrap(outputs),
                Some(reason) => self.halt(HaltReason::Unattachable { reason }, outputs),
            }
        }
    }

    /// R24: whether the VM's devices are open here, and were usable a moment ago.
    pub(super) fn devices_usable(&self) -> bool {
        let readiness = &self.readiness;
        let fresh = readiness.checked_at.is_some_and(|at| self.now.since(at) < self.config.timing.check);
        readiness.checking.is_none() && fresh && readiness.found == Unusable::default()
    }
}
