//! The state machine itself: what a node remembers, and the one place where inputs enter.

use crate::lab::mutant;

use super::config::Config;
use super::interface::{HaltReason, Input, NeedsBackup, Output, Path, TraceEvent};
use super::lag::Share;
use super::numbers::{Generation, Incarnation, OutputIndex};
use super::primary::LogState;
use super::readiness::Readiness;
use super::role::{Alone, GuestState, Role, Session, State};
use super::suspicion::Hearing;
use super::takeover::Arbitration;
use super::time::{Instant, Number};
use super::wire::{Body, Header, Message, OutputMark};

/// The longest pause between two transfers is T_ACK times two to the power of this.
const FAILED_TRANSFERS_MAX: u32 = 5;

/// One node's protocol state. One thread owns it; the looks (`released_until`, `accepts_entries`, `status`) take `&self`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Node {
    pub(super) config: Config,
    pub(super) incarnation: Incarnation,
    /// Its role, with the data of that role.
    pub(super) state: State,
    pub(super) generation: Generation,
    /// The time of the step under way.
    pub(super) now: Instant,
    stepped: bool,
    /// Counts this node's messages (R3).
    sequence: u64,
    next_request: u64,
    /// `DrainSockets` that is not answered yet: nothing is judged until it is (R7).
    draining: Option<u64>,
    /// Counts the sessions of this primary.
    pub(super) sessions: u64,
    /// A dial is under way.
    pub(super) dialling: bool,
    pub(super) dial_at: Instant,
    pub(super) hearing: Hearing,
    pub(super) arbitration: Arbitration,
    pub(super) readiness: Readiness,
    pub(super) log: LogState,
    /// The last output that completed (R): on the primary its own, on the backup what it heard.
    pub(super) released: OutputMark,
    /// Index of the newest output produced, live or in replay.
    pub(super) produced: OutputIndex,
    /// Frames that the network interface refused while there was no backup: lost.
    pub(super) frames_lost: u64,
    /// The guest's thread was told to let the guest run for this share of its time.
    pub(super) throttled_to: Share,
    /// A primary without a backup looks for one.
    pub(super) wants_backup: bool,
    /// Transfers given up in a row, as far as they count: the pause behind each is twice as long as that before.
    pub(super) failed_transfers: u32,
    /// Alone: why there is no backup, if there was one or should be.
    pub(super) needs_backup: Option<NeedsBackup>,
    /// `first-output` is in the trace.
    pub(super) first_output_traced: bool,
    /// The guest has come to its end: its exit status, and what it did that it may not.
    guest_end: Option<(i32, Option<String>)>,
}

/// What an earlier process of this node was. Only a test with R1 switched off believes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Remembered {
    /// Its role when it ended.
    pub role: Role,
    /// Its generation.
    pub generation: Generation,
    /// The last output it had completed.
    pub released: OutputIndex,
}

impl Node {
    /// A fresh process, a spare (R1). `incarnation` is random, and not that of nobody.
    pub fn new(config: Config, incarnation: Incarnation) -> Node {
        Node {
            config,
            incarnation,
            state: State::Spare,
            generation: Generation::NONE,
            now: Instant(0),
            stepped: false,
            sequence: 0,
            next_request: 0,
            draining: None,
            sessions: 0,
            dialling: false,
            dial_at: Instant(0),
            hearing: Hearing::default(),
            arbitration: Arbitration::default(),
            readiness: Readiness::default(),
            log: LogState::default(),
            released: OutputMark::default(),
            produced: OutputIndex::NONE,
            frames_lost: 0,
            throttled_to: Share::WHOLE,
            wants_backup: false,
            failed_transfers: 0,
            needs_backup: None,
            first_output_traced: false,
            guest_end: None,
        }
    }

    /// A process after another one on the same host: a spare all the same, unless a test has switched R1 off.
    pub fn restarted(config: Config, incarnation: Incarnation, remembered: Remembered) -> Node {
        let believed = !config.rules.fresh_start && remembered.role.is_primary();
        let mut node = Node::new(config, incarnation);
        if believed {
            node.state = State::Alone(Alone::Live(None));
            node.generation = remembered.generation;
            node.released.index = remembered.released;
            node.produced = remembered.released;
            node.first_output_traced = true;
        }
        node
    }

