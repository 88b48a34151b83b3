//! What a takeover needs beside the log: NIC and disk, open and just checked before the arbiter is asked (R24), and the arbiter.
//!
//! Who wins and cannot attach has killed the VM: the other side has lost, and halts. A backup looks all the time, so that its pair knows
//! while there still is a primary to mend it beside (R25).

use super::interface::{ArbiterRecord, HaltReason, NeedsBackup, Output, ReadResult, TraceEvent};
use super::lag::Share;
use super::node::Node;
use super::numbers::Incarnation;
use super::role::Role;
use super::time::{Instant, Number, Timing};

/// What of the VM's devices a check could not open or found unusable, in words; nothing: the VM can be attached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Unusable {
    /// A network interface that is missing, down or another process's.
    pub network: Option<String>,
    /// A disk that cannot be opened or read.
    pub disk: Option<String>,
}

impl Unusable {
    /// All that was found, in one line; `None`: nothing.
    pub fn reason(&self) -> Option<String> {
        joined([&self.network, &self.disk].into_iter().flatten().map(String::as_str))
    }
}

fn joined<'a>(parts: impl Iterator<Item = &'a str>) -> Option<String> {
    let parts: Vec<&str> = parts.collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// What a backup needs for a takeover and cannot use, by the bits of `lacks` in its answers to the primary.
const LACKS: [(u8, &str); 3] = [(NETWORK, "its network interface"), (DISK, "its disk"), (ARBITER, "the arbiter")];
const NETWORK: u8 = 1;
const DISK: u8 = 2;
const ARBITER: u8 = 4;
/// What a backup says as it goes: it has diverged.
pub(super) const DIVERGED: u8 = 32;
/// Or its host cannot go on with the guest.
pub(super) const HOST_FAILED: u8 = 64;
/// Primary, beside those: there is so much to replay first that its guest is stalled (R26).
const REPLAY: u8 = 128;

/// When one kind of check is made: never two of it at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Check {
    /// The one under way, and when it began.
    under_way: Option<(u64, Instant)>,
    due_at: Instant,
}

impl Check {
    fn is_due(&self, now: Instant) -> bool {
        self.under_way.is_none() && self.due_at <= now
    }

    /// Whether this answers the one under way, which is over then.
    fn end(&mut self, request: u64, next_at: Instant) -> bool {
        let ended = self.under_way.is_some_and(|(expected, _)| expected == request);
        if ended {
            *self = Check { under_way: None, due_at: next_at };
        }
        ended
    }

    /// As long as this, and it counts as failed.
    fn hangs(&self, now: Instant, timing: &Timing) -> bool {
        self.under_way.is_some_and(|(_, since)| now.since(since) >= timing.check)
    }
}

/// Where this node stands with its checks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Readiness {
    devices: Check,
    /// When the devices' last check ended; `None`: what it found counts for nothing now.
    checked_at: Option<Instant>,
    found: Unusable,
    arbiter: Check,
    /// What the last look at the arbiter found wrong.
    arbiter_fault: Option<String>,
    /// Primary: what its backup lacks, as the newest answer says.
    pub(super) heard: u8,
    /// What the trace says is lacking.
    traced: u8,
}

impl Readiness {
    /// Only what a check says from now on counts: the one under way, or a new one at once.
    pub(super) fn begin(&mut self, now: Instant) {
        self.checked_at = None;
        self.devices.due_at = now;
    }

    /// Primary: what its backup has said as it went.
    pub(super) fn why_the_backup_goes(&self) -> Option<NeedsBackup> {
        match self.heard {
            heard if heard & DIVERGED != 0 => Some(NeedsBackup::Divergence),
            heard if heard & HOST_FAILED != 0 => Some(NeedsBackup::Hardware),
            _ => None,
        }
    }

    pub(super) fn numbers(&mut self, own: Incarnation, visit: &mut dyn FnMut(Number, &mut u64)) {
        self.checked_at.iter_mut().for_each(|at| visit(Number::Time, &mut at.0));
        for check in [&mut self.devices, &mut self.arbiter] {
            visit(Number::Deadline, &mut check.due_at.0);
            if let Some((request, since)) = &mut check.under_way {
                visit(Number::Request(own.0), request);
                visit(Number::Time, &mut since.0);
            }
        }
    }

    /// When the devices are checked next.
    pub(super) fn due_at(&self) -> Instant {
        self.devices.due_at
    }
}

impl Node {
    /// Has checked what is due. The devices never beside a request to the arbiter: what it wins is attached at once.
    pub(super) fn check_readiness(&mut self, outputs: &mut Vec<Output>) {
        let devices = match self.role() {
            Role::Backup => true,
            Role::Candidate => self.arbitration.is_idle(),
            Role::Spare => self.awaits_bootstrap(),
            _ => false,
        };
        if devices && self.readiness.devices.is_due(self.now) {
            let request = self.request();
            self.readiness.devices.under_way = Some((request, self.now));
            outputs.push(Output::CheckDevices { request });
        }
        if self.role() == Role::Backup && self.readiness.arbiter.is_due(self.now) {
            self.look_at_arbiter(outputs);
        }
        let lacks = match self.role() {
            Role::Backup | Role::Candidate => self.lacks(),
            Role::Protected => self.readiness.heard | if self.waits_for_replay() { REPLAY } else { 0 },
            _ => return,
        };
        if std::mem::replace(&mut self.readiness.traced, lacks) != lacks {
            outputs.push(Output::Trace(TraceEvent::Protection { lacks: self.not_protected() }));
        }
    }

