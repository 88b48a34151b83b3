//! What a node is to the VM: its role by name, and the data of that role.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use crate::log::{Fingerprint, LogPosition};

use super::interface::{HaltReason, NeedsBackup};
use super::lag::Lag;
use super::numbers::{Incarnation, OutputIndex};
use super::primary::LogState;
use super::time::{Instant, Number};
use super::wire::OutputMark;

/// The roles of the protocol. `Alone` and `Protected` are the primary without and with a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A fresh process, entitled to nothing (R1).
    Spare,
    /// Connected to a primary, not committed to: entitled to nothing (R14).
    Joining,
    /// Holds the log, answers the primary, may become a candidate.
    Backup,
    /// Suspects the primary: silent, drains its log, waits the lease out, asks the arbiter (R9, R10).
    Candidate,
    /// Won the arbiter as a backup; attaches the devices (R16).
    Won,
    /// The primary of its generation, without a backup: releases outputs freely.
    Alone,
    /// The primary with a backup: releases what R5 allows.
    Protected,
    /// Out: nothing is attached, nothing is said. The way back is a new process.
    Halted,
}

impl Role {
    /// Whether this node runs the guest live, or would if the guest were started.
    pub fn is_primary(self) -> bool {
        matches!(self, Role::Alone | Role::Protected)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Role::Spare => "SPARE",
            Role::Joining => "JOINING",
            Role::Backup => "BACKUP",
            Role::Candidate => "CANDIDATE",
            Role::Won => "WON",
            Role::Alone => "ALONE",
            Role::Protected => "PROTECTED",
            Role::Halted => "HALTED",
        })
    }
}

/// The log session of this node, from its own side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Session {
    /// The runtime's number of the connection.
    pub(super) connection: u64,
    /// The number that both sides know it by, counted by the primary.
    pub(super) number: u64,
    /// When the handshake is given up; `None`: it is over, and entries and heartbeats flow.
    pub(super) handshake_until: Option<Instant>,
}

impl Session {
    pub(super) fn is_established(&self) -> bool {
        self.handshake_until.is_none()
    }
}

/// Since when the peer is suspected, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Suspicion {
    pub(super) since: Instant,
    pub(super) reason: &'static str,
    /// What it will be to the VM if this node goes on alone.
    pub(super) loss: NeedsBackup,
}

/// What the operator wants of a pair (R21).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Planned {
    /// The primary is to go on without its backup.
    LettingGo,
    /// The VM is to be the backup's, and the guest waits.
    HandingOver {
        /// When that is given up.
        until: Instant,
    },
    /// The backup was told that nothing more leaves this node.
    HandedOver {
        /// By then it is to have won the VM.
        until: Instant,
    },
}

impl Planned {
    /// When it is over, if it has an end.
    pub(super) fn until(&mut self) -> Option<&mut Instant> {
        match self {
            Planned::LettingGo => None,
            Planned::HandingOver { until } | Planned::HandedOver { until } => Some(until),
        }
    }
}

/// A role with its own data: data of another role cannot be there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum State {
    Spare,
    Joining {
        primary: Incarnation,
        session: Session,
        /// The state that it was given; `None`: it has the initial one.
        restored: Option<GuestState>,
    },
    Backup(Following),
    Candidate {
        following: Following,
        suspicion: Suspicion,
        /// The log is closed and replayed to its end.
        drained: bool,
    },
    Won,
    Alone(Alone),
    Protected(Protection),
    Halted {
        /// `None`: an orderly end.
        reason: Option<HaltReason>,
    },
}

/// A replica of a primary that has committed to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Following {
    pub(super) primary: Incarnation,
    pub(super) session: Option<Session>,
    /// Number of the newest session, which a later one must exceed.
    pub(super) newest_session: u64,
    /// The outputs of replay that R has not come to, each behind the position that it depends on.
    pub(super) unreleased: VecDeque<(LogPosition, OutputMark)>,
}

/// How far a primary without a backup is with running its guest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Alone {
    /// The guest has not started: it waits for a backup, with which a handshake may be under way.
    SeeksBackup(Option<Joiner>),
    /// A winner, attached and announced; no write of the old primary may land after this (R19).
    AwaitsOldWrites {
        /// When the first output may leave.
        until: Instant,
    },
    /// The outputs that may not have left are emitted again.
    Reissuing {
        /// The last of them.
        through: OutputIndex,
    },
    /// The guest runs. Somebody may be on the way to become its backup.
    Live(Option<Joiner>),
    /// With R14 switched off only: the guest runs and COMMIT was sent, but outputs are not held until the first answer.
    LiveUnheld(Protection),
}

/// Who may become the backup, on a connection that this primary has dialled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Joiner {
    pub(super) session: Session,
    /// Once it has said welcome.
    pub(super) incarnation: Option<Incarnation>,
    /// How far the guest's state is on its way, if the guest runs.
    pub(super) transfer: Option<Transfer>,
}

/// A state of the guest: where in the log, and a digest of all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct GuestState {
    pub(super) position: LogPosition,
    pub(super) digest: Fingerprint,
}

