//! The protocol's thread: gathers what happened, asks the state machine, carries out what it says.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;

use crossbeam_channel::{Receiver, Sender, after, select_biased};

use crate::devices::clock;
use crate::lab::mutant;
#[cfg(feature = "lab")]
use crate::lab::rule;
use crate::protocol::{
    ArbiterRecord, AskResult, Generation, Incarnation, Input, Instant, Output, OutputMark, OutputResult, Path,
    ReadResult, Role, TraceEvent, Unusable,
};

use super::heartbeat::{Datagram, Heartbeat};
#[cfg(feature = "lab")]
use super::holding::Holding;
#[cfg(feature = "lab")]
use super::mutants;
use super::session::{Channel, EntriesFrame, Session, SessionEvent};
use super::shared::Shared;
use super::status;
use super::thread;
use super::trace_event;

/// The state machine is told the time at least so often: a late tick is how it sees that this node was paused (R7).
const TICK_MAX: Duration = Duration::from_millis(10);
/// How long a node that was itself paused lets its sockets' threads hand over before it judges its peer (R7).
const DRAIN: Duration = Duration::from_millis(10);
/// When announcements are made, in milliseconds after the go-live: a late frame of the old host flips switch tables.
const ANNOUNCEMENTS_MS: [u64; 8] = [0, 10, 50, 150, 400, 1000, 2000, 3000];

/// How often the lag is written to the trace.
const LAG_SAMPLE: Duration = Duration::from_millis(50);

/// What Python and the operator tell the protocol's thread.
#[derive(Debug)]
pub enum Command {
    /// claim generation 1
    Bootstrap,
    /// an orderly end
    Stop,
    /// the arbiter's answer
    Arbiter {
        /// which question
        request: u64,
        /// what it holds, of no generation where it holds nothing; `None`: no answer
        record: Option<ArbiterRecord>,
    },
}

/// What Python carries out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// read the newest generation
    ReadArbiter(u64),
    /// the same where nothing hangs on it
    CheckArbiter(u64),
    /// claim a generation
    AskArbiter(u64, Generation),
    /// end the process
    Exit(i32, String),
}

/// Where everything that happened arrives.
pub struct Inbox {
    /// from the logging channel
    pub sessions: Receiver<SessionEvent>,
    /// from the heartbeat sockets
    pub datagrams: Receiver<Datagram>,
    /// from the guest's thread
    pub cpu: Receiver<Input>,
    /// from the emitter
    pub done: Receiver<(OutputMark, OutputResult)>,
    /// from the thread that checks the devices
    pub checked: Receiver<(u64, Unusable)>,
    /// from Python and the operator
    pub commands: Receiver<Command>,
}

/// One thing that arrived.
enum Event {
    /// time has passed
    Nothing,
    Command(Command),
    Datagram(Datagram),
    Session(SessionEvent),
    Done((OutputMark, OutputResult)),
    Checked((u64, Unusable)),
    Cpu(Input),
}

/// The protocol's thread.
pub struct Runtime {
    /// what the threads share
    pub shared: Shared,
    /// this process's incarnation
    pub incarnation: Incarnation,
    /// the logging channel
    pub channel: Channel,
    /// the peer's listener
    pub peer: SocketAddr,
    /// the heartbeat sockets
    pub heartbeats: Vec<Heartbeat>,
    /// what Python carries out
    pub effects: Sender<Effect>,
    /// to the thread that checks the devices
    pub checks: Sender<u64>,
    /// open connections by number
    pub sessions: BTreeMap<u64, Session>,
    /// generations asked for, by request
    pub asked: BTreeMap<u64, Generation>,
    /// inputs that carrying out an output gave rise to
    pub followed: VecDeque<Input>,
    /// this node was paused and has to empty its sockets before it judges, under this number (R7)
    pub drain: Option<u64>,
    /// what failpoints hold
    #[cfg(feature = "lab")]
    pub holding: Holding,
    /// when the lag was last written to the trace
    pub lag_sampled_at: Instant,
    /// an orderly end is under way
    pub ended: bool,
}

