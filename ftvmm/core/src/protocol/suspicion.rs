//! What a node has heard of its peer, and when that makes it suspect the peer (R3, R4, R7).

use std::time::Duration;

use super::interface::{NeedsBackup, Output, Path, TraceEvent};
use super::lease::Lease;
use super::node::Node;
use super::numbers::Incarnation;
use super::role::{Following, Planned, Protection, State, Suspicion};
use super::time::{Instant, Number};
use super::wire::{Header, Message};

/// What was heard of the peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Hearing {
    /// The newest stamp of the peer (its clock).
    pub(super) peer_stamp: u64,
    /// When that stamp came (this node's clock).
    peer_stamp_at: Instant,
    /// What echoes entitle to, here and there.
    pub(super) lease: Lease,
    /// The peer's silence is counted from here at the earliest.
    silent_from: Instant,
    /// The newest sequence number on each path: the log, then the heartbeat networks.
    sequences: Vec<u64>,
    /// When something came last on each path.
    pub(super) heard_on: Vec<Option<Instant>>,
}

/// The place of a path in `Hearing`'s lists.
fn place(path: Path) -> usize {
    match path {
        Path::Log { .. } => 0,
        Path::Heartbeat { network } => usize::from(network) + 1,
    }
}

impl Hearing {
    /// A session begins: silence is counted from now. Stamps of another peer are forgotten.
    pub(super) fn begin(&mut self, now: Instant, same_peer: bool) {
        if !same_peer {
            *self = Hearing::default();
        }
        self.silent_from = now;
    }

    pub(super) fn numbers(&mut self, peer: Incarnation, visit: &mut dyn FnMut(Number, &mut u64)) {
        self.heard_on.fill(None);
        self.lease.numbers(visit);
        let times = [&mut self.peer_stamp_at.0, &mut self.silent_from.0, &mut self.peer_stamp];
        times.into_iter().for_each(|time| visit(Number::Time, time));
        self.sequences.iter_mut().for_each(|sequence| visit(Number::Sequence(peer.0), sequence));
    }

    /// A message is about to echo the newest stamp heard.
    pub(super) fn echoed(&mut self) {
        self.lease.grant(self.peer_stamp_at);
    }

    /// Takes a header in; false: it is not newer on its path and counts for nothing (R3).
    pub(super) fn hear(&mut self, path: Path, header: &Header, now: Instant) -> bool {
        let place = place(path);
        if self.sequences.len() <= place {
            self.sequences.resize(place + 1, 0);
            self.heard_on.resize(place + 1, None);
        }
        if header.sequence <= self.sequences[place] {
            return false;
        }
        self.sequences[place] = header.sequence;
        self.heard_on[place] = Some(now);
        if header.stamp > self.peer_stamp {
            self.peer_stamp = header.stamp;
            self.peer_stamp_at = now;
        }
        self.lease.echoed(header.echo, now);
        true
    }
}

impl Node {
    /// R3: whether a message belongs to this VM, generation, peer and session.
    pub(super) fn belongs(&self, path: Path, message: &Message) -> bool {
        if !self.config.rules.message_identity {
            return true;
        }
        let header = &message.header;
        let session = self.state.session();
        // Outside of a session nothing belongs, unless a test lets a candidate speak (R9).
        let speaks = session.is_some() || !self.config.rules.silent_candidate;
        let number = if speaks { self.session_number() } else { 0 };
        let known_path = match path {
            Path::Log { connection } => session.is_some_and(|session| session.connection == connection),
            Path::Heartbeat { network } => network < self.config.heartbeat_paths,
        };
        known_path
            && number != 0
            && header.vm == self.config.vm
            && header.generation == self.generation
            && header.incarnation == self.state.peer()
            && header.session == number
    }

    /// Whether this is a new word of the peer's: it is where it came from then.
    pub fn is_heard_first(&self, path: Path, bytes: &[u8]) -> bool {
        let Ok(message) = Message::decode(bytes) else { return false };
        let newest = self.hearing.sequences.get(place(path)).copied().unwrap_or(0);
        self.belongs(path, &message) && message.header.sequence > newest
    }

