//! The lease (R5, R10, R19): how long an answer of the backup lets its primary speak, and how long whoever takes over has to wait for that.
//! Nothing else counts from the stamps that were echoed.

use std::time::Duration;

use crate::lab::mutant;

use super::node::Node;
use super::role::{Alone, State};
use super::time::{Instant, Number, Timing};

/// What the lease counts from, on this node's clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Lease {
    /// The newest stamp of this node that the peer has echoed; 0: none.
    echo: u64,
    /// When that echo came first.
    echo_at: Instant,
    /// When the newest stamp of the peer came that this node ever echoed: its answer may entitle the peer until LEASE after.
    granted_at: Instant,
    /// Candidate: the same as it was when the suspicion began; `None`: nothing leaves the primary any more, nor is on its way (R21).
    waits_from: Option<Instant>,
}

impl Lease {
    /// The peer has echoed this stamp.
    pub(super) fn echoed(&mut self, echo: u64, now: Instant) {
        if echo > self.echo {
            (self.echo, self.echo_at) = (echo, now);
        }
    }

    /// This node is about to echo a stamp of the peer that came then.
    pub(super) fn grant(&mut self, stamp_came_at: Instant) {
        self.granted_at = stamp_came_at;
    }

    /// It counts as expired until the first answer to something sent from here on.
    pub(super) fn expire(&mut self) {
        self.echo = 0;
    }

    /// The peer is suspected, and nothing more is granted.
    pub(super) fn begin_wait(&mut self) {
        self.waits_from = Some(self.granted_at);
    }

    /// What was granted is given back.
    pub(super) fn nothing_to_wait_for(&mut self) {
        self.waits_from = None;
    }

    /// When the peer last showed that it lives and hears this node: such an echo counts for as long as it would let an output leave.
    pub(super) fn alive_at(&self, timing: &Timing) -> Instant {
        self.echo_at.min(Instant(self.echo).after(timing.lease))
    }

    /// Before this moment the stamp of ours that the backup has echoed is younger than LEASE: it cannot have won (R5, R10).
    fn valid_until(&self, timing: &Timing) -> Option<Instant> {
        (self.echo != 0).then(|| Instant(self.echo).after(timing.lease))
    }

    /// When what this node has granted is over by any clock (R10).
    pub(super) fn over_at(&self, timing: &Timing) -> Instant {
        let wait = timing.stretched(timing.lease);
        self.over_after(if mutant!(AskEarly) { wait - Duration::from_millis(50) } else { wait })
    }

    /// When no write of the old primary can land any more: each has completed within W of its check (R19).
    fn writes_over_at(&self, timing: &Timing) -> Instant {
        self.over_after(timing.stretched(timing.lease + timing.write_bound))
    }

    fn over_after(&self, wait: Duration) -> Instant {
        self.waits_from.map_or(Instant(0), |from| from.after(wait))
    }

    pub(super) fn numbers(&mut self, visit: &mut dyn FnMut(Number, &mut u64)) {
        let moments = [&mut self.echo_at, &mut self.granted_at].into_iter().chain(&mut self.waits_from);
        moments.map(|at| &mut at.0).chain([&mut self.echo]).for_each(|time| visit(Number::Time, time));
    }
}

impl Node {
    /// Before which moment outputs may leave here, for all that their order and the log say; `None`: not at all (R5).
    pub(super) fn may_speak_until(&self) -> Option<Instant> {
        match &self.state {
            State::Alone(Alone::Reissuing { .. } | Alone::Live(_) | Alone::LiveUnheld(_)) => Some(Instant(u64::MAX)),
            State::Protected(_) if self.has_handed_over() && self.config.rules.handed_over_silent => None,
            State::Protected(_) if !self.config.rules.output_lease => Some(Instant(u64::MAX)),
            State::Protected(_) => self.hearing.lease.valid_until(&self.config.timing),
            State::Alone(Alone::SeeksBackup(_) | Alone::AwaitsOldWrites { .. }) => None,
            State::Spare | State::Joining { .. } | State::Backup(_) | State::Candidate { .. } => None,
            State::Won | State::Halted { .. } => None,
        }
    }

    /// Whether this node may tell the network that the VM is here (R16): a winner from its attaching on, whatever it waits for before its
    /// first output; a primary with a backup while its lease lasts, for the backup may be live by now (R5).
    pub fn may_announce(&self, now: Instant) -> bool {
        match &self.state {
            State::Alone(alone) => !matches!(alone, Alone::SeeksBackup(_)),
            State::Protected(_) if self.has_handed_over() => false,
            State::Protected(_) => self.hearing.lease.valid_until(&self.config.timing).is_some_and(|until| now < until),
            State::Spare | State::Joining { .. } | State::Backup(_) | State::Candidate { .. } => false,
            State::Won | State::Halted { .. } => false,
        }
    }

    /// When a winner's first write may leave (R19).
    pub(super) fn may_write_at(&self) -> Instant {
        if self.config.rules.writes_waited_out {
            self.hearing.lease.writes_over_at(&self.config.timing)
        } else {
            self.now
        }
    }
}
