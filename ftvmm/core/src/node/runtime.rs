//! The node's thread: waits for what comes, asks the state machine, carries out what it says. Nobody else steps it, and nothing here waits.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::Sender;
use serde_json::json;

use crate::devices::clock;
use crate::lab::mutant;
use crate::protocol::{Generation, Incarnation, Input, Instant, LogPosition, Node, OutputIndex, Path, Role, Unusable};

use super::authentication::Key;
use super::carry_out::Announcements;
use super::channel::Channel;
use super::command::{Command, Peer};
use super::emission::{Emission, Emitted};
#[cfg(feature = "lab")]
use super::failpoints;
use super::heartbeat::Heartbeat;
#[cfg(feature = "lab")]
use super::holding::Holding;
use super::poller::{Mailbox, Poller, Source, Teller};
use super::session::{EntriesFrame, SessionEvent};
use super::shared::Shared;
use super::status::{self, Snapshot};
use super::thread::Urgency;
use super::transfer::{self, Receiving};

/// The state machine is told the time at least so often: a late tick is how it sees that this node was paused (R7).
const TICK_MAX: Duration = Duration::from_millis(10);
/// So much of one kind is taken in, or let out, before the other kinds have their turn.
const A_TURN: usize = 64;
/// As much as that is taken in of each kind before anyone is judged behind a pause: a stream that does not end must not put the judgement
/// off for good (R7).
const DRAINED_MAX: usize = 4096;
/// While a failpoint holds something, it is looked at so often.
#[cfg(feature = "lab")]
const HELD_LOOK: Duration = Duration::from_millis(1);
/// How often the lag is written to the trace.
const LAG_SAMPLE: Duration = Duration::from_millis(50);

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

/// What other threads than the guest's tell the node's thread.
#[derive(Debug)]
pub enum Mail {
    /// from the disk's thread
    Emitted(Emitted),
    /// from the thread that checks the devices
    Checked(u64, Unusable),
    /// from a thread that carries a guest's state
    Transfer(Input),
    /// from Python and the operator
    Command(Command),
}

/// The node's thread.
pub struct Runtime {
    /// the state machine
    pub node: Node,
    /// what the threads share
    pub shared: Shared,
    /// this process's incarnation
    pub incarnation: Incarnation,
    /// what there is to wait for
    pub poller: Poller,
    /// what other threads than the guest's tell
    pub mailbox: Mailbox<Mail>,
    /// what the guest's thread tells
    pub cpu: Mailbox<Input>,
    /// the logging channel
    pub channel: Channel,
    /// the VM's key, for connections of other threads
    pub key: Key,
    /// the peer's name, for people
    pub peer_name: String,
    /// the peer's listener
    pub peer: SocketAddr,
    /// who is to be the backup once the one that is let go is gone
    pub next_peer: Option<Peer>,
    /// the networks of the heartbeat sockets
    pub networks: Vec<String>,
    /// what other threads tell by
    pub mail: Teller<Mail>,
    /// joiner: the guest's state that comes, for the session on this log connection
    pub receiving: Option<(u64, TcpStream)>,
    /// the heartbeat sockets
    pub heartbeats: Vec<Heartbeat>,
    /// outputs on their way out
    pub emission: Emission,
    /// where the VM is announced
    pub announcements: Announcements,
    /// what Python carries out
    pub effects: Sender<Effect>,
    /// to the thread that checks the devices
    pub checks: Sender<u64>,
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
    /// there is more to take in, or to let out, than one turn has done
    pub busy: bool,
    /// the node has ended, and this is how
    pub ended: Arc<OnceLock<Snapshot>>,
}

impl Runtime {
    /// Runs until the node ends.
    pub fn run(mut self, urgency: &mut Urgency) {
        while self.ended.get().is_none() {
            if self.busy {
                self.wait(Duration::ZERO);
            } else {
                urgency.rest();
                self.wait(self.until_deadline());
            }
            urgency.look();
            self.turn();
        }
    }

    /// How long nothing is due.
    fn until_deadline(&self) -> Duration {
        let now = clock::now();
        let due = self.announcements.due_at().map_or(self.node.deadline(), |at| at.min(self.node.deadline()));
        let channel = self.channel.deadline().map(|at| at.saturating_duration_since(std::time::Instant::now()));
        #[cfg(feature = "lab")]
        let channel = if failpoints::holds() { Some(HELD_LOOK) } else { channel };
        due.since(now).min(channel.unwrap_or(TICK_MAX)).min(TICK_MAX)
    }

    fn wait(&mut self, timeout: Duration) {
        let (channel, heartbeats) = (&mut self.channel, &mut self.heartbeats);
        let waited = self.poller.wait(timeout, |source, ready| match source {
            Source::Wake => {}
            Source::Listener => channel.may_accept(),
            Source::Session(session) => channel.is_ready(session, ready),
            Source::Heartbeat(index) => {
                heartbeats.get_mut(usize::from(index)).into_iter().for_each(Heartbeat::is_ready);
            }
        });
        if let Err(error) = waited {
            self.exit(3, format!("halted: the node cannot wait for anything any more: {error}"));
        }
    }