/// The guest's state on its way to a joiner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Transfer {
    /// The guest waits, or is about to.
    pub(super) stops: bool,
    /// The guest waits in this state, and all of it is sent.
    pub(super) stopped: Option<GuestState>,
    /// The joiner has this state.
    pub(super) restored: Option<GuestState>,
}

/// A primary's side of its backup. The guest runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Protection {
    pub(super) backup: Incarnation,
    pub(super) session: Option<Session>,
    pub(super) suspicion: Option<Suspicion>,
    pub(super) planned: Option<Planned>,
    pub(super) next_heartbeat: Instant,
    /// When entries were appended that are not acknowledged: (last position, when its first was), oldest first, at most a few dozen.
    ages: VecDeque<(LogPosition, Instant)>,
    /// How far the backup's replay is behind.
    pub(super) lag: Lag,
    /// The newest output of which the backup has said that it knows it to have completed.
    pub(super) confirmed: OutputIndex,
    /// The newest output of whose completion the backup was told on the log.
    pub(super) told: OutputIndex,
    /// Writes that wait until the backup knows of an older one: their indices, and the older ones'.
    pub(super) overlapping: VecDeque<(OutputIndex, OutputIndex)>,
    /// The position of the state that the backup began with.
    pub(super) committed_at: LogPosition,
}

impl Protection {
    /// From COMMIT on, with everything released by then known to the backup.
    pub(super) fn new(
        backup: Incarnation,
        session: Session,
        now: Instant,
        released: OutputIndex,
        committed_at: LogPosition,
    ) -> Protection {
        Protection {
            backup,
            session: Some(session),
            suspicion: None,
            planned: None,
            next_heartbeat: now,
            ages: VecDeque::new(),
            lag: Lag::default(),
            confirmed: released,
            told: OutputIndex::NONE,
            overlapping: VecDeque::new(),
            committed_at,
        }
    }

    /// Whether entries and heartbeats flow.
    pub(super) fn is_connected(&self) -> bool {
        self.session.is_some_and(|session| session.is_established())
    }

    /// Age of the oldest entry that is not acknowledged.
    pub(super) fn unacknowledged_for(&self, now: Instant) -> Duration {
        self.ages.front().map_or(Duration::ZERO, |(_, at)| now.since(*at))
    }

    /// The guest has appended to the log, up to here.
    pub(super) fn append(&mut self, log: &mut LogState, through: LogPosition, now: Instant, mark_every: Duration) {
        if through <= log.appended {
            return;
        }
        log.appended = through;
        match self.ages.back_mut() {
            // One mark covers what was appended within a short while, and counts as old as its first entry.
            Some((last, at)) if now.since(*at) < mark_every => *last = through,
            _ => self.ages.push_back((through, now)),
        }
    }

    /// The backup holds the log up to here; returns whether that is news.
    pub(super) fn acknowledge(&mut self, log: &mut LogState, through: LogPosition) -> bool {
        let news = through > log.acknowledged;
        log.acknowledged = log.acknowledged.max(through);
        while self.ages.front().is_some_and(|(last, _)| *last <= log.acknowledged) {
            self.ages.pop_front();
        }
        news
    }

    /// The backup says that it holds the log up to `stored` and has replayed it up to `replayed`; returns whether the first is news.
    pub(super) fn heard(
        &mut self,
        log: &mut LogState,
        stored: LogPosition,
        replayed: LogPosition,
        now: Instant,
        lag_max: Duration,
    ) -> bool {
        let news = self.acknowledge(log, stored);
        if news {
            self.lag.acknowledged(stored, now, lag_max);
        }
        log.replayed = log.replayed.max(replayed);
        self.lag.replayed(log.replayed);
        news
    }

    /// The backup is there again. What it owes is counted from now: nothing could reach it meanwhile.
    pub(super) fn resume(&mut self, now: Instant) {
        self.ages.iter_mut().for_each(|(_, at)| *at = now);
        self.lag.resume(now);
    }

    fn numbers(&mut self, visit: &mut dyn FnMut(Number, &mut u64)) {
        visit(Number::Deadline, &mut self.next_heartbeat.0);
        if let Some(until) = self.planned.as_mut().and_then(Planned::until) {
            visit(Number::Deadline, &mut until.0);
        }
        let suspected = self.suspicion.as_mut().map(|suspicion| &mut suspicion.since);
        let ages = self.ages.iter_mut().map(|(_, at)| at);
        ages.chain(suspected).for_each(|at| visit(Number::Time, &mut at.0));
        self.lag.numbers(visit);
    }
}

impl State {
    /// By name.
    pub(super) fn role(&self) -> Role {
        match self {
            State::Spare => Role::Spare,
            State::Joining { .. } => Role::Joining,
            State::Backup(_) => Role::Backup,
            State::Candidate { .. } => Role::Candidate,
            State::Won => Role::Won,
            State::Alone(_) => Role::Alone,
            State::Protected(_) => Role::Protected,
            State::Halted { .. } => Role::Halted,
        }
    }