impl Runtime {
    /// Runs until the node ends.
    pub fn run(mut self, inbox: &Inbox) {
        while !self.ended {
            let now = clock::now();
            let due =
                Duration::from_nanos(self.shared.protocol.lock().deadline().0.saturating_sub(now.0)).min(TICK_MAX);
            let event = select_biased! {
                recv(inbox.commands) -> event => event.map(Event::Command),
                recv(inbox.datagrams) -> event => event.map(Event::Datagram),
                recv(inbox.sessions) -> event => event.map(Event::Session),
                recv(inbox.done) -> event => event.map(Event::Done),
                recv(inbox.cpu) -> event => event.map(Event::Cpu),
                recv(inbox.checked) -> event => event.map(Event::Checked),
                recv(after(due)) -> _ => Ok(Event::Nothing),
            };
            // Time first: what is due is done before anything that came later, and a pause is seen before a message
            // of before it is judged. Entries above all are stored behind it, not before: what it makes a candidate
            // of must not hold entries that it does not know of (R6, R9).
            self.step(Input::Tick);
            if let Ok(event) = event {
                self.take(event, inbox);
            }
            if let Some(request) = self.drain.take() {
                self.drain(request, inbox);
            }
            self.sample_lag(now);
            #[cfg(feature = "lab")]
            self.go_on();
            while let Some(input) = self.followed.pop_front() {
                self.step(input);
            }
        }
    }

    fn take(&mut self, event: Event, inbox: &Inbox) {
        let input = match event {
            Event::Nothing => None,
            Event::Command(command) => self.command(command),
            Event::Datagram(datagram) if datagram.network > 0 && mutant!(DeafToManagement) => None,
            Event::Datagram(datagram) => {
                let path = Path::Heartbeat { network: datagram.network as u8 };
                Some(Input::Message { path, bytes: datagram.bytes })
            }
            Event::Session(event) => self.session(event),
            Event::Done(done) => Some(self.done(done, &inbox.done)),
            Event::Cpu(input) => Some(input),
            Event::Checked((request, found)) => Some(Input::DevicesChecked { request, found }),
        };
        #[cfg(feature = "lab")]
        let input = input.and_then(|input| self.holding.let_in(input, &self.shared.protocol));
        if let Some(input) = input {
            self.step(input);
        }
    }

    /// Outputs leave in order: where several have left well, the newest speaks for all.
    fn done(
        &mut self,
        (mut output, result): (OutputMark, OutputResult),
        more: &Receiver<(OutputMark, OutputResult)>,
    ) -> Input {
        while result == OutputResult::Completed
            && let Ok((next, result)) = more.try_recv()
        {
            if result != OutputResult::Completed {
                self.followed.push_back(Input::OutputDone { output: next, result });
                break;
            }
            output = next;
        }
        Input::OutputDone { output, result }
    }

    /// R7: this node was paused. The sockets' threads are given the time to hand over what waits, and all of it is
    /// taken in before anyone is judged.
    fn drain(&mut self, request: u64, inbox: &Inbox) {
        std::thread::sleep(DRAIN);
        // As many as there are now: a stream that does not end must not put the judgement off for good.
        for _ in 0..inbox.datagrams.len() {
            let Ok(datagram) = inbox.datagrams.try_recv() else { break };
            self.take(Event::Datagram(datagram), inbox);
        }
        for _ in 0..inbox.sessions.len() {
            let Ok(event) = inbox.sessions.try_recv() else { break };
            self.take(Event::Session(event), inbox);
        }
        self.step(Input::SocketsDrained { request });
    }

    fn step(&mut self, input: Input) {
        let mut outputs = Vec::new();
        let mut protocol = self.shared.protocol.lock();
        protocol.step(clock::now(), input, &mut outputs);
        #[cfg(feature = "lab")]
        let passed = self.holding.look(&outputs, protocol.role());
        drop(protocol);
        #[cfg(not(feature = "lab"))]
        for output in outputs {
            self.carry_out(output);
        }
        #[cfg(feature = "lab")]
        for (place, output) in outputs.into_iter().enumerate() {
            if let Some(output) = self.holding.let_by(&passed, place, output) {
                self.carry_out(output);
            }
        }
    }

    /// What failpoints held and do not hold any more.
    #[cfg(feature = "lab")]
    fn go_on(&mut self) {
        let were_held = super::holding::outputs_are_held();
        let (outputs, inputs) = self.holding.released();
        for output in outputs {
            self.carry_out(output);
        }
        if were_held {
            self.shared.outputs.hint();
        }
        self.followed.extend(inputs);
    }

    /// Writes how far replay is behind, for the picture and for whoever looks at the trace.
    fn sample_lag(&mut self, now: Instant) {
        if now.since(self.lag_sampled_at) < LAG_SAMPLE {
            return;
        }
        self.lag_sampled_at = now;
        let status = self.shared.protocol.lock().status(now);
        if matches!(status.role, Role::Protected | Role::Backup) {
            let (milliseconds, bytes) = status::lag(&self.shared, &status, now);
            let share = status::share(&status);
            self.shared.trace.write("lag", json!({ "milliseconds": milliseconds, "bytes": bytes, "share": share }));
        }
    }

