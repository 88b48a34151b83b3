//! The primary with a backup: its log, its heartbeats, what it hears (R5, R7, R12).

use std::collections::VecDeque;
use std::time::Duration;

use crate::lab::mutant;

use super::input::Path;
use super::lag::Lag;
use super::node::Node;
use super::numbers::{Incarnation, LogPosition, OutputIndex};
use super::output::Output;
use super::role::Role;
use super::time::{Instant, Number};
use super::trace::TraceEvent;
use super::wire::{Body, Message, OutputMark};

/// How far the log has come: appended and acknowledged on the primary, stored and replayed on the backup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct LogState {
    /// Position of the newest entry appended (primary).
    pub(super) appended: LogPosition,
    /// Position up to which the backup holds the log (primary: heard; backup: said).
    pub(super) acknowledged: LogPosition,
    /// Position of the newest entry held (backup).
    pub(super) stored: LogPosition,
    /// Position of the newest entry replayed (backup: own; primary: heard).
    pub(super) replayed: LogPosition,
    /// When entries were appended: (last position, when its first was), oldest first, at most a few dozen.
    ages: VecDeque<(LogPosition, Instant)>,
    /// Primary: how far the backup's replay is behind.
    pub(super) lag: Lag,
    /// Candidate: the log is closed and replayed to its end.
    pub(super) drained: bool,
}

/// How many marks of age the unacknowledged entries are kept by.
const AGE_MARKS: u32 = 32;

impl LogState {
    /// Age of the oldest entry that is not acknowledged.
    pub(super) fn unacknowledged_for(&self, now: Instant) -> Duration {
        self.ages.front().map_or(Duration::ZERO, |(_, at)| now.since(*at))
    }

    pub(super) fn numbers(&mut self, visit: &mut dyn FnMut(Number, &mut u64)) {
        self.ages.iter_mut().for_each(|(_, at)| visit(Number::Time, &mut at.0));
        self.lag.numbers(visit);
    }

    fn append(&mut self, through: LogPosition, now: Instant, mark_every: Duration) {
        if through <= self.appended {
            return;
        }
        self.appended = through;
        match self.ages.back_mut() {
            // One mark covers what was appended within a short while, and counts as old as its first entry.
            Some((last, at)) if now.since(*at) < mark_every => *last = through,
            _ => self.ages.push_back((through, now)),
        }
    }

    /// The backup holds the log up to here; returns whether that is news.
    fn acknowledge(&mut self, through: LogPosition) -> bool {
        let news = through > self.acknowledged;
        self.acknowledged = self.acknowledged.max(through);
        while self.ages.front().is_some_and(|(last, _)| *last <= self.acknowledged) {
            self.ages.pop_front();
        }
        news
    }

    /// The backup says that it holds the log up to `stored` and has replayed it up to `replayed`; returns whether the first is news.
    fn heard(&mut self, stored: LogPosition, replayed: LogPosition, now: Instant, lag_max: Duration) -> bool {
        let news = self.acknowledge(stored);
        if news {
            self.lag.acknowledged(stored, now, lag_max);
        }
        self.replayed = self.replayed.max(replayed);
        self.lag.replayed(self.replayed);
        news
    }

    /// The backup is there again. What it owes is counted from now: nothing could reach it meanwhile.
    fn resume(&mut self, stored: LogPosition, replayed: LogPosition, now: Instant, lag_max: Duration) {
        self.heard(stored, replayed, now, lag_max);
        self.ages.iter_mut().for_each(|(_, at)| *at = now);
        self.lag.resume(now);
    }
}

impl Node {
    pub(super) fn entries_appended(&mut self, through: LogPosition, outputs: &mut Vec<Output>) {
        if self.role != Role::Protected && !self.awaits_first_answer() {
            // Nobody else needs them: what is live alone has the state itself.
            self.log.appended = self.log.appended.max(through);
            outputs.push(Output::TruncateLog { through });
            return;
        }
        let mark_every = self.config.timing.acknowledge / AGE_MARKS;
        self.log.append(through, self.now, mark_every);
        if self.log.acknowledged >= through {
            // The backup was faster than this news: what it holds needs no mark of age, and no room.
            self.log.acknowledge(through);
            outputs.push(Output::TruncateLog { through });
        }
    }

