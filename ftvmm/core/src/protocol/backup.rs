//! The backup: what it holds and says, how it becomes a candidate and a backup again (R6, R7, R9, R12).

use std::collections::VecDeque;

use crate::lab::mutant;

use crate::log::LogPosition;

use super::interface::{HaltReason, Output, Path, TraceEvent};
use super::node::Node;
use super::readiness::{DIVERGED, HOST_FAILED};
use super::role::{Following, GuestState, Role, Session, State, Suspicion};
use super::wire::{Body, EntriesRange, Message, OutputMark};

impl Node {
    /// A message that passed the keyed hash; who may say what to whom is decided here.
    pub(super) fn message(&mut self, path: Path, bytes: &[u8], outputs: &mut Vec<Output>) {
        let Ok(message) = Message::decode(bytes) else { return };
        match (message.body, path) {
            (Body::Hello { terms, backup }, Path::Log { connection }) => {
                self.hello(connection, &message, &terms, backup, outputs);
            }
            (Body::Welcome { terms, stored, replayed }, _) => {
                self.welcome(path, &message, &terms, (stored, replayed), outputs);
            }
            _ if !self.belongs(path, &message) => {}
            (Body::Commit { position, released }, _) => self.committed(path, &message, position, released, outputs),
            (Body::Heartbeat { released }, _) => self.heartbeat(path, &message, released, outputs),
            (Body::Answer { stored, replayed, released, lacks }, _) => {
                self.answer(path, &message, (stored, replayed, released), lacks, outputs);
            }
            (Body::HandOver { position, released }, _) => self.handed_over(path, &message, position, released, outputs),
            (Body::Restored { position, digest }, _) => {
                self.joiner_restored(path, &message, GuestState { position, digest }, outputs);
            }
            (Body::Farewell { exit_status }, _) if self.state.following().is_some() => {
                self.stop(exit_status, outputs);
            }
            _ => {}
        }
    }

    /// Whether the node answers its primary. From the first suspicion on it does not, on any path (R9).
    fn answers(&self) -> bool {
        self.role() == Role::Backup || (self.role() == Role::Candidate && !self.config.rules.silent_candidate)
    }

    /// R14: only COMMIT makes a joiner the backup, and only with complete state; that at position 0 is complete by itself.
    fn committed(
        &mut self,
        path: Path,
        message: &Message,
        position: LogPosition,
        released: OutputMark,
        outputs: &mut Vec<Output>,
    ) {
        let State::Joining { primary, session, restored } = self.state else { return };
        let has = restored.map_or(LogPosition::START, |state| state.position);
        if position != has {
            let reason = format!("the primary commits to the state at position {position}, and that at {has} is here");
            return self.close_session(&reason, outputs);
        }
        self.hearing.hear(path, &message.header, self.now);
        self.hearing.begin(self.now, true);
        self.log.stored = position;
        self.log.replayed = position;
        self.log.acknowledged = position;
        self.released = released;
        // R13: all that the guest has said before this state has left.
        self.produced = released.index;
        self.begin_readiness();
        let session = Session { handshake_until: None, ..session };
        let following =
            Following { primary, session: Some(session), newest_session: session.number, unreleased: VecDeque::new() };
        self.change_role(State::Backup(following), "the primary has committed", outputs);
        outputs.push(Output::Trace(TraceEvent::Committed { session: message.header.session, position }));
        outputs.push(Output::StartReplay);
        self.acknowledge(path, outputs);
    }

    fn acknowledge(&mut self, path: Path, outputs: &mut Vec<Output>) {
        let (stored, replayed, released) = (self.log.stored, self.log.replayed, self.released.index);
        let stored = if stored > LogPosition::START && mutant!(AcknowledgeOneTooMany) { stored.next() } else { stored };
        // A VMM that is broken so never replays its last entries, and would stall its primary for good (R26).
        #[cfg(feature = "lab")]
        let replayed = if mutant!(AcknowledgeOneTooMany) || mutant!(LoseLogTail) || mutant!(LoseLastEntry) {
            stored
        } else {
            replayed
        };
        self.send(path, Body::Answer { stored, replayed, released, lacks: self.lacks() }, outputs);
    }

    /// A backup that will never ask says to its primary why it goes, where the primary cannot see that.
    pub(super) fn say_why_it_goes(&mut self, reason: &HaltReason, outputs: &mut Vec<Output>) {
        let why = match reason {
            HaltReason::Diverged { .. } => DIVERGED,
            HaltReason::HostFailed { .. } => HOST_FAILED,
            _ => return,
        };
        if self.role() != Role::Backup {
            return;
        }
        let (stored, replayed, released) = (self.log.acknowledged, self.log.replayed, self.released.index);
        for path in self.paths() {
            self.send(path, Body::Answer { stored, replayed, released, lacks: why }, outputs);
        }
    }

    /// R: the outputs up to it have completed on the primary, and replay's copies of them can go. False: this replica is not the primary's.
    pub(super) fn hear_released(&mut self, released: OutputMark, outputs: &mut Vec<Output>) -> bool {
        if released.index > self.released.index {
            self.released = released;
            outputs.push(Output::ForgetOutputs { through: released.index });
            self.compare_released(outputs);
        }
        self.role() != Role::Halted
    }