    /// What the node is now.
    pub fn role(&self) -> Role {
        self.state.role()
    }

    /// The generation that the node belongs to, if any.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The random number of this process start.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Index of the last output that completed, as far as this node knows (R).
    pub fn released(&self) -> OutputIndex {
        self.released.index
    }

    /// Takes one input; appends what is to be done to `outputs`. Call it with non-decreasing `now`.
    pub fn step(&mut self, now: Instant, input: Input, outputs: &mut Vec<Output>) {
        if self.role() == Role::Halted {
            return;
        }
        let done_before = outputs.len();
        self.notice_pause(now, outputs);
        let elapsed = now.since(self.now);
        self.now = now.max(self.now);
        self.take(input, outputs);
        if self.draining.is_none() {
            self.judge(outputs);
        }
        self.form_pair(outputs);
        self.check_readiness(outputs);
        self.arbitrate(outputs);
        self.send_heartbeats(outputs);
        self.tell_released(outputs);
        self.advance_hand_over(outputs);
        self.control_lag(elapsed, outputs);
        self.advance_go_live(outputs);
        self.stop_when_finished(outputs);
        if let Some(invariant) = self.broken_invariant() {
            // Of what it made of a broken state nothing is done.
            let traces = outputs.split_off(done_before).into_iter();
            outputs.extend(traces.filter(|output| matches!(output, Output::Trace(_))));
            self.halt(HaltReason::Broken { invariant }, outputs);
        }
    }