    /// The header for a frame with the entries `first..=through` on this connection; `None`: do not send it.
    pub fn stamp_entries(
        &mut self,
        connection: u64,
        first: LogPosition,
        through: LogPosition,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let session = self.session?;
        let streams = self.role == Role::Protected || self.awaits_first_answer();
        if !streams || !session.established || session.connection != connection {
            return None;
        }
        let header = self.header(now.max(self.now));
        self.told = self.released.index;
        Some(Message { header, body: Body::Entries { released: self.released_as_said(), first, through } }.encode())
    }

    /// R, as messages carry it.
    pub(super) fn released_as_said(&self) -> OutputMark {
        let index = if mutant!(ReleasedOneTooFar) { self.released.index.next() } else { self.released.index };
        OutputMark { index, ..self.released }
    }

    pub(super) fn send_heartbeats(&mut self, outputs: &mut Vec<Output>) {
        let established = self.session.is_some_and(|session| session.established);
        if self.role != Role::Protected || !established || self.now < self.next_heartbeat {
            return;
        }
        self.next_heartbeat = self.now.after(self.config.timing.heartbeat);
        for path in self.paths() {
            self.send(path, Body::Heartbeat { released: self.released_as_said() }, outputs);
        }
    }

    /// An answer of the backup: acknowledgement and sign of life.
    pub(super) fn answer(
        &mut self,
        path: Path,
        message: &Message,
        (stored, replayed, released): (LogPosition, LogPosition, OutputIndex),
        lacks: u8,
        outputs: &mut Vec<Output>,
    ) {
        let established = self.session.is_some_and(|session| session.established);
        let counts = self.role == Role::Protected || self.awaits_first_answer();
        if !(counts && (established || !self.config.rules.message_identity)) {
            return;
        }
        // Acknowledgements only grow, so one that comes late is still true; as a sign of life it counts for nothing.
        let newer = self.hearing.hear(path, &message.header, self.now);
        if !newer && !matches!(path, Path::Log { .. }) {
            return;
        }
        if message.header.stamp == self.hearing.peer_stamp {
            // The newest of all paths: an older one may say what is mended.
            self.readiness.heard = lacks;
        }
        self.first_answer(outputs);
        if self.log.heard(stored, replayed, self.now, self.config.timing.lag) {
            outputs.push(Output::Trace(TraceEvent::Acknowledged { position: stored, by: "primary" }));
            outputs.push(Output::TruncateLog { through: stored.min(self.log.appended) });
        }
        self.released_confirmed(released, outputs);
        if self.released.index < self.produced {
            outputs.push(Output::TryRelease);
        }
    }

    /// The backup is there again, over a new session (R12): the log goes on from what it holds.
    pub(super) fn resumed(&mut self, stored: LogPosition, replayed: LogPosition, outputs: &mut Vec<Output>) {
        if stored > self.log.appended || stored < self.log.acknowledged {
            // It does not hold what it has acknowledged, or holds what never was: not the backup that was committed to.
            self.close_session("not the backup that was committed to", outputs);
            return;
        }
        let Some(session) = self.session.as_mut() else { return };
        session.established = true;
        let (connection, number) = (session.connection, session.number);
        self.hearing.begin(self.now, true);
        self.arbitration.withdraw();
        self.log.resume(stored, replayed, self.now, self.config.timing.lag);
        self.next_heartbeat = self.now;
        outputs.push(Output::Trace(TraceEvent::SessionOpened { session: number }));
        outputs.push(Output::StreamEntries { connection, from: stored.next() });
        outputs.push(Output::TryRelease);
    }

    /// R26: the guest runs no faster than the backup's replay, once that is behind. `elapsed` is the time since the last step.
    pub(super) fn control_lag(&mut self, elapsed: Duration, outputs: &mut Vec<Output>) {
        let before = self.log.lag.share();
        if self.role == Role::Protected {
            self.log.lag.control(self.now, elapsed, self.config.timing.lag);
        } else {
            self.log.lag = Lag::default();
        }
        let share = self.log.lag.share();
        if share != before {
            outputs.push(Output::ThrottleGuest { share });
        }
    }

    /// Won as the primary: on without a backup, under the next generation (R16).
    pub(super) fn alone_as_primary(&mut self, outputs: &mut Vec<Output>) {
        self.suspicion = None;
        self.change_role(Role::Alone, "won the arbiter", outputs);
        outputs.push(Output::RunAlone);
        self.close_session("the backup is dropped", outputs);
        self.peer = Incarnation::NONE;
        self.log.ages.clear();
        self.overlapping.clear();
        outputs.push(Output::TruncateLog { through: self.log.appended });
        outputs.push(Output::TryRelease);
    }
}
