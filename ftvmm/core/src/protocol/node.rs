//! The state machine itself: what a node remembers, and the one place where inputs enter.

use std::collections::VecDeque;

use crate::lab::mutant;

use super::arbitration::Arbitration;
use super::config::Config;
use super::go_live::GoLive;
use super::input::{Input, Path};
use super::numbers::{Generation, Incarnation, LogPosition, OutputIndex};
use super::output::{HaltReason, Output};
use super::primary::LogState;
use super::readiness::Readiness;
use super::role::Role;
use super::suspicion::Hearing;
use super::time::{Instant, Number};
use super::trace::TraceEvent;
use super::wire::{Body, Header, Message, OutputMark};

/// The log session of this node, from its own side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Session {
    /// The runtime's number of the connection.
    pub(super) connection: u64,
    /// The number that both sides know it by, counted by the primary.
    pub(super) number: u64,
    /// Whether the handshake is over: entries and heartbeats flow.
    pub(super) established: bool,
    /// When the handshake is given up.
    pub(super) handshake_until: Instant,
}

/// One node's protocol state. One thread owns it; the looks (`may_release`, `accepts_entries`, `status`) take `&self`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Node {
    pub(super) config: Config,
    pub(super) incarnation: Incarnation,
    pub(super) role: Role,
    pub(super) generation: Generation,
    /// The time of the step under way.
    pub(super) now: Instant,
    stepped: bool,
    /// Counts this node's messages (R3).
    sequence: u64,
    next_request: u64,
    /// `DrainSockets` that is not answered yet: nothing is judged until it is (R7).
    draining: Option<u64>,
    /// The peer's incarnation, if there is one.
    pub(super) peer: Incarnation,
    pub(super) session: Option<Session>,
    /// Counts the sessions of this primary.
    pub(super) sessions: u64,
    /// A dial is under way.
    pub(super) dialling: bool,
    pub(super) dial_at: Instant,
    /// Backup: the newest session, which a later one must exceed.
    pub(super) session_number: u64,
    /// With R14 switched off only: COMMIT was sent, outputs are not held yet.
    pub(super) awaits_first_answer: bool,
    pub(super) hearing: Hearing,
    pub(super) next_heartbeat: Instant,
    /// Since when the peer is suspected, and why.
    pub(super) suspicion: Option<(Instant, String)>,
    pub(super) arbitration: Arbitration,
    pub(super) readiness: Readiness,
    pub(super) log: LogState,
    /// The last output that completed (R): on the primary its own, on the backup what it heard.
    pub(super) released: OutputMark,
    /// Backup: the outputs of replay that R has not come to, each behind the position that it depends on.
    pub(super) unreleased: VecDeque<(LogPosition, OutputMark)>,
    /// Primary: the newest output of which the backup has said that it knows it to have completed.
    pub(super) confirmed: OutputIndex,
    /// Primary: the newest output of whose completion the backup was told on the log.
    pub(super) told: OutputIndex,
    /// Primary: writes that wait until the backup knows of an older one: their indices, and the older ones'.
    pub(super) overlapping: VecDeque<(OutputIndex, OutputIndex)>,
    /// Index of the newest output whose completion is in the trace; never behind R but for what the emitter has just completed.
    pub(super) traced_done: OutputIndex,
    /// Index of the newest output produced, live or in replay.
    pub(super) produced: OutputIndex,
    /// Frames that the network interface refused while there was no backup: lost.
    pub(super) frames_lost: u64,
    pub(super) go_live: GoLive,
    /// The guest has come to its end: its exit status, and what it did that it may not.
    guest_end: Option<(i32, Option<String>)>,
    pub(super) halt_reason: Option<HaltReason>,
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
            role: Role::Spare,
            generation: Generation::NONE,
            now: Instant(0),
            stepped: false,
            sequence: 0,
            next_request: 0,
            draining: None,
            peer: Incarnation::NONE,
            session: None,
            sessions: 0,
            dialling: false,
            dial_at: Instant(0),
            session_number: 0,
            awaits_first_answer: false,
            hearing: Hearing::default(),
            next_heartbeat: Instant(0),
            suspicion: None,
            arbitration: Arbitration::default(),
            readiness: Readiness::default(),
            log: LogState::default(),
            released: OutputMark::default(),
            unreleased: VecDeque::new(),
            confirmed: OutputIndex::NONE,
            told: OutputIndex::NONE,
            overlapping: VecDeque::new(),
            traced_done: OutputIndex::NONE,
            produced: OutputIndex::NONE,
            frames_lost: 0,
            go_live: GoLive::Not,
            guest_end: None,
            halt_reason: None,
        }
    }

    /// A process after another one on the same host: a spare all the same, unless a test has switched R1 off.
    pub fn restarted(config: Config, incarnation: Incarnation, remembered: Remembered) -> Node {
        let believed = !config.rules.fresh_start && remembered.role.is_primary();
        let mut node = Node::new(config, incarnation);
        if believed {
            node.role = Role::Alone;
            node.generation = remembered.generation;
            node.released.index = remembered.released;
            node.traced_done = remembered.released;
            node.produced = remembered.released;
            node.go_live = GoLive::Live { first_output_seen: true };
        }
        node
    }

    /// What the node is now.
    pub fn role(&self) -> Role {
        self.role
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
        if self.role == Role::Halted {
            return;
        }
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
        self.control_lag(elapsed, outputs);
        self.advance_go_live(outputs);
        self.stop_when_finished(outputs);
    }

    fn take(&mut self, input: Input, outputs: &mut Vec<Output>) {
        match input {
            Input::Tick => {}
            Input::BootstrapRequested => self.begin_bootstrap(),
            Input::StopRequested => self.stop(0, outputs),
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
        let heartbeat = (self.role == Role::Protected).then_some(self.next_heartbeat);
        let silence = matches!(self.role, Role::Protected | Role::Backup).then(|| self.silence_at());
        let handshake = self.session.filter(|session| !session.established).map(|session| session.handshake_until);
        let moments = [
            heartbeat,
            silence,
            handshake,
            self.may_ask_at(),
            self.go_live.waits_until(),
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
        self.hearing.numbers(self.peer, visit);
        self.log.numbers(visit);
        self.arbitration.numbers(self.incarnation, visit);
        self.readiness.numbers(self.incarnation, visit);
        let handshake = self.session.as_mut().map(|session| &mut session.handshake_until);
        let waits = [&mut self.dial_at, &mut self.next_heartbeat].into_iter().chain(handshake);
        let waits = waits.chain(self.go_live.waits_until_mut());
        waits.for_each(|until| visit(Number::Deadline, &mut until.0));
        let suspected = self.suspicion.as_mut().map(|(since, _)| since);
        suspected.into_iter().chain([&mut self.now]).for_each(|at| visit(Number::Time, &mut at.0));
        visit(Number::Sequence(self.incarnation.0), &mut self.sequence);
        let requests = self.draining.as_mut().into_iter().chain([&mut self.next_request]);
        requests.for_each(|request| visit(Number::Request(self.incarnation.0), request));
    }

    /// A number never used before for a request.
    pub(super) fn request(&mut self) -> u64 {
        self.next_request += 1;
        self.next_request
    }

    pub(super) fn change_role(&mut self, to: Role, reason: &str, outputs: &mut Vec<Output>) {
        let from = std::mem::replace(&mut self.role, to);
        if from != to {
            let generation = self.generation;
            outputs.push(Output::Trace(TraceEvent::Role { from, to, generation, reason: reason.to_owned() }));
        }
    }

    pub(super) fn halt(&mut self, reason: HaltReason, outputs: &mut Vec<Output>) {
        let text = reason.to_string();
        self.change_role(Role::Halted, &text, outputs);
        outputs.push(Output::Trace(TraceEvent::Halted { reason: text }));
        self.halt_reason = Some(reason.clone());
        outputs.push(Output::Halt { reason });
    }

    pub(super) fn stop(&mut self, exit_status: i32, outputs: &mut Vec<Output>) {
        self.change_role(Role::Halted, "stopped", outputs);
        outputs.push(Output::Trace(TraceEvent::Stopped { exit_status }));
        outputs.push(Output::Stop { exit_status });
    }

    /// The header of this node's next message (R3, R4).
    pub(super) fn header(&mut self, now: Instant) -> Header {
        self.sequence += 1;
        self.hearing.echoed();
        let newer = self.role == Role::Backup && mutant!(EchoTooNew);
        Header {
            vm: self.config.vm,
            generation: self.generation,
            incarnation: self.incarnation,
            session: self.session.map_or(self.session_number, |session| session.number),
            sequence: self.sequence,
            stamp: now.0,
            echo: if newer { self.hearing.peer_stamp + 5_000_000 } else { self.hearing.peer_stamp },
        }
    }

    pub(super) fn send(&mut self, path: Path, body: Body, outputs: &mut Vec<Output>) {
        let header = self.header(self.now);
        outputs.push(Output::Send { path, bytes: Message { header, body }.encode() });
    }

    /// Sends on the log session, if there is one.
    pub(super) fn send_on_log(&mut self, body: Body, outputs: &mut Vec<Output>) {
        if let Some(session) = self.session {
            self.send(Path::Log { connection: session.connection }, body, outputs);
        }
    }

    /// Every way to the peer.
    pub(super) fn paths(&self) -> Vec<Path> {
        let log = self.session.map(|session| Path::Log { connection: session.connection });
        log.into_iter().chain((0..self.config.heartbeat_paths).map(|network| Path::Heartbeat { network })).collect()
    }

    /// Gives the session up; the runtime's `SessionClosed` for it then says nothing new.
    pub(super) fn close_session(&mut self, reason: &str, outputs: &mut Vec<Output>) {
        if let Some(session) = self.session.take() {
            outputs
                .push(Output::Trace(TraceEvent::SessionClosed { session: session.number, reason: reason.to_owned() }));
            outputs.push(Output::CloseSession { connection: session.connection });
            self.forget_joiner();
        }
    }

    /// Without a backup a primary has a peer in a handshake only, and what it asked the arbiter was for that one (R15): nobody is committed
    /// to on a later connection before it has said welcome there.
    pub(super) fn forget_joiner(&mut self) {
        if self.role == Role::Alone {
            self.peer = Incarnation::NONE;
            self.arbitration.withdraw();
        }
    }

    /// R17: what this host has failed at, the backup's may not. Alone, nobody can do it, and nothing happens here.
    fn leave_to_backup(&mut self, reason: String, outputs: &mut Vec<Output>) {
        if self.role == Role::Protected {
            self.halt(HaltReason::HostFailed { reason }, outputs);
        }
    }

    /// Guest halted and everything emitted: the VM is over, and the backup need not take over.
    fn stop_when_finished(&mut self, outputs: &mut Vec<Output>) {
        let all_done = self.released.index >= self.produced && self.traced_done >= self.released.index;
        if !(self.role.is_primary() && self.go_live.is_live() && all_done) {
            return;
        }
        let Some((exit_status, trap)) = self.guest_end.clone() else { return };
        if let Some(trap) = trap
            && self.config.rules.trap_left_to_backup
        {
            // A bit that flipped in this host's memory looks like a fault of the guest's. Replay tells the two apart.
            self.leave_to_backup(format!("{trap}, and only replay shows whether it did that itself"), outputs);
        }
        if self.role.is_primary() {
            if self.role == Role::Protected {
                for path in self.paths() {
                    self.send(path, Body::Farewell { exit_status }, outputs);
                }
            }
            self.stop(exit_status, outputs);
        }
    }
}