    /// What holds after every step, whatever came, and does not; `None`: all of it holds. It can only be this node's own fault, and a
    /// node that is not what it takes itself for must not speak.
    fn broken_invariant(&self) -> Option<&'static str> {
        let (role, log, released) = (self.role(), &self.log, self.released.index);
        let has_generation = match role {
            Role::Spare => self.generation == Generation::NONE,
            Role::Halted => true,
            _ => self.generation != Generation::NONE,
        };
        let may_ask = matches!(role, Role::Spare | Role::Candidate | Role::Protected | Role::Halted)
            || !self.config.rules.one_commit;
        let follows_well = self.state.following().is_none_or(|following| {
            let next = following.unreleased.front().map(|(_, output)| output.index);
            next.is_none_or(|next| next > released) && log.replayed <= log.stored && log.acknowledged == log.stored
        });
        let protects_well = self.state.protection().is_none_or(|protection| {
            let waits_for_older = protection.overlapping.front().is_none_or(|(index, overlaps)| overlaps < index);
            protection.confirmed.max(protection.told) <= released && waits_for_older
        });
        let invariants = [
            (has_generation, "every role but SPARE has a generation"),
            (may_ask || !self.arbitration.is_committed(), "only SPARE, CANDIDATE and PROTECTED ask for a generation"),
            (follows_well, "a backup has replayed no more than it holds, and keeps only outputs after R"),
            (protects_well, "a backup was told of no output after R, and writes wait for older ones"),
        ];
        invariants.into_iter().find(|(holds, _)| !holds).map(|(_, invariant)| invariant)
    }

    fn take(&mut self, input: Input, outputs: &mut Vec<Output>) {
        match input {
            Input::Tick => {}
            Input::BootstrapRequested => self.begin_bootstrap(),
            Input::StopRequested => self.stop(0, outputs),
            Input::BackupWanted => self.look_for_backup(),
            Input::BackupUnwanted => self.let_backup_go(),
            Input::HandOverWanted => self.hand_over(),
            Input::TransferProgressed { connection } => self.transfer_progressed(connection),
            Input::TransferFailed { connection, reason } => self.transfer_failed(connection, &reason, outputs),
            Input::GuestStops { connection } => self.guest_stops(connection),
            Input::GuestStopped { connection, position, produced, digest } => {
                // The news of the output itself may come behind this.
                self.produced = self.produced.max(produced);
                self.guest_stopped(connection, GuestState { position, digest }, outputs);
            }
            Input::StateRestored { connection, position, digest } => {
                self.state_restored(connection, GuestState { position, digest }, outputs);
            }
            Input::ArbiterRead { request, result } => self.arbiter_read(request, result, outputs),
            Input::ArbiterAsked { request, result } => self.arbiter_asked(request, result, outputs),
            Input::SessionOpened { connection, dialled } => self.session_opened(connection, dialled, outputs),
            Input::DialFailed => self.dial_ended(),
            Input::SessionClosed { connection, reason } => self.session_closed(connection, reason, outputs),
            Input::Message { path, bytes } => self.message(path, &bytes, outputs),
            Input::EntriesAppended { through } => self.entries_appended(through, outputs),
            Input::OutputProduced { output, depends_on, overlaps } => {
                self.output_produced(output, depends_on, overlaps, outputs);
            }
            Input::OutputDone { output, result } => self.output_done(output, result, outputs),
            Input::EntriesStored { connection, header } => self.entries_stored(connection, &header, outputs),
            Input::EntriesReplayed { through } => self.entries_replayed(through),
            Input::Drained { position } => self.drained(position, outputs),
            Input::Diverged { position, reason } => self.diverged(position, reason, outputs),
            Input::DevicesChecked { request, found } => self.devices_checked(request, found, outputs),
            Input::Attached => self.attached(outputs),
            Input::GuestHalted { exit_status, trap } => self.guest_end = Some((exit_status, trap)),
            Input::ReadFailed { reason } => {
                if self.config.rules.failed_read_left_to_backup {
                    self.leave_to_backup(reason, outputs);
                }
            }
            Input::HostFailed { reason } => self.halt(HaltReason::HostFailed { reason }, outputs),
            Input::SocketsDrained { request } => {
                if self.draining == Some(request) {
                    self.draining = None;
                }
            }
        }
    }

    /// When the next `Input::Tick` is due: at least every DETECT/4, so that a pause of this node shows (R7).
    pub fn deadline(&self) -> Instant {
        let (mut heartbeat, mut first_output) = (None, None);
        match &self.state {
            State::Protected(protection) => heartbeat = Some(protection.next_heartbeat),
            State::Alone(Alone::AwaitsOldWrites { until }) => first_output = Some(*until),
            _ => {}
        }
        let silence = matches!(self.role(), Role::Protected | Role::Backup).then(|| self.silence_at());
        let planned = self.state.protection().and_then(|protection| protection.planned);
        let moments = [
            planned.and_then(|mut planned| planned.until().copied()),
            heartbeat,
            silence,
            self.state.session().and_then(|session| session.handshake_until),
            self.may_ask_at(),
            first_output,
            Some(self.dial_at),
            Some(self.arbitration.retry_at()),
            Some(self.readiness.due_at()),
        ];
        let latest = self.now.after(self.config.timing.detect / 4);
        moments.into_iter().flatten().filter(|moment| *moment > self.now).fold(latest, Instant::min)
    }

    /// R7: a node whose steps were further apart than they ever should be was itself paused: that time is not the peer's silence, and what
    /// waits is handed over before anyone is judged.
    fn notice_pause(&mut self, now: Instant, outputs: &mut Vec<Output>) {
        let gap = now.since(self.now);
        let first = !std::mem::replace(&mut self.stepped, true);
        if first || gap <= self.config.timing.detect / 2 {
            return;
        }
        outputs.push(Output::Trace(TraceEvent::Paused {
            gap_milliseconds: u64::try_from(gap.as_millis()).unwrap_or(u64::MAX),
        }));
        if self.config.rules.drain_after_pause {
            self.stood_still(gap);
            let request = self.request();
            self.draining = Some(request);
            outputs.push(Output::DrainSockets { request });
        }
    }

    /// Shows every number that means something only beside others of its kind, and takes back what becomes of it; what nothing but
    /// `status` looks at is cleared. The exhaustive walk takes two states alike that differ in nothing else.
    pub fn numbers(&mut self, visit: &mut dyn FnMut(Number, &mut u64)) {
        self.hearing.numbers(self.state.peer(), visit);
        self.state.numbers(visit);
        self.arbitration.numbers(self.incarnation, visit);
        self.readiness.numbers(self.incarnation, visit);
        visit(Number::Deadline, &mut self.dial_at.0);
        visit(Number::Time, &mut self.now.0);
        visit(Number::Sequence(self.incarnation.0), &mut self.sequence);
        let requests = self.draining.as_mut().into_iter().chain([&mut self.next_request]);
        requests.for_each(|request| visit(Number::Request(self.incarnation.0), request));
    }

    /// A number never used before for a request.
    pub(super) fn request(&mut self) -> u64 {
        self.next_request += 1;
        self.next_request
    }

    /// Changes the role, and gives what the old one had.
    pub(super) fn change_role(&mut self, to: State, reason: &str, outputs: &mut Vec<Output>) -> State {
        let before = std::mem::replace(&mut self.state, to);
        let (from, to, generation) = (before.role(), self.role(), self.generation);
        if from != to {
            outputs.push(Output::Trace(TraceEvent::Role { from, to, generation, reason: reason.to_owned() }));
        }
        before
    }

    pub(super) fn halt(&mut self, reason: HaltReason, outputs: &mut Vec<Output>) {
        let text = reason.to_string();
        self.say_why_it_goes(&reason, outputs);
        self.change_role(State::Halted { reason: Some(reason.clone()) }, &text, outputs);
        outputs.push(Output::Trace(TraceEvent::Halted { reason: text }));
        outputs.push(Output::Halt { reason });
    }

    pub(super) fn stop(&mut self, exit_status: i32, outputs: &mut Vec<Output>) {
        self.change_role(State::Halted { reason: None }, "stopped", outputs);
        outputs.push(Output::Trace(TraceEvent::Stopped { exit_status }));
        outputs.push(Output::Stop { exit_status });
    }

    /// The header of this node's next message (R3, R4).
    pub(super) fn header(&mut self, now: Instant) -> Header {
        self.sequence += 1;
        self.hearing.echoed();
        let newer = self.role() == Role::Backup && mutant!(EchoTooNew);
        Header {
            vm: self.config.vm,
            generation: self.generation,
            incarnation: self.incarnation,
            session: self.session_number(),
            sequence: self.sequence,
            stamp: now.0,
            echo: if newer { self.hearing.peer_stamp + 5_000_000 } else { self.hearing.peer_stamp },
        }
    }

    /// The number of the session, on a follower without one the newest that it had; 0: there was none.
    pub(super) fn session_number(&self) -> u64 {
        let newest = self.state.following().map_or(0, |following| following.newest_session);
        self.state.session().map_or(newest, |session| session.number)
    }

    pub(super) fn send(&mut self, path: Path, body: Body, outputs: &mut Vec<Output>) {
        let header = self.header(self.now);
        outputs.push(Output::Send { path, bytes: Message { header, body }.encode() });
    }

    /// Sends on the log session, if there is one.
    pub(super) fn send_on_log(&mut self, body: Body, outputs: &mut Vec<Output>) {
        if let Some(Session { connection, .. }) = self.state.session().copied() {
            self.send(Path::Log { connection }, body, outputs);
        }
    }

    /// Every way to the peer.
    pub(super) fn paths(&self) -> Vec<Path> {
        let log = self.state.session().map(|session| Path::Log { connection: session.connection });
        log.into_iter().chain((0..self.config.heartbeat_paths).map(|network| Path::Heartbeat { network })).collect()
    }

    /// Gives the session up; the runtime's `SessionClosed` for it then says nothing new.
    pub(super) fn close_session(&mut self, reason: &str, outputs: &mut Vec<Output>) {
        if let State::Joining { session, .. } = self.state {
            close(session, reason, outputs);
            self.give_joining_up(reason, outputs);
        } else if let Some(session) = self.drop_session(reason, outputs) {
            close(session, reason, outputs);
        }
    }

    /// Without a backup a primary has a peer in a handshake only, and what it asked the arbiter was for that one (R15): nobody is committed
    /// to on a later connection before it has said welcome there. A guest that waits for COMMIT goes on.
    pub(super) fn drop_session(&mut self, reason: &str, outputs: &mut Vec<Output>) -> Option<Session> {
        let transfer = self.state.joiner().and_then(|joiner| joiner.transfer);
        let session = self.state.drop_session();
        if session.is_some() && self.role() == Role::Alone {
            self.arbitration.withdraw();
        }
        if transfer.is_some() {
            // Each attempt may cost the guest a stop.
            self.dial_at = self.now.after(self.config.timing.acknowledge * (1 << self.failed_transfers));
            self.failed_transfers = (self.failed_transfers + 1).min(FAILED_TRANSFERS_MAX);
            outputs.push(Output::Trace(TraceEvent::TransferGivenUp { reason: reason.to_owned() }));
            self.need_backup(NeedsBackup::TransferFailed, outputs);
            outputs.push(Output::EndTransfer);
        }
        session
    }

    /// From here on the VM has no backup, for this reason.
    pub(super) fn need_backup(&mut self, reason: NeedsBackup, outputs: &mut Vec<Output>) {
        self.needs_backup = Some(reason);
        outputs.push(Output::Trace(TraceEvent::NeedsBackup { reason }));
    }

    /// R17: what this host has failed at, the backup's may not. Alone, nobody can do it, and nothing happens here.
    fn leave_to_backup(&mut self, reason: String, outputs: &mut Vec<Output>) {
        if self.role() == Role::Protected {
            self.halt(HaltReason::HostFailed { reason }, outputs);
        }
    }

    /// Guest halted and everything emitted: the VM is over, and the backup need not take over.
    fn stop_when_finished(&mut self, outputs: &mut Vec<Output>) {
        if !self.state.is_live() || self.released.index < self.produced || self.has_handed_over() {
            return;
        }
        let Some((exit_status, trap)) = self.guest_end.clone() else { return };
        if let Some(trap) = trap
            && self.config.rules.trap_left_to_backup
        {
            // A bit that flipped in this host's memory looks like a fault of the guest's. Replay tells the two apart.
            self.leave_to_backup(format!("{trap}, and only replay shows whether it did that itself"), outputs);
        }
        if self.state.is_live() {
            if self.role() == Role::Protected {
                for path in self.paths() {
                    self.send(path, Body::Farewell { exit_status }, outputs);
                }
            }
            self.stop(exit_status, outputs);
        }
    }
}

