//! The primary with a backup: its log, its heartbeats, what it hears (R5, R7, R12).

use std::collections::VecDeque;
use std::time::Duration;

use crate::lab::mutant;

use super::input::Path;
use super::node::Node;
use super::output::Output;
use super::role::Role;
use super::time::{Instant, Number};
use super::trace::TraceEvent;
use super::wire::{Body, Message, OutputMark};

/// How far the log has come: appended and acknowledged on the primary, stored and replayed on the backup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct LogState {
    /// Position of the newest entry appended (primary).
    pub(super) appended: u64,
    /// Position up to which the backup holds the log (primary: heard; backup: said).
    pub(super) acknowledged: u64,
    /// Position of the newest entry held (backup).
    pub(super) stored: u64,
    /// Position of the newest entry replayed (backup: own; primary: heard).
    pub(super) replayed: u64,
    /// When entries were appended: (last position, when its first was), oldest first, at most a few dozen.
    ages: VecDeque<(u64, Instant)>,
    /// When the backup's replay last moved, or had nothing to do.
    replay_moved_at: Instant,
    pub(super) stalled: bool,
    /// Candidate: the log is closed and replayed to its end.
    pub(super) drained: bool,
    /// Candidate: since when the lease is waited out (R10).
    pub(super) lease_from: Instant,
}

/// How many marks of age the unacknowledged entries are kept by.
const AGE_MARKS: u32 = 32;

impl LogState {
    /// Age of the oldest entry that is not acknowledged.
    pub(super) fn unacknowledged_for(&self, now: Instant) -> Duration {
        self.ages.front().map_or(Duration::ZERO, |(_, at)| now.since(*at))
    }

    /// For how long the backup's replay has stood still with entries to replay.
    pub(super) fn replay_stood_for(&self, now: Instant) -> Duration {
        if self.replayed >= self.acknowledged { Duration::ZERO } else { now.since(self.replay_moved_at) }
    }

    pub(super) fn numbers(&mut self, visit: &mut dyn FnMut(Number, &mut u64)) {
        let ages = self.ages.iter_mut().map(|(_, at)| at);
        ages.chain([&mut self.replay_moved_at, &mut self.lease_from]).for_each(|at| visit(Number::Time, &mut at.0));
    }

    fn append(&mut self, through: u64, now: Instant, mark_every: Duration) {
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
    fn acknowledge(&mut self, through: u64) -> bool {
        let news = through > self.acknowledged;
        self.acknowledged = self.acknowledged.max(through);
        while self.ages.front().is_some_and(|(last, _)| *last <= self.acknowledged) {
            self.ages.pop_front();
        }
        news
    }

    fn replay_heard(&mut self, through: u64, now: Instant) {
        if through > self.replayed || self.replayed >= self.acknowledged {
            self.replay_moved_at = now;
        }
        self.replayed = self.replayed.max(through);
    }

    /// The backup is there again. What it owes is counted from now: nothing could reach it meanwhile.
    fn resume(&mut self, stored: u64, replayed: u64, now: Instant) {
        self.acknowledge(stored);
        self.ages.iter_mut().for_each(|(_, at)| *at = now);
        self.replayed = self.replayed.max(replayed);
        self.replay_moved_at = now;
    }
}

impl Node {
    pub(super) fn entries_appended(&mut self, through: u64, outputs: &mut Vec<Output>) {
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
    pub fn stamp_entries(&mut self, connection: u64, first: u64, through: u64, now: Instant) -> Option<Vec<u8>> {
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
        let index = self.released.index + u64::from(mutant!(ReleasedOneTooFar));
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
        (stored, replayed, released): (u64, u64, u64),
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
        // Up to now replay had no more to do than what was acknowledged before.
        self.log.replay_heard(replayed, self.now);
        if self.log.acknowledge(stored) {
            outputs.push(Output::Trace(TraceEvent::Acknowledged { position: stored, by: "primary" }));
            outputs.push(Output::TruncateLog { through: stored.min(self.log.appended) });
        }
        self.released_confirmed(released, outputs);
        if self.released.index < self.produced {
            outputs.push(Output::TryRelease);
        }
    }

    /// The backup is there again, over a new session (R12): the log goes on from what it holds.
    pub(super) fn resumed(&mut self, stored: u64, replayed: u64, outputs: &mut Vec<Output>) {
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
        self.log.resume(stored, replayed, self.now);
        self.next_heartbeat = self.now;
        outputs.push(Output::Trace(TraceEvent::SessionOpened { session: number }));
        outputs.push(Output::StreamEntries { connection, from: stored + 1 });
        outputs.push(Output::TryRelease);
    }

    /// The guest waits when the log buffer is full or the backup too far behind.
    pub(super) fn control_lag(&mut self, outputs: &mut Vec<Output>) {
        let log = &self.log;
        let unacknowledged = log.appended.saturating_sub(log.acknowledged);
        let unreplayed = log.acknowledged.saturating_sub(log.replayed);
        let (buffer, lag) = (self.config.log_buffer_entries, self.config.lag_entries);
        let protected = self.role == Role::Protected;
        if protected && !log.stalled && (unacknowledged >= buffer || unreplayed >= lag) {
            self.log.stalled = true;
            outputs.push(Output::StallGuest);
        } else if log.stalled && (!protected || (unacknowledged <= buffer / 2 && unreplayed <= lag / 2)) {
            self.log.stalled = false;
            outputs.push(Output::ResumeGuest);
        }
    }

    /// Won as the primary: on without a backup, under the next generation (R16).
    pub(super) fn alone_as_primary(&mut self, outputs: &mut Vec<Output>) {
        self.suspicion = None;
        self.change_role(Role::Alone, "won the arbiter", outputs);
        outputs.push(Output::RunAlone);
        self.close_session("the backup is dropped", outputs);
        self.peer = 0;
        self.log.ages.clear();
        self.overlapping.clear();
        outputs.push(Output::TruncateLog { through: self.log.appended });
        outputs.push(Output::TryRelease);
    }
}