    /// Takes in what is there, a little of everything, and lets out what may leave.
    fn turn(&mut self) {
        self.busy = false;
        self.step(Input::Tick);
        self.take_in(A_TURN);
        for count in 1..=A_TURN {
            let Some(mail) = self.mailbox.next() else { break };
            let input = self.mail(mail);
            self.arrived(input);
            self.busy |= count == A_TURN;
        }
        for count in 1..=A_TURN {
            let Some(input) = self.cpu.next() else { break };
            self.arrived(Some(input));
            self.busy |= count == A_TURN;
        }
        #[cfg(feature = "lab")]
        self.go_on();
        self.follow();
        if self.announcements.is_due(clock::now()) && self.node.may_announce(clock::now()) {
            // Asked right before the send, as for an output: who was frozen since its go-live may have been superseded.
            self.shared.world.announce();
        }
        // Behind all that may have made an output releasable.
        self.busy |= !self.emit();
        self.sample_lag();
        self.write();
    }

    /// Takes in what the sockets have, at most so much of each.
    fn take_in(&mut self, max: usize) {
        for index in 0..self.heartbeats.len() {
            for count in 1..=max {
                let Some(message) = self.heartbeats[index].receive() else { break };
                let message = message.filter(|_| index == 0 || !mutant!(DeafToManagement));
                let path = Path::Heartbeat { network: index as u8 };
                // A primary speaks first, and was told where.
                if let Some((bytes, from)) = &message
                    && *from != self.heartbeats[index].peer()
                    && matches!(self.node.role(), Role::Joining | Role::Backup | Role::Candidate)
                    && self.node.is_heard_first(path, bytes)
                {
                    self.heartbeats[index].set_peer(*from);
                }
                self.arrived(message.map(|(bytes, _)| Input::Message { path, bytes }));
                self.busy |= count == max;
            }
        }
        self.channel.accept();
        for count in 1..=max {
            let Some(event) = self.channel.next_event() else { break };
            // Time first: what is due is done before anything that came later, and a pause is seen before a message
            // of before it is judged. Entries above all are stored behind it, not before: what it makes a candidate
            // of must not hold entries that it does not know of (R6, R9).
            self.step(Input::Tick);
            let input = self.session(event);
            let stored = matches!(input, Some(Input::EntriesStored { .. }));
            self.arrived(input);
            if stored {
                // Acknowledged before replay hears of them.
                self.shared.replay_log.wake();
            }
            self.busy |= count == max;
        }
    }

    /// Something came.
    fn arrived(&mut self, input: Option<Input>) {
        #[cfg(feature = "lab")]
        let input = input.and_then(|input| self.holding.let_in(input, &self.node));
        if let Some(input) = input {
            self.step(input);
        }
        self.follow();
    }

    /// What carrying out gave rise to.
    fn follow(&mut self) {
        while let Some(input) = self.followed.pop_front() {
            self.step(input);
        }
        if let Some(request) = self.drain.take() {
            // R7: this node was paused. All that waits is taken in before anyone is judged.
            self.wait(Duration::ZERO);
            self.take_in(DRAINED_MAX);
            self.step(Input::SocketsDrained { request });
        }
    }

    fn step(&mut self, input: Input) {
        let mut outputs = Vec::new();
        self.node.step(clock::now(), input, &mut outputs);
        #[cfg(not(feature = "lab"))]
        for output in outputs {
            self.carry_out(output);
        }
        #[cfg(feature = "lab")]
        {
            let passed = self.holding.look(&outputs, self.node.role());
            for (place, output) in outputs.into_iter().enumerate() {
                if let Some(output) = self.holding.let_by(&passed, place, output) {
                    self.carry_out(output);
                }
            }
        }
    }

    /// Lets outputs leave. Returns whether all have left that may.
    fn emit(&mut self) -> bool {
        for _ in 0..A_TURN {
            let Some((output, result)) = self.emission.next(&self.node) else { return true };
            self.step(Input::OutputDone { output, result });
            self.follow();
        }
        false
    }

    /// What failpoints held and do not hold any more.
    #[cfg(feature = "lab")]
    fn go_on(&mut self) {
        let (outputs, inputs) = self.holding.released();
        for output in outputs {
            self.carry_out(output);
        }
        self.followed.extend(inputs);
    }

    /// Writes how far replay is behind, for the picture and for whoever looks at the trace.
    fn sample_lag(&mut self) {
        let now = clock::now();
        if now.since(self.lag_sampled_at) < LAG_SAMPLE {
            return;
        }
        self.lag_sampled_at = now;
        if matches!(self.node.role(), Role::Protected | Role::Backup) {
            let Snapshot { status, lag_ms, lag_bytes, .. } = self.snapshot();
            let share = status::share(&status);
            self.shared.trace.write("lag", json!({ "milliseconds": lag_ms, "bytes": lag_bytes, "share": share }));
        }
    }

