//! How a pair forms and how its session is resumed: dialling, the handshake, COMMIT (R12, R14, R15).

use crate::log::LogPosition;

use super::config::Terms;
use super::interface::{ArbiterRecord, HaltReason, Output, Path, ReadResult, TraceEvent};
use super::node::{Node, close};
use super::numbers::{Generation, Incarnation};
use super::primary::LogState;
use super::role::{Alone, Joiner, Protection, Role, Session, State, Transfer};
use super::wire::{Body, Message};

impl Node {
    /// Alone: its guest not started, or its operator wants it to have a backup again.
    fn seeks_backup(&self) -> bool {
        match self.state {
            State::Alone(Alone::SeeksBackup(_)) => true,
            State::Alone(Alone::Live(_)) => self.wants_backup,
            _ => false,
        }
    }

    /// R12: protected, out of touch with its backup, the arbiter out of reach, and no ask that may have been applied.
    fn seeks_to_resume(&self) -> bool {
        self.role() == Role::Protected
            && self.config.rules.resume_session
            && self.arbitration.unreachable
            && !self.arbitration.is_committed()
    }

    /// Dials, and gives handshakes up: what time alone brings about.
    pub(super) fn form_pair(&mut self, outputs: &mut Vec<Output>) {
        let handshake_until = self.state.session().and_then(|session| session.handshake_until);
        if handshake_until.is_some_and(|until| until <= self.now) {
            self.dial_at = self.now;
            self.close_session("the handshake took too long", outputs);
        }
        let suspected = self.state.suspicion().is_some();
        if self.seeks_to_resume() && suspected && handshake_until.is_none() && self.now >= self.dial_at {
            // A session that seems open but does not answer is as good as none.
            self.close_session("suspected, and the arbiter is out of reach", outputs);
        }
        if (self.seeks_backup() || self.seeks_to_resume())
            && self.state.session().is_none()
            && !self.dialling
            && self.now >= self.dial_at
        {
            self.dialling = true;
            outputs.push(Output::Dial);
        }
    }

    /// The dial succeeded or failed; the next one waits a little.
    pub(super) fn dial_ended(&mut self) {
        self.dialling = false;
        self.dial_at = self.now.after(self.config.timing.retry);
    }

    pub(super) fn session_opened(&mut self, connection: u64, dialled: bool, outputs: &mut Vec<Output>) {
        if !dialled {
            // Whoever it is says Hello first.
            return;
        }
        self.dial_ended();
        let wanted = self.seeks_backup() || self.seeks_to_resume();
        if !wanted || self.state.session().is_some() {
            outputs.push(Output::CloseSession { connection });
            return;
        }
        self.sessions += 1;
        let handshake_until = Some(self.now.after(self.config.timing.acknowledge));
        let session = Session { connection, number: self.sessions, handshake_until };
        let backup = self.state.peer();
        if let State::Protected(protection) = &mut self.state {
            protection.session = Some(session);
        } else if let Some(joiner) = self.state.joiner_mut() {
            *joiner = Some(Joiner { session, incarnation: None, transfer: None });
            // A spare would take the echo of another's stamp for one of its own, and a later one than it ever sends.
            self.hearing.begin(self.now, false);
        }
        self.send_on_log(Body::Hello { terms: self.config.terms(), backup }, outputs);
    }

    pub(super) fn session_closed(&mut self, connection: u64, reason: String, outputs: &mut Vec<Output>) {
        let Some(session) = self.state.session().filter(|session| session.connection == connection) else {
            return;
        };
        outputs.push(Output::Trace(TraceEvent::SessionClosed { session: session.number, reason }));
        match self.role() {
            Role::Joining => self.give_joining_up("session closed", outputs),
            Role::Protected if !self.config.rules.one_commit && self.nothing_is_acknowledged() => {
                self.change_role(State::Alone(Alone::Live(None)), "the join is given up without asking", outputs);
            }
            _ => {
                self.drop_session("session closed", outputs);
            }
        }
    }