    /// Compares the output that R names with replay's, once both are known. Entries show how the guest came to each of them; what it said
    /// after the last one shows here alone.
    pub(super) fn compare_released(&mut self, outputs: &mut Vec<Output>) {
        while let Some(following) = self.state.following_mut()
            && let Some((position, own)) = following.unreleased.front().copied()
            && own.index <= self.released.index
        {
            following.unreleased.pop_front();
            let alike = own.index < self.released.index || own.fingerprint == self.released.fingerprint;
            if !alike && self.config.rules.diverged_halts && !mutant!(ReleasedOneTooFar) {
                let reason = format!("output {} is another one than the primary's", own.index);
                self.diverged(position, reason, outputs);
            }
        }
    }

    fn heartbeat(&mut self, path: Path, message: &Message, released: OutputMark, outputs: &mut Vec<Output>) {
        if self.answers() && self.hearing.hear(path, &message.header, self.now) && self.hear_released(released, outputs)
        {
            self.acknowledge(path, outputs);
        }
    }

    /// Whether entries under this header may be stored (R3, R6, R9); then store them, and say `EntriesStored`.
    pub fn accepts_entries(&self, connection: u64, header: &[u8]) -> Option<EntriesRange> {
        let message = Message::decode(header).ok()?;
        let Body::Entries { first, through, .. } = message.body else { return None };
        let contiguous = first == self.log.stored.next() && through >= first;
        let counts = self.answers()
            && self.belongs(Path::Log { connection }, &message)
            && (contiguous || !self.config.rules.whole_entries);
        counts.then_some(EntriesRange { first, through })
    }

    pub(super) fn entries_stored(&mut self, connection: u64, header: &[u8], outputs: &mut Vec<Output>) {
        let Some(range) = self.accepts_entries(connection, header) else { return };
        let Ok(message) = Message::decode(header) else { return };
        let path = Path::Log { connection };
        self.hearing.hear(path, &message.header, self.now);
        if let Body::Entries { released, .. } = message.body
            && !self.hear_released(released, outputs)
        {
            return;
        }
        self.log.stored = self.log.stored.max(range.through);
        self.log.acknowledged = self.log.stored;
        outputs.push(Output::Trace(TraceEvent::Acknowledged { position: self.log.stored, by: "backup" }));
        self.acknowledge(path, outputs);
    }

    pub(super) fn entries_replayed(&mut self, through: LogPosition) {
        if self.state.following().is_some() {
            self.log.replayed = self.log.replayed.max(through);
        }
    }

    /// R9: in one step; from here on nothing is said, and the log is closed.
    pub(super) fn become_candidate(&mut self, suspicion: Suspicion, outputs: &mut Vec<Output>) {
        let Some(following) = self.state.following().cloned() else { return };
        self.hearing.lease.begin_wait();
        self.readiness.begin(self.now);
        let candidate = State::Candidate { following, suspicion, drained: false };
        self.change_role(candidate, suspicion.reason, outputs);
        if self.config.rules.silent_candidate {
            self.close_session("the primary is suspected", outputs);
        }
        let position = self.log.stored;
        outputs.push(Output::Trace(TraceEvent::ClosedLog { position }));
        outputs.push(Output::CloseLog { position });
    }

    pub(super) fn drained(&mut self, position: LogPosition, outputs: &mut Vec<Output>) {
        // A log that was opened again meanwhile has another end.
        if self.role() != Role::Candidate || position != self.log.stored {
            return;
        }
        self.log.replayed = position;
        let (released, produced) = (self.released.index, self.produced);
        let falls_short = released > produced && self.config.rules.diverged_halts;
        // A VMM that is broken so would not look.
        #[cfg(feature = "lab")]
        let falls_short = falls_short && !mutant!(LoseLogTail) && !mutant!(LoseLastEntry);
        if falls_short {
            // What has left is acknowledged, so that replay must have come to it (R5).
            let reason = format!("output {released} has left, and replay ends with output {produced}");
            return self.diverged(position, reason, outputs);
        }
        if let State::Candidate { drained, .. } = &mut self.state {
            *drained = true;
        }
        outputs.push(Output::Trace(TraceEvent::Drained { position }));
    }

    /// R12: neither has won; the log goes on from what is held.
    pub(super) fn back_to_backup(&mut self, outputs: &mut Vec<Output>) {
        self.arbitration.withdraw();
        if let State::Candidate { following, .. } = &self.state {
            let following = following.clone();
            self.change_role(State::Backup(following), "the primary is there again", outputs);
            outputs.push(Output::ReopenLog { position: self.log.stored });
        }
    }

    /// R7: a replica that is not the same machine any more must never go live.
    pub(super) fn diverged(&mut self, position: LogPosition, reason: String, outputs: &mut Vec<Output>) {
        outputs.push(Output::Trace(TraceEvent::Divergence { position, reason: reason.clone() }));
        if self.config.rules.diverged_halts {
            self.halt(HaltReason::Diverged { position, reason }, outputs);
        }
    }
}