    /// Looks whether the peer is to be suspected, and draws the consequences.
    pub(super) fn judge(&mut self, outputs: &mut Vec<Output>) {
        let since = self.now;
        let suspicion = match &self.state {
            State::Protected(protection) => self.primary_suspects(protection),
            State::Backup(following) => self.backup_suspects(following),
            _ => None,
        };
        let suspicion = suspicion.map(|(loss, reason)| Suspicion { since, reason, loss });
        match &mut self.state {
            State::Backup(_) => {
                if let Some(suspicion) = suspicion {
                    outputs.push(Output::Trace(TraceEvent::Suspect { reason: suspicion.reason.to_owned() }));
                    self.become_candidate(suspicion, outputs);
                }
            }
            State::Protected(protection) => match (suspicion, protection.suspicion) {
                (Some(suspicion), None) => {
                    protection.suspicion = Some(suspicion);
                    outputs.push(Output::Trace(TraceEvent::Suspect { reason: suspicion.reason.to_owned() }));
                }
                // The peer is well again. An ask that may have been applied is settled first (R11).
                (None, Some(_)) if !self.arbitration.is_committed() => {
                    protection.suspicion = None;
                    self.arbitration.withdraw();
                }
                _ => {}
            },
            _ => {}
        }
    }

    /// When the peer last showed that it lives and hears this node. What comes from it may have waited on the way while it died; only what
    /// echoes a stamp was said after that stamp.
    fn alive_at(&self) -> Instant {
        let hearing = &self.hearing;
        let alive_at = if self.config.rules.suspect_two_way {
            hearing.lease.alive_at(&self.config.timing)
        } else {
            hearing.peer_stamp_at
        };
        alive_at.max(hearing.silent_from)
    }

    /// This node stood still for so long, and gave nothing that the peer could have echoed or replayed.
    pub(super) fn stood_still(&mut self, gap: Duration) {
        self.hearing.silent_from = self.alive_at().after(gap);
        if let Some(protection) = self.state.protection_mut() {
            protection.lag.stood_still(gap);
        }
    }

    fn silent(&self) -> bool {
        self.now.since(self.alive_at()) > self.config.timing.detect
    }

    /// When the peer's silence will have lasted too long.
    pub(super) fn silence_at(&self) -> Instant {
        Instant(self.alive_at().after(self.config.timing.detect).0 + 1)
    }

    fn primary_suspects(&self, protection: &Protection) -> Option<(NeedsBackup, &'static str)> {
        let rules = &self.config.rules;
        let timing = &self.config.timing;
        let unacknowledged = protection.unacknowledged_for(self.now) > timing.acknowledge;
        Some(match protection.planned {
            Some(Planned::LettingGo) => (NeedsBackup::Operator, "the operator lets the backup go"),
            _ if !protection.is_connected() => (NeedsBackup::ConnectionLost, "session closed"),
            _ if self.silent() => (NeedsBackup::ConnectionLost, "no answer"),
            Some(Planned::HandedOver { until }) if until <= self.now => {
                (NeedsBackup::ConnectionLost, "the backup does not take the VM over")
            }
            _ if rules.suspect_unacknowledged && unacknowledged => (NeedsBackup::Lag, "entries unacknowledged"),
            _ if rules.suspect_lag && protection.lag.age(self.now) > timing.lag => {
                (NeedsBackup::Lag, "replay is too far behind")
            }
            _ => return None,
        })
    }

    fn backup_suspects(&self, following: &Following) -> Option<(NeedsBackup, &'static str)> {
        let reason = if following.session.is_none() {
            "session closed"
        } else if self.silent() {
            let speaks = self.now.since(self.hearing.peer_stamp_at) <= self.config.timing.detect;
            if speaks { "no fresh echo in what the primary says" } else { "no heartbeat" }
        } else {
            return None;
        };
        Some((NeedsBackup::ConnectionLost, reason))
    }

    /// For `ftvmm status`: age of the newest message on each path.
    pub(super) fn heard_ages(&self, now: Instant) -> Vec<Option<Duration>> {
        let paths = usize::from(self.config.heartbeat_paths) + 1;
        (0..paths).map(|place| self.hearing.heard_on.get(place).copied().flatten().map(|at| now.since(at))).collect()
    }
}