    /// The bootstrap waits for the check: generation 1 must not be won for nothing, as nobody can win it twice.
    fn awaits_bootstrap(&self) -> bool {
        self.role() == Role::Spare && self.arbitration.bootstraps() && !self.arbitration.is_committed()
    }

    pub(super) fn devices_checked(&mut self, request: u64, found: Unusable, outputs: &mut Vec<Output>) {
        let timing = &self.config.timing;
        let waits = self.role() == Role::Candidate && found != Unusable::default();
        let next_at = self.now.after(if waits { timing.retry } else { timing.check });
        if !self.readiness.devices.end(request, next_at) {
            return;
        }
        self.readiness.checked_at = Some(self.now);
        self.readiness.found = found;
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
        readiness.devices.under_way.is_none() && fresh && readiness.found == Unusable::default()
    }

    /// Has the arbiter read where nothing is asked of it; an answer to an earlier look counts for nothing from here on.
    pub(super) fn look_at_arbiter(&mut self, outputs: &mut Vec<Output>) {
        let request = self.request();
        self.readiness.arbiter.under_way = Some((request, self.now));
        outputs.push(Output::CheckArbiter { request });
    }

    /// Takes the answer to a look at the arbiter; false: it answers something else.
    pub(super) fn arbiter_looked_at(&mut self, request: u64, result: ReadResult, outputs: &mut Vec<Output>) -> bool {
        if !self.readiness.arbiter.end(request, self.now.after(self.config.timing.check)) {
            return false;
        }
        let fault = match result {
            ReadResult::Record(ArbiterRecord { generation, incarnation })
                if (generation, incarnation) == (self.generation, self.state.peer()) =>
            {
                None
            }
            ReadResult::Record(ArbiterRecord { generation, incarnation }) => {
                Some(format!("the arbiter holds generation {generation} of incarnation {incarnation}"))
            }
            ReadResult::Empty => Some("the arbiter holds no generation of this VM".to_owned()),
            ReadResult::Unreachable => Some("the arbiter is out of reach".to_owned()),
        };
        match self.role() {
            Role::Joining => self.joiner_looked(result, fault, outputs),
            // It decides nothing (R25).
            _ => self.readiness.arbiter_fault = fault,
        }
        true
    }

    /// The state at this node's COMMIT: nothing is known yet.
    pub(super) fn begin_readiness(&mut self) {
        self.readiness.begin(self.now);
        self.readiness.arbiter.due_at = self.now;
        self.readiness.arbiter_fault = None;
    }

    /// Backup, candidate: what it needs for a takeover and cannot use.
    pub(super) fn lacks(&self) -> u8 {
        let (readiness, timing) = (&self.readiness, &self.config.timing);
        let arbiter = match self.role() {
            // It looks at the arbiter by asking it.
            Role::Candidate => self.arbitration.unreachable,
            _ => readiness.arbiter_fault.is_some() || readiness.arbiter.hangs(self.now, timing),
        };
        let bit = |lacking, bit| if lacking { bit } else { 0 };
        bit(readiness.found.network.is_some(), NETWORK)
            // A look at an interface does not hang: the disk does.
            | bit(readiness.found.disk.is_some() || readiness.devices.hangs(self.now, timing), DISK)
            | bit(arbiter, ARBITER)
    }

    /// Primary: its guest is stalled until its backup has replayed more.
    fn waits_for_replay(&self) -> bool {
        self.state.protection().is_some_and(|protection| protection.lag.share() == Share::NONE)
    }

    /// Why the backup could not take over now, or what keeps the candidate from it; `None`: it could, or there is none (R25).
    pub(super) fn not_protected(&self) -> Option<String> {
        let (readiness, timing) = (&self.readiness, &self.config.timing);
        match self.role() {
            Role::Protected => {
                let lacking = LACKS.iter().filter(|(bit, _)| readiness.heard & bit != 0).map(|(_, name)| *name);
                let names: Vec<&str> = lacking.collect();
                let unusable = (!names.is_empty()).then(|| format!("the backup cannot use {}", names.join(", ")));
                let goes = match readiness.why_the_backup_goes() {
                    Some(NeedsBackup::Divergence) => Some("the backup has diverged"),
                    Some(_) => Some("the backup's host has failed"),
                    None => None,
                };
                let behind = self.waits_for_replay().then_some("the backup's replay is too far behind");
                joined(unusable.as_deref().into_iter().chain(goes).chain(behind))
            }
            role @ (Role::Backup | Role::Candidate) => {
                let found = [&readiness.found.network, &readiness.found.disk].into_iter().flatten().map(String::as_str);
                let devices = readiness.devices.hangs(self.now, timing).then_some("the check of the devices hangs");
                let arbiter = match role {
                    Role::Candidate => self.arbitration.unreachable.then_some("the arbiter is out of reach"),
                    _ if readiness.arbiter.hangs(self.now, timing) => Some("the arbiter hangs"),
                    _ => readiness.arbiter_fault.as_deref(),
                };
                joined(found.chain(devices).chain(arbiter))
            }
            _ => None,
        }
    }
}