    fn command(&mut self, command: Command) -> Option<Input> {
        Some(match command {
            Command::Bootstrap => Input::BootstrapRequested,
            Command::Stop => Input::StopRequested,
            Command::Arbiter { request, record } => match (self.asked.remove(&request), record) {
                (Some(_), None) => Input::ArbiterAsked { request, result: AskResult::Unreachable },
                (Some(generation), Some(record)) => {
                    let won = record == ArbiterRecord { generation, incarnation: self.incarnation }
                        || (generation > Generation::FIRST && mutant!(IgnoreLost));
                    Input::ArbiterAsked { request, result: if won { AskResult::Won } else { AskResult::Lost } }
                }
                (None, None) => Input::ArbiterRead { request, result: ReadResult::Unreachable },
                (None, Some(ArbiterRecord { generation: Generation::NONE, .. })) => {
                    Input::ArbiterRead { request, result: ReadResult::Empty }
                }
                (None, Some(record)) => Input::ArbiterRead { request, result: ReadResult::Record(record) },
            },
        })
    }

    fn session(&mut self, event: SessionEvent) -> Option<Input> {
        Some(match event {
            SessionEvent::Opened { session, dialled } => {
                let connection = session.number();
                self.sessions.insert(connection, session);
                Input::SessionOpened { connection, dialled }
            }
            SessionEvent::DialFailed => Input::DialFailed,
            SessionEvent::Message { session, bytes } => {
                Input::Message { path: Path::Log { connection: session }, bytes }
            }
            SessionEvent::Entries { session, payload, room: _room } => match self.store(session, &payload) {
                Ok(header) => Input::EntriesStored { connection: session, header },
                Err(reason) => {
                    let session = self.sessions.remove(&session)?;
                    session.close();
                    Input::SessionClosed { connection: session.number(), reason }
                }
            },
            #[cfg(feature = "lab")]
            SessionEvent::EntriesBegun { session, header } => Input::EntriesStored { connection: session, header },
            SessionEvent::Closed { session, reason } => {
                self.sessions.remove(&session);
                Input::SessionClosed { connection: session, reason }
            }
        })
    }

    /// Backup: stores the entries that the protocol lets in. Here and not in the reader's thread, so that nothing
    /// comes between the protocol's look and its learning that they are held (R6).
    fn store(&self, session: u64, payload: &[u8]) -> Result<Vec<u8>, String> {
        let frame = EntriesFrame::parse(payload)?;
        let Some(range) = self.shared.protocol.lock().accepts_entries(session, &frame.header) else {
            return Err("entries came to a node that takes none from here now".into());
        };
        if frame.first != range.first || frame.entries.len() as u64 != range.through.since(range.first).wrapping_add(1)
        {
            return Err(format!("a frame's header speaks of other entries than the {} in it", frame.entries.len()));
        }
        let newest = self.shared.log.newest();
        match self.shared.log.store(frame.first, frame.entries, clock::boottime_nanoseconds()) {
            Some(_) => Ok(frame.header),
            None => Err(format!("entries from position {} do not follow {newest}", frame.first)),
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Send { path, bytes } => self.send(path, bytes),
            Output::Dial => self.channel.dial(self.peer),
            Output::CloseSession { connection } => {
                if let Some(session) = self.sessions.get(&connection) {
                    session.close();
                }
            }
            Output::StreamEntries { connection, from } => {
                if let Some(session) = self.sessions.get(&connection) {
                    session.stream_entries(from);
                }
            }
            Output::ReadArbiter { request } => self.ask_python(request, Effect::ReadArbiter(request)),
            Output::CheckArbiter { request } => self.ask_python(request, Effect::CheckArbiter(request)),
            Output::AskArbiter { request, generation } => self.ask(request, generation),
            Output::StartGuest => self.start_guest(),
            Output::StartReplay => self.shared.cpu.replay(),
            Output::CloseLog { position } => {
                if mutant!(AnnounceEarly) && self.shared.world.attach().is_ok() {
                    self.shared.world.announce();
                    self.shared.world.detach();
                }
                self.shared.log.close(position);
            }
            Output::ReopenLog { .. } => {
                self.shared.log.reopen();
                self.shared.cpu.replay();
            }
            Output::CheckDevices { request } => {
                // One at a time, and the thread lives as long as this one.
                let _ = self.checks.try_send(request);
            }
            Output::Attach { .. } => self.attach(),
            Output::Announce => self.announce(),
            Output::Reissue { from, through } => self.shared.outputs.reissue(from, through),
            Output::GoLive => self.go_live(),
            Output::RunAlone => self.run_alone(),
            Output::TryRelease => self.shared.outputs.hint(),
            Output::TruncateLog { through } => self.shared.log.truncate(through),
            Output::ForgetOutputs { through } => self.shared.outputs.forget(through),
            Output::ThrottleGuest { share } if !mutant!(NeverSlowed) => self.shared.cpu.throttle(share),
            Output::ThrottleGuest { .. } => {}
            Output::DrainSockets { request } => self.drain = Some(request),
            Output::Halt { reason } => self.exit(3, format!("halted: {reason}")),
            Output::Stop { exit_status } => self.exit(exit_status, String::new()),
            Output::Trace(event) => self.trace(event),
        }
    }