    /// The session is gone, and a joiner has nothing else.
    pub(super) fn give_joining_up(&mut self, reason: &str, outputs: &mut Vec<Output>) {
        self.generation = Generation::NONE;
        self.change_role(State::Spare, reason, outputs);
        outputs.push(Output::DiscardState);
    }

    /// The backup has not answered since COMMIT.
    fn nothing_is_acknowledged(&self) -> bool {
        self.state.protection().is_some_and(|protection| self.log.acknowledged == protection.committed_at)
    }

    /// Spare, joiner, backup or candidate: a primary says who it is on a new connection.
    pub(super) fn hello(
        &mut self,
        connection: u64,
        message: &Message,
        terms: &Terms,
        backup: Incarnation,
        outputs: &mut Vec<Output>,
    ) {
        let header = &message.header;
        let same_vm = header.vm == self.config.vm;
        let difference = self.config.terms().difference(terms);
        let agreed = difference.is_none();
        let joins = matches!(self.role(), Role::Spare | Role::Joining)
            && backup == Incarnation::NONE
            && !self.arbitration.bootstraps();
        // Only what would join: a node that bootstraps may have won already, and the VM would be left without an owner.
        if let Some(difference) = difference.filter(|_| same_vm && joins && self.role() == Role::Spare) {
            self.halt(HaltReason::Mismatch { difference }, outputs);
            return;
        }
        let followed = self.state.following().map(|following| (following.primary, following.newest_session));
        let resumes = followed
            .is_some_and(|(primary, newest)| header.incarnation == primary && header.session > newest)
            && self.config.rules.resume_session
            && backup == self.incarnation
            && header.generation == self.generation
            && !self.arbitration.is_committed();
        if !same_vm || !agreed || !(joins || resumes) {
            outputs.push(Output::CloseSession { connection });
            return;
        }
        if let Some(session) = self.state.session() {
            close(*session, "another session takes its place", outputs);
        }
        if self.role() == Role::Joining {
            outputs.push(Output::DiscardState);
        }
        let (primary, number) = (header.incarnation, header.session);
        let same_peer = self.state.peer() == primary;
        self.generation = header.generation;
        self.hearing.begin(self.now, same_peer);
        self.hearing.hear(Path::Log { connection }, header, self.now);
        self.hearing.begin(self.now, true);
        outputs.push(Output::Trace(TraceEvent::SessionOpened { session: header.session }));
        if let Some(following) = self.state.following_mut() {
            following.session = Some(Session { connection, number, handshake_until: None });
            following.newest_session = number;
            self.back_to_backup(outputs);
            self.say_welcome(outputs);
        } else {
            // The primary gives a handshake up first: a COMMIT that it says in time has to find the joiner.
            let timing = &self.config.timing;
            let handshake_until = Some(self.now.after(timing.acknowledge + timing.detect));
            let session = Session { connection, number, handshake_until };
            self.change_role(State::Joining { primary, session, restored: None }, "a primary says hello", outputs);
            self.look_at_arbiter(outputs);
        }
    }

    fn say_welcome(&mut self, outputs: &mut Vec<Output>) {
        let (stored, replayed) = (self.log.stored, self.log.replayed);
        self.send_on_log(Body::Welcome { terms: self.config.terms(), stored, replayed }, outputs);
    }

    /// R15: a joiner has looked at its arbiter. The primary's random incarnation can be there only if it is the primary's arbiter too.
    pub(super) fn joiner_looked(&mut self, result: ReadResult, fault: Option<String>, outputs: &mut Vec<Output>) {
        let Some(fault) = fault else { return self.say_welcome(outputs) };
        let another = match result {
            // Newer: it may be the primary that is not the VM's any more.
            ReadResult::Record(record) => record.generation <= self.generation,
            ReadResult::Empty => true,
            ReadResult::Unreachable => false,
        };
        if another {
            let (generation, primary) = (self.generation, self.state.peer());
            let said = format!("the primary says generation {generation} of incarnation {primary}");
            let difference = format!("both nodes need one arbiter: {said}, {fault} here");
            self.halt(HaltReason::Mismatch { difference }, outputs);
        } else {
            self.close_session(&fault, outputs);
        }
    }