/// Closes a session that the state does not have any more.
pub(super) fn close(session: Session, reason: &str, outputs: &mut Vec<Output>) {
    outputs.push(Output::Trace(TraceEvent::SessionClosed { session: session.number, reason: reason.to_owned() }));
    outputs.push(Output::CloseSession { connection: session.connection });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::LogPosition;

    #[test]
    fn a_node_whose_state_is_broken_halts() {
        let mut config = Config::new([7; 16], [9; 32]);
        config.rules.fresh_start = false;
        let remembered = Remembered { role: Role::Alone, generation: Generation::FIRST, released: OutputIndex(3) };
        let mut node = Node::restarted(config, Incarnation(1), remembered);
        let mut outputs = Vec::new();
        node.step(Instant(1), Input::Tick, &mut outputs);
        assert_eq!(node.role(), Role::Alone);
        node.generation = Generation::NONE;
        let (output, overlaps) = (OutputMark { index: OutputIndex(4), ..OutputMark::default() }, OutputIndex::NONE);
        let produced = Input::OutputProduced { output, depends_on: LogPosition::START, overlaps };
        outputs.clear();
        node.step(Instant(2), produced, &mut outputs);
        let reason = HaltReason::Broken { invariant: "every role but SPARE has a generation" };
        assert_eq!((node.role(), outputs.pop()), (Role::Halted, Some(Output::Halt { reason })));
        assert!(outputs.iter().all(|output| matches!(output, Output::Trace(_))), "{outputs:?}");
    }
}
