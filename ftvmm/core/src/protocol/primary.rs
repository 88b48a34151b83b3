//! The primary with a backup: its log, its heartbeats, what it hears (R5, R7, R12).

use std::time::Duration;

use crate::lab::mutant;

use crate::log::LogPosition;

use super::interface::{NeedsBackup, Output, Path, TraceEvent};
use super::lag::Share;
use super::node::{Node, close};
use super::numbers::OutputIndex;
use super::role::{Alone, Planned, State};
use super::time::Instant;
use super::wire::{Body, Message, OutputMark};

/// How far the log has come: appended and acknowledged on the primary, stored and replayed on the backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct LogState {
    /// Position of the newest entry appended (primary).
    pub(super) appended: LogPosition,
    /// Position up to which the backup holds the log (primary: heard; backup: said).
    pub(super) acknowledged: LogPosition,
    /// Position of the newest entry held (backup).
    pub(super) stored: LogPosition,
    /// Position of the newest entry replayed (backup: own; primary: heard).
    pub(super) replayed: LogPosition,
}

/// How many marks of age the unacknowledged entries are kept by.
const AGE_MARKS: u32 = 32;

impl Node {
    pub(super) fn entries_appended(&mut self, through: LogPosition, outputs: &mut Vec<Output>) {
        let Some(protection) = self.state.protection_mut() else {
            // Nobody else needs them: what is live alone has the state itself.
            self.log.appended = self.log.appended.max(through);
            outputs.push(Output::TruncateLog { through });
            return;
        };
        let mark_every = self.config.timing.acknowledge / AGE_MARKS;
        protection.append(&mut self.log, through, self.now, mark_every);
        if self.log.acknowledged >= through {
            // The backup was faster than this news: what it holds needs no mark of age, and no room.
            protection.acknowledge(&mut self.log, through);
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
        let released = self.released.index;
        let protection = self.state.protection_mut()?;
        if !protection.session.is_some_and(|session| session.is_established() && session.connection == connection) {
            return None;
        }
        protection.told = released;
        let header = self.header(now.max(self.now));
        Some(Message { header, body: Body::Entries { released: self.released_as_said(), first, through } }.encode())
    }

    /// R, as messages carry it.
    pub(super) fn released_as_said(&self) -> OutputMark {
        let index = if mutant!(ReleasedOneTooFar) { self.released.index.next() } else { self.released.index };
        OutputMark { index, ..self.released }
    }

    pub(super) fn send_heartbeats(&mut self, outputs: &mut Vec<Output>) {
        let State::Protected(protection) = &mut self.state else { return };
        if !protection.is_connected() || self.now < protection.next_heartbeat {
            return;
        }
        protection.next_heartbeat = self.now.after(self.config.timing.heartbeat);
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
        let connected = self.state.protection().map(|protection| protection.is_connected());
        if !connected.is_some_and(|connected| connected || !self.config.rules.message_identity) {
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
        let Some(protection) = self.state.protection_mut() else { return };
        if protection.heard(&mut self.log, stored, replayed, self.now, self.config.timing.lag) {
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
        let State::Protected(protection) = &mut self.state else { return };
        let Some(session) = protection.session.as_mut() else { return };
        session.handshake_until = None;
        let (connection, number) = (session.connection, session.number);
        protection.heard(&mut self.log, stored, replayed, self.now, self.config.timing.lag);
        protection.resume(self.now);
        protection.next_heartbeat = self.now;
        self.hearing.begin(self.now, true);
        self.arbitration.withdraw();
        self.give_plan_up("the session was resumed", outputs);
        outputs.push(Output::Trace(TraceEvent::SessionOpened { session: number }));
        outputs.push(Output::StreamEntries { connection, from: stored.next() });
        outputs.push(Output::TryRelease);
    }

    /// R26: the guest runs no faster than the backup's replay, once that is behind. `elapsed` is the time since the last step.
    pub(super) fn control_lag(&mut self, elapsed: Duration, outputs: &mut Vec<Output>) {
        if let State::Protected(protection) = &mut self.state {
            protection.lag.control(self.now, elapsed, self.config.timing.lag);
        }
        let share = self.share();
        if std::mem::replace(&mut self.throttled_to, share) != share {
            outputs.push(Output::ThrottleGuest { share });
        }
    }

    /// For how much of its time the guest may run (R26).
    pub(super) fn share(&self) -> Share {
        match &self.state {
            // The guest that is to go waits.
            State::Protected(protection)
                if matches!(protection.planned, Some(Planned::HandingOver { .. } | Planned::HandedOver { .. })) =>
            {
                Share::NONE
            }
            State::Protected(protection) => protection.lag.share(),
            _ => Share::WHOLE,
        }
    }

    /// Won as the primary: on without a backup, under the next generation (R16).
    pub(super) fn alone_as_primary(&mut self, outputs: &mut Vec<Output>) {
        let loss = self.readiness.why_the_backup_goes().or(self.state.suspicion().map(|suspicion| suspicion.loss));
        let mut before = self.change_role(State::Alone(Alone::Live(None)), "won the arbiter", outputs);
        self.need_backup(loss.unwrap_or(NeedsBackup::ConnectionLost), outputs);
        outputs.push(Output::RunAlone);
        if let Some(session) = before.drop_session() {
            close(session, "the backup is dropped", outputs);
        }
        outputs.push(Output::TruncateLog { through: self.log.appended });
        outputs.push(Output::TryRelease);
    }
}