    fn trace(&self, event: TraceEvent) {
        #[cfg(feature = "lab")]
        if let TraceEvent::Role { from, to, generation, reason } = &event {
            mutants::remember(*to, *generation);
            if mutant!(HaltLate) && *from == Role::Protected && *to == Role::Alone && reason.starts_with("lost") {
                mutants::die_after(Duration::from_millis(50));
            }
        }
        let released = self.shared.protocol.lock().released();
        trace_event::write(&self.shared.trace, event, released);
    }

    fn send(&self, path: Path, bytes: Vec<u8>) {
        match path {
            Path::Log { connection } => {
                if let Some(session) = self.sessions.get(&connection) {
                    session.send(bytes);
                }
            }
            Path::Heartbeat { network } => {
                if let Some(heartbeat) = self.heartbeats.get(usize::from(network)) {
                    heartbeat.send(bytes);
                }
            }
        }
    }

    /// Has the arbiter asked. Where that much is waiting to be asked already, the arbiter is out of reach.
    fn ask_python(&mut self, request: u64, effect: Effect) {
        if self.effects.try_send(effect).is_err() {
            let unanswered = self.command(Command::Arbiter { request, record: None });
            self.followed.extend(unanswered);
        }
    }

    fn ask(&mut self, request: u64, generation: Generation) {
        if mutant!(SkipArbiter) && generation > Generation::FIRST {
            self.followed.push_back(Input::ArbiterAsked { request, result: AskResult::Won });
            return;
        }
        self.asked.insert(request, generation);
        self.ask_python(request, Effect::AskArbiter(request, generation));
    }

    fn start_guest(&mut self) {
        match self.shared.world.attach() {
            Ok(()) => {
                self.shared.outputs.release();
                self.shared.cpu.run_logging();
            }
            Err(error) => self.exit(2, error.to_string()),
        }
    }

    fn attach(&mut self) {
        if mutant!(SlowGoLive) {
            std::thread::sleep(Duration::from_secs(1));
        }
        match self.shared.world.attach() {
            Ok(()) => self.followed.push_back(Input::Attached),
            Err(error) => self.exit(3, format!("halted: the VM's devices cannot be attached: {error}")),
        }
    }

    fn announce(&self) {
        if mutant!(AnnounceNothing) {
            return;
        }
        let shared = self.shared.clone();
        thread::start("announce", move || {
            let mut waited_ms = 0;
            for at_ms in ANNOUNCEMENTS_MS {
                std::thread::sleep(Duration::from_millis(at_ms - waited_ms));
                waited_ms = at_ms;
                // Right before the send, as an output is looked at: who was frozen since its go-live may have been superseded.
                if shared.protocol.lock().may_announce(clock::now()) {
                    shared.world.announce();
                }
            }
        });
    }

    fn go_live(&self) {
        #[cfg(feature = "lab")]
        mutants::note_go_live();
        #[cfg(feature = "lab")]
        if mutant!(DieAfterGoLive) {
            mutants::die_after(Duration::from_secs(2));
        }
        #[cfg(feature = "lab")]
        if mutant!(LoseLogTail) || mutant!(LoseLastEntry) {
            self.shared.outputs.forget_nothing();
        }
        #[cfg(feature = "lab")]
        if !rule!(reissue) {
            // What may not have left is lost here; left in the queue it would hold up all that follows.
            self.shared.outputs.forget(self.shared.outputs.produced());
        }
        self.shared.outputs.release();
        // Nobody sends or replays what is left of the log.
        self.run_alone();
    }

    fn run_alone(&self) {
        self.shared.cpu.run_alone();
        self.shared.log.restart_at(self.shared.cpu.position());
    }

    fn exit(&mut self, status: i32, reason: String) {
        self.ended = true;
        self.shared.outputs.stop();
        self.shared.cpu.stop();
        self.shared.log.stop();
        // First, so that the process ends even where letting go of a disk hangs on a dead share.
        if self.effects.try_send(Effect::Exit(status, reason)).is_err() {
            // Python does not listen any more.
            std::process::exit(status);
        }
        for session in self.sessions.values() {
            session.close();
        }
        self.shared.world.detach();
    }
}