    /// The log session, if there is one.
    pub(super) fn session(&self) -> Option<&Session> {
        match self {
            State::Joining { session, .. } => Some(session),
            State::Alone(Alone::SeeksBackup(Some(joiner)) | Alone::Live(Some(joiner))) => Some(&joiner.session),
            State::Backup(following) | State::Candidate { following, .. } => following.session.as_ref(),
            State::Protected(protection) | State::Alone(Alone::LiveUnheld(protection)) => protection.session.as_ref(),
            State::Spare | State::Won | State::Alone(_) | State::Halted { .. } => None,
        }
    }

    /// The node on the other side: the primary that a follower follows, the backup that a primary has or may get.
    pub(super) fn peer(&self) -> Incarnation {
        match self {
            State::Joining { primary, .. } => *primary,
            State::Backup(following) | State::Candidate { following, .. } => following.primary,
            State::Alone(Alone::SeeksBackup(Some(joiner)) | Alone::Live(Some(joiner))) => {
                joiner.incarnation.unwrap_or(Incarnation::NONE)
            }
            State::Protected(protection) | State::Alone(Alone::LiveUnheld(protection)) => protection.backup,
            State::Spare | State::Won | State::Alone(_) | State::Halted { .. } => Incarnation::NONE,
        }
    }

    /// What a backup or candidate has of its primary.
    pub(super) fn following(&self) -> Option<&Following> {
        match self {
            State::Backup(following) | State::Candidate { following, .. } => Some(following),
            _ => None,
        }
    }

    pub(super) fn following_mut(&mut self) -> Option<&mut Following> {
        match self {
            State::Backup(following) | State::Candidate { following, .. } => Some(following),
            _ => None,
        }
    }

    /// What a primary has of a backup that it has committed to.
    pub(super) fn protection(&self) -> Option<&Protection> {
        match self {
            State::Protected(protection) | State::Alone(Alone::LiveUnheld(protection)) => Some(protection),
            _ => None,
        }
    }

    pub(super) fn protection_mut(&mut self) -> Option<&mut Protection> {
        match self {
            State::Protected(protection) | State::Alone(Alone::LiveUnheld(protection)) => Some(protection),
            _ => None,
        }
    }

    /// Whether the guest runs live.
    pub(super) fn is_live(&self) -> bool {
        matches!(self, State::Protected(_) | State::Alone(Alone::Live(_) | Alone::LiveUnheld(_)))
    }

    /// Who may become the backup of a primary that has none and looks for one, or whose guest runs.
    pub(super) fn joiner_mut(&mut self) -> Option<&mut Option<Joiner>> {
        match self {
            State::Alone(Alone::SeeksBackup(joiner) | Alone::Live(joiner)) => Some(joiner),
            _ => None,
        }
    }

    /// The same where there is somebody.
    pub(super) fn joiner(&self) -> Option<&Joiner> {
        match self {
            State::Alone(Alone::SeeksBackup(joiner) | Alone::Live(joiner)) => joiner.as_ref(),
            _ => None,
        }
    }

    pub(super) fn suspicion(&self) -> Option<&Suspicion> {
        match self {
            State::Candidate { suspicion, .. } => Some(suspicion),
            State::Protected(protection) => protection.suspicion.as_ref(),
            _ => None,
        }
    }

    /// Takes the session out; whoever was joining over it is forgotten. Not a joiner's own, without which it is none: `Node::give_joining_up`.
    pub(super) fn drop_session(&mut self) -> Option<Session> {
        match self {
            State::Backup(following) | State::Candidate { following, .. } => following.session.take(),
            State::Protected(protection) | State::Alone(Alone::LiveUnheld(protection)) => protection.session.take(),
            State::Alone(Alone::SeeksBackup(joiner) | Alone::Live(joiner)) => {
                joiner.take().map(|joiner| joiner.session)
            }
            State::Spare | State::Joining { .. } | State::Won | State::Alone(_) | State::Halted { .. } => None,
        }
    }

    /// See `Node::numbers`.
    pub(super) fn numbers(&mut self, visit: &mut dyn FnMut(Number, &mut u64)) {
        match self {
            State::Joining { session, .. } => visit_handshake(Some(session), visit),
            State::Alone(Alone::SeeksBackup(Some(joiner)) | Alone::Live(Some(joiner))) => {
                visit_handshake(Some(&mut joiner.session), visit);
            }
            State::Backup(following) => visit_handshake(following.session.as_mut(), visit),
            State::Candidate { following, suspicion, .. } => {
                visit_handshake(following.session.as_mut(), visit);
                visit(Number::Time, &mut suspicion.since.0);
            }
            State::Alone(Alone::AwaitsOldWrites { until }) => visit(Number::Deadline, &mut until.0),
            State::Protected(protection) | State::Alone(Alone::LiveUnheld(protection)) => {
                visit_handshake(protection.session.as_mut(), visit);
                protection.numbers(visit);
            }
            State::Spare | State::Won | State::Alone(_) | State::Halted { .. } => {}
        }
    }
}

fn visit_handshake(session: Option<&mut Session>, visit: &mut dyn FnMut(Number, &mut u64)) {
    let until = session.and_then(|session| session.handshake_until.as_mut());
    until.into_iter().for_each(|until| visit(Number::Deadline, &mut until.0));
}