    /// What `ftvmm status` shows.
    pub(super) fn snapshot(&self) -> Snapshot {
        let now = clock::now();
        Snapshot::new(self.node.status(now), &self.shared, &self.peer_name, now)
    }

    fn mail(&mut self, mail: Mail) -> Option<Input> {
        match mail {
            Mail::Emitted(emitted) => {
                self.emission.emitted(emitted).map(|(output, result)| Input::OutputDone { output, result })
            }
            Mail::Checked(request, found) => Some(Input::DevicesChecked { request, found }),
            Mail::Transfer(input) => Some(input),
            Mail::Command(command) => self.command(command),
        }
    }

    /// Joiner: a guest's state comes on this connection, if the protocol waits for one. One for each session, on a connection of its own.
    fn receive_state(&mut self, session: u64, header: &[u8]) -> bool {
        let Some(connection) = self.node.accepts_transfer(header) else { return false };
        let comes_already = self.receiving.as_ref().is_some_and(|(other, _)| *other == connection);
        if connection == session || comes_already {
            return false;
        }
        let Some(frames) = self.channel.detach(session) else { return false };
        let Ok(handle) = frames.handle() else { return false };
        self.end_receiving();
        self.receiving = Some((connection, handle));
        let (mail, slot) = (self.mail.clone(), self.shared.slot.clone());
        slot.await_transfer(connection);
        transfer::receive(Receiving { frames, connection, slot }, move |input| {
            // The node may have ended meanwhile.
            let _ = mail.tell(Mail::Transfer(input));
        });
        true
    }

    /// What is still on its way here is of no use any more.
    pub(super) fn end_receiving(&mut self) {
        if let Some((_, stream)) = self.receiving.take() {
            // One that has ended already cannot be shut down.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Joiner: log, outputs and guest begin where the guest's state was carried from, or in its initial state.
    pub(super) fn begin_where_carried(&self) {
        let carried = self.shared.slot.carried();
        let position = carried.as_ref().map_or(LogPosition::START, |carried| carried.position());
        self.shared.replay_log.restart_at(position);
        self.shared.outputs.begin_at(carried.map_or(OutputIndex::NONE, |carried| OutputIndex(carried.produced)));
        self.shared.cpu.come_to(position);
    }

    fn session(&mut self, event: SessionEvent) -> Option<Input> {
        Some(match event {
            SessionEvent::Opened { session, dialled } => Input::SessionOpened { connection: session, dialled },
            SessionEvent::DialFailed => Input::DialFailed,
            SessionEvent::Message { session, bytes } => {
                Input::Message { path: Path::Log { connection: session }, bytes }
            }
            SessionEvent::Entries { session, payload } => match self.store(session, &payload) {
                Ok(header) => Input::EntriesStored { connection: session, header },
                Err(reason) => {
                    self.channel.close(session);
                    Input::SessionClosed { connection: session, reason }
                }
            },
            #[cfg(feature = "lab")]
            SessionEvent::EntriesBegun { session, header } => Input::EntriesStored { connection: session, header },
            SessionEvent::Transfer { session, header } => {
                if !self.receive_state(session, &header) {
                    self.channel.close(session);
                    let reason = "a guest's state comes that is not waited for".to_owned();
                    return Some(Input::SessionClosed { connection: session, reason });
                }
                return None;
            }
            SessionEvent::Closed { session, reason } => Input::SessionClosed { connection: session, reason },
        })
    }

    /// Backup: stores the entries that the protocol lets in, between its look and its learning that they are held (R6).
    fn store(&self, session: u64, payload: &[u8]) -> Result<Vec<u8>, String> {
        let frame = EntriesFrame::parse(payload)?;
        let Some(range) = self.node.accepts_entries(session, &frame.header) else {
            return Err("entries came to a node that takes none from here now".into());
        };
        if frame.first != range.first || frame.entries.len() as u64 != range.through.since(range.first).wrapping_add(1)
        {
            return Err(format!("a frame's header speaks of other entries than the {} in it", frame.entries.len()));
        }
        let newest = self.shared.replay_log.newest();
        match self.shared.replay_log.store(frame.first, frame.entries, clock::boottime_nanoseconds()) {
            Some(_) => Ok(frame.header),
            None => Err(format!("entries from position {} do not follow {newest}", frame.first)),
        }
    }

    /// Hands to the kernel what waits for the logging channel.
    pub(super) fn write(&mut self) {
        let node = &mut self.node;
        self.busy |= self
            .channel
            .write(&mut |session, first, through| node.stamp_entries(session, first, through, clock::now()));
    }
}