    /// Primary: the peer has answered `Hello`.
    pub(super) fn welcome(
        &mut self,
        path: Path,
        message: &Message,
        terms: &Terms,
        positions: (LogPosition, LogPosition),
        outputs: &mut Vec<Output>,
    ) {
        let header = &message.header;
        let Some(session) = self.state.session().copied() else { return };
        if session.is_established() || path != (Path::Log { connection: session.connection }) {
            return;
        }
        let identity = header.vm == self.config.vm
            && header.generation == self.generation
            && header.session == session.number
            && (self.role() != Role::Protected || header.incarnation == self.state.peer());
        if self.config.rules.message_identity && !identity {
            return;
        }
        if let Some(difference) = self.config.terms().difference(terms) {
            self.close_session(&difference, outputs);
            return;
        }
        if self.role() == Role::Protected {
            self.hearing.hear(path, header, self.now);
            self.resumed(positions.0, positions.1, outputs);
        } else if let Some(Some(joiner)) = self.state.joiner_mut()
            && joiner.incarnation.is_none()
        {
            joiner.incarnation = Some(header.incarnation);
            self.hearing.begin(self.now, false);
            self.hearing.hear(path, header, self.now);
            self.begin_transfer(outputs);
        }
    }

    pub(super) fn commit_read(&mut self, record: ArbiterRecord, outputs: &mut Vec<Output>) {
        if record.generation > self.generation {
            self.halt(HaltReason::Lost { generation: record.generation }, outputs);
        } else if record.generation < self.generation {
            self.arbiter_unreachable(outputs);
            if self.state.is_live() {
                self.close_session("the arbiter is behind", outputs);
            }
        } else if record.incarnation == self.incarnation {
            self.commit(outputs);
        } else {
            self.halt(HaltReason::Usurped { record }, outputs);
        }
    }

    /// R14: outputs are held from here on, before the joiner can know that it is the backup.
    fn commit(&mut self, outputs: &mut Vec<Output>) {
        let Some(Joiner { session, incarnation: Some(backup), transfer }) = self.state.joiner().cloned() else {
            return;
        };
        let position = match transfer {
            None => self.log.appended,
            Some(Transfer { stopped: Some(state), .. }) => state.position,
            Some(Transfer { stopped: None, .. }) => return,
        };
        let (connection, number) = (session.connection, session.number);
        let session = Session { handshake_until: None, ..session };
        let protection = Protection::new(backup, session, self.now, self.released.index, position);
        self.log = LogState { appended: position, acknowledged: position, stored: position, replayed: position };
        self.wants_backup = false;
        self.failed_transfers = 0;
        self.needs_backup = None;
        if self.config.rules.protected_before_commit {
            self.change_role(State::Protected(protection), "a backup joins", outputs);
        } else {
            self.state = State::Alone(Alone::LiveUnheld(protection));
        }
        self.hearing.begin(self.now, true);
        self.hearing.lease.expire();
        self.readiness.heard = 0;
        let released = self.released;
        self.send_on_log(Body::Commit { position, released }, outputs);
        outputs.push(Output::Trace(TraceEvent::SessionOpened { session: number }));
        outputs.push(Output::Trace(TraceEvent::Committed { session: number, position }));
        outputs.push(Output::StreamEntries { connection, from: position.next() });
        if transfer.is_some() {
            outputs.push(Output::ResumeGuest);
        } else {
            outputs.push(Output::StartGuest);
            outputs.push(Output::Trace(TraceEvent::Live));
        }
    }

    /// With R14 switched off: COMMIT is sent, but outputs are held from the first answer on only.
    pub(super) fn first_answer(&mut self, outputs: &mut Vec<Output>) {
        if let State::Alone(Alone::LiveUnheld(protection)) = &self.state {
            let protection = protection.clone();
            self.change_role(State::Protected(protection), "the first answer came", outputs);
        }
    }
}
