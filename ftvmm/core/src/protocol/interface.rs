//! The state machine's interface: what it is told ([`Input`]), what it has done ([`Output`]), and what it tells ([`TraceEvent`], [`Status`]).

use std::time::Duration;

use thiserror::Error;

use crate::log::{Fingerprint, LogPosition};

use super::lag::Share;
use super::numbers::{Generation, Incarnation, OutputIndex};
use super::readiness::Unusable;
use super::role::Role;
use super::wire::OutputMark;

/// The way that a message came or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// The log session (TCP), by the number that the runtime gave to the connection.
    Log {
        /// The runtime's number of the connection, never used twice in one process.
        connection: u64,
    },
    /// A heartbeat socket (UDP), by its index in the configuration.
    Heartbeat {
        /// Index in the configuration's list of heartbeat networks.
        network: u8,
    },
}

/// What the arbiter holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ArbiterRecord {
    /// The newest generation.
    pub generation: Generation,
    /// The incarnation of the process that won it.
    pub incarnation: Incarnation,
}

/// Answer to [`Output::ReadArbiter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadResult {
    /// The newest record.
    Record(ArbiterRecord),
    /// The arbiter is there and holds no generation of this VM.
    Empty,
    /// Error or time-out.
    Unreachable,
}

/// Answer to [`Output::AskArbiter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AskResult {
    /// The test-and-set succeeded.
    Won,
    /// The generation existed already.
    Lost,
    /// Error or time-out: it may have been applied, or may yet be.
    Unreachable,
}

/// How the emission of an output ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutputResult {
    /// The frame was handed to the kernel whole, the write completed well.
    Completed,
    /// The write failed: the guest was told "ok", so the node halts (R17). A frame that finds a full queue
    /// is lost, as on any network, and counts as completed.
    Failed,
    /// The network interface took no frame (it is down, or fails), and the frame has not left. A backup's may take it (R17); alone,
    /// it is a cable that is unplugged.
    Refused,
    /// The storage refused the write: another node owns the disk (RESERVATION CONFLICT).
    Fenced,
}

/// One event, as the runtime saw it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// Time has passed. Expected at [`super::Node::deadline`], allowed at any time.
    Tick,
    /// `ftvmm node --bootstrap`: claim generation 1 (R2).
    BootstrapRequested,
    /// The operator wants this node to stop.
    StopRequested,
    /// The operator wants this primary to go on without its backup (R21).
    BackupUnwanted,
    /// The operator wants the VM to be the backup's (R21).
    HandOverWanted,
    /// The operator wants the VM to have a backup again, which the runtime knows how to reach: dial until there is one.
    BackupWanted,
    /// Primary, joiner: more of the guest's state has gone over.
    TransferProgressed {
        /// The log connection that the transfer belongs to.
        connection: u64,
    },
    /// Primary, joiner: the guest's state does not get over.
    TransferFailed {
        /// The log connection that the transfer belongs to.
        connection: u64,
        /// Why.
        reason: String,
    },
    /// Primary: the guest waits at an input, for what is left of its state to go over.
    GuestStops {
        /// The log connection that the transfer belongs to.
        connection: u64,
    },
    /// Primary: the guest waits at an input, and all of its state is sent.
    GuestStopped {
        /// The log connection that the transfer belongs to.
        connection: u64,
        /// S: the position of the newest entry before that input.
        position: LogPosition,
        /// The newest output before it.
        produced: OutputIndex,
        /// A digest of the state.
        digest: Fingerprint,
    },
    /// Joiner: the guest's state has come, whole.
    StateRestored {
        /// The log connection that the transfer belongs to.
        connection: u64,
        /// S: its position.
        position: LogPosition,
        /// A digest of the state, as it is here.
        digest: Fingerprint,
    },
    /// The arbiter's answer to `ReadArbiter` or `CheckArbiter`.
    ArbiterRead {
        /// The request that is answered.
        request: u64,
        /// What was read.
        result: ReadResult,
    },
    /// The arbiter's answer to `AskArbiter`.
    ArbiterAsked {
        /// The request that is answered.
        request: u64,
        /// What came of it.
        result: AskResult,
    },
    /// A log connection is up.
    SessionOpened {
        /// The runtime's number of the connection, never used twice in one process.
        connection: u64,
        /// Whether this node dialled (after `Dial`) or accepted it.
        dialled: bool,
    },
    /// `Dial` did not lead to a connection.
    DialFailed,
    /// A log connection is gone (also after `CloseSession`).
    SessionClosed {
        /// The runtime's number of the connection.
        connection: u64,
        /// For the trace.
        reason: String,
    },
    /// A message that passed the keyed hash. Entries do not come this way (see `EntriesStored`).
    Message {
        /// Where it came in.
        path: Path,
        /// The encoded [`super::Message`].
        bytes: Vec<u8>,
    },
    /// Primary: the vCPU appended entries to the log, up to and including this position.
    EntriesAppended {
        /// Position of the newest entry.
        through: LogPosition,
    },
    /// The guest produced an output, live or in replay; it is held now. Reported before the guest runs on.
    OutputProduced {
        /// The output.
        output: OutputMark,
        /// Position of the last entry before it.
        depends_on: LogPosition,
        /// The newest output beneath a write that may be re-issued yet, if any (R23).
        overlaps: OutputIndex,
    },
    /// Primary: the emission of an output has ended.
    OutputDone {
        /// The output.
        output: OutputMark,
        /// How.
        result: OutputResult,
    },
    /// Backup: entries that [`super::Node::accepts_entries`] let in are held whole, checksums verified (R6).
    EntriesStored {
        /// The connection they came on.
        connection: u64,
        /// The header that came with them, as encoded by [`super::Node::stamp_entries`].
        header: Vec<u8>,
    },
    /// Backup: replay has come so far.
    EntriesReplayed {
        /// Position of the newest entry replayed.
        through: LogPosition,
    },
    /// Candidate: replay has reached the end of the closed log and the guest asks for an input that is not there.
    Drained {
        /// The position that `CloseLog` named.
        position: LogPosition,
    },
    /// Backup: replay differs from the log at this position.
    Diverged {
        /// Position of the first entry that differs.
        position: LogPosition,
        /// What differs.
        reason: String,
    },
    /// The VM's devices were looked at, after `CheckDevices`.
    DevicesChecked {
        /// The number in `CheckDevices`.
        request: u64,
        /// What of them cannot be used.
        found: Unusable,
    },
    /// The winner's devices are attached, after `Attach`.
    Attached,
    /// The guest has come to its end (primary: live; backup: in replay).
    GuestHalted {
        /// The guest's exit status.
        exit_status: i32,
        /// What it did that it may not, as far as this host can tell; `None`: it halted itself.
        trap: Option<String>,
    },
    /// Live: this host's disk has failed to read what the guest asks for. The guest is told once there is no backup that could.
    ReadFailed {
        /// Which read, and what the disk said.
        reason: String,
    },
    /// This host cannot go on with the guest (KVM, a device), and no log can say why.
    HostFailed {
        /// What failed.
        reason: String,
    },
    /// Every datagram and byte that was waiting when `DrainSockets` came has been handed over.
    SocketsDrained {
        /// The number in `DrainSockets`.
        request: u64,
    },
}

/// One thing to be done, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send these bytes (after keying and framing them). A path that is gone or full: dropped, or for the log, queued.
    Send {
        /// The way to send them.
        path: Path,
        /// The encoded [`super::Message`].
        bytes: Vec<u8>,
    },
    /// Connect to the peer's log listener; answer with `SessionOpened` or `DialFailed`.
    Dial,
    /// Close this connection; it ends in `SessionClosed`.
    CloseSession {
        /// The runtime's number of the connection.
        connection: u64,
    },
    /// Primary: send entries on this connection from this position on, each frame with a fresh `stamp_entries` header.
    StreamEntries {
        /// The runtime's number of the connection.
        connection: u64,
        /// Position of the first entry to send.
        from: LogPosition,
    },
    /// Read the newest record of the VM; answer with `ArbiterRead`.
    ReadArbiter {
        /// To be given back.
        request: u64,
    },
    /// Test-and-set: create this generation under this node's incarnation; answer with `ArbiterAsked`. Generation 1 is the bootstrap.
    AskArbiter {
        /// To be given back.
        request: u64,
        /// The generation to create.
        generation: Generation,
    },
    /// Primary: attach the devices, run the guest from its initial state.
    StartGuest,
    /// Primary: the guest's memory goes to the joiner on a connection of its own, while the guest runs; in the end the guest stops at an input and
    /// the rest goes over. Say `TransferProgressed`, then `GuestStopped`, or `TransferFailed`.
    BeginTransfer {
        /// The log connection that the transfer belongs to.
        connection: u64,
    },
    /// Primary: the transfer is given up. A guest that was stopped for it goes on.
    EndTransfer,
    /// Primary: the stopped guest goes on, and what it takes in is logged for the backup.
    ResumeGuest,
    /// Joiner: log, outputs and guest begin where the guest's state was carried from.
    BeginWhereCarried,
    /// Joiner: what has come of a guest's state is thrown away; log, outputs and guest begin in the initial state.
    DiscardState,
    /// Backup: replay the log from the state on that was restored, or else from the initial one.
    StartReplay,
    /// Candidate: entries beyond this position are thrown away; replay to it, then say `Drained`.
    CloseLog {
        /// Position of the last entry that counts.
        position: LogPosition,
    },
    /// Back to being a backup: take entries again, from the one after this position.
    ReopenLog {
        /// Position of the last entry held.
        position: LogPosition,
    },
    /// Open NIC and disk where they are not open yet, look whether they can be used, and say `DevicesChecked`. What can be used stays
    /// open, so that `Attach` and `StartGuest` have nothing left that can fail or take time (R24).
    CheckDevices {
        /// To be given back.
        request: u64,
    },
    /// Joiner, backup: read the newest record as for `ReadArbiter`, and answer with `ArbiterRead`. It may hang for good, and must then hold up no
    /// other request.
    CheckArbiter {
        /// To be given back.
        request: u64,
    },
    /// Winner: attach NIC and disk, then say `Attached`.
    Attach {
        /// The generation won.
        generation: Generation,
    },
    /// Winner: gratuitous ARP and RARP, repeated for some seconds.
    Announce,
    /// Winner: outputs of replay with these indices are to be emitted (through `released_until` and `OutputDone`, like any other). Empty
    /// ranges are not given. Under the policy `drop`, frames in the range are reported `Completed` without being emitted (R17).
    Reissue {
        /// First index.
        from: OutputIndex,
        /// Last index.
        through: OutputIndex,
    },
    /// Winner: the guest runs on, live.
    GoLive,
    /// Primary: the guest runs on without a backup, and nothing more is logged for one.
    RunAlone,
    /// Held outputs may have become releasable: ask `released_until`.
    TryRelease,
    /// Primary: entries up to this position will not be asked for again.
    TruncateLog {
        /// Position of the last entry that may be forgotten.
        through: LogPosition,
    },
    /// Outputs up to this index will not be re-issued: on the backup by itself, those that replay has yet to come to included; on the primary
    /// by its backup, or by nobody.
    ForgetOutputs {
        /// Index of the last output that may be forgotten.
        through: OutputIndex,
    },
    /// Primary: from now on let the guest run for this share of its time, since the backup's replay is behind (R26).
    ThrottleGuest {
        /// None of it: do not enter the guest; all of it: as it likes.
        share: Share,
    },
    /// This node was paused: hand over all that waits in the sockets, then say `SocketsDrained` (R7).
    DrainSockets {
        /// To be given back.
        request: u64,
    },
    /// Let NIC, disk and keys go, emit nothing more, end the process with status 3 (R16).
    Halt {
        /// Why.
        reason: HaltReason,
    },
    /// End the process: everything is emitted, or the operator wants it.
    Stop {
        /// The process's exit status.
        exit_status: i32,
    },
    /// Write this to the trace, before the outputs after it are carried out.
    Trace(TraceEvent),
}

/// Why a VM has no backup, as far as whoever runs it can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NeedsBackup {
    /// The other node is gone, or out of reach.
    ConnectionLost,
    /// The backup was not the same machine any more.
    Divergence,
    /// The backup did not keep up.
    Lag,
    /// The guest's state did not get over to a new backup.
    TransferFailed,
    /// The backup's host could not go on with the guest.
    Hardware,
    /// The operator has wanted it.
    Operator,
}

impl NeedsBackup {
    /// As status and trace say it.
    pub fn name(self) -> &'static str {
        match self {
            NeedsBackup::ConnectionLost => "connection-lost",
            NeedsBackup::Divergence => "divergence",
            NeedsBackup::Lag => "lag",
            NeedsBackup::TransferFailed => "transfer-failed",
            NeedsBackup::Hardware => "hardware",
            NeedsBackup::Operator => "operator",
        }
    }
}

/// Why a node halted itself.
#[derive(Clone, Debug, Error, PartialEq, Eq, Hash)]
pub enum HaltReason {
    /// Another node holds the next generation.
    #[error("lost the arbiter: generation {generation} belongs to another node")]
    Lost {
        /// The generation that the arbiter holds.
        generation: Generation,
    },
    /// The arbiter gives this node's generation to one that is not its primary: another VM's arbiter, or one that forgot (R8).
    #[error("generation {} belongs to incarnation {}, which is not this pair's primary", record.generation, record.incarnation)]
    Usurped {
        /// What the arbiter holds.
        record: ArbiterRecord,
    },
    /// The VM exists already (R2).
    #[error("bootstrap refused: the arbiter holds generation {generation} of this VM")]
    AlreadyBootstrapped {
        /// The generation that the arbiter holds.
        generation: Generation,
    },
    /// The VM could not be attached here, so that nobody could bootstrap it again (R24).
    #[error("bootstrap refused: {reason}")]
    Unattachable {
        /// What cannot be used, and why.
        reason: String,
    },
    /// The storage refused a write.
    #[error("fenced: the storage refused the write of output {index}")]
    Fenced {
        /// Index of the refused output.
        index: OutputIndex,
    },
    /// An output could not be emitted although the guest was told that it was (R17).
    #[error("output {index} failed after the guest was told that it was done")]
    OutputFailed {
        /// Index of the failed output.
        index: OutputIndex,
    },
    /// The network interface took no frame (it is down, or fails), and the backup can let it out (R17).
    #[error("the network interface refused output {index}: the VM is the backup's")]
    FrameRefused {
        /// Index of the refused output.
        index: OutputIndex,
    },
    /// This host cannot go on with the guest, or may be to blame for its trap; another host may do better (R17).
    #[error("this node lets go of the VM: {reason}")]
    HostFailed {
        /// What it failed at.
        reason: String,
    },
    /// Replay differs from the log.
    #[error("diverged at position {position}: {reason}")]
    Diverged {
        /// Position of the first entry that differs.
        position: LogPosition,
        /// What differs.
        reason: String,
    },
    /// The node's own state is not what it always is: a defect of the protocol's code, or of the host's memory.
    #[error("the protocol's state is broken: it does not hold that {invariant}")]
    Broken {
        /// What always holds.
        invariant: &'static str,
    },
    /// The peer is configured otherwise in what both must have alike (R20).
    #[error("{difference}")]
    Mismatch {
        /// In what, by name.
        difference: String,
    },
}

/// One trace event. The runtime adds node, incarnation, generation and clocks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are documented in docs/architecture.md, event by event")]
pub enum TraceEvent {
    /// `role`
    Role { from: Role, to: Role, generation: Generation, reason: String },
    /// `suspect`
    Suspect { reason: String },
    /// `session`, state `opened`
    SessionOpened { session: u64 },
    /// `session`, state `closed`
    SessionClosed { session: u64, reason: String },
    /// `arbiter`: `operation` is `bootstrap`, `read` or `ask`; `outcome` is `won`, `lost`, `unreachable`, or the generation read
    Arbiter { operation: &'static str, wanted: Generation, outcome: String },
    /// `transfer`, state `begun`
    TransferBegun,
    /// `transfer`, state `stopped`: the guest waits
    GuestStopped { position: LogPosition },
    /// `transfer`, state `restored`
    StateRestored { position: LogPosition },
    /// `transfer`, state `given-up`: the guest runs on alone
    TransferGivenUp { reason: String },
    /// `handed-over`
    HandedOver { position: LogPosition },
    /// `plan-given-up`
    PlanGivenUp { reason: String },
    /// `needs-backup`
    NeedsBackup { reason: NeedsBackup },
    /// `committed`
    Committed { session: u64, position: LogPosition },
    /// `acknowledged`, by `backup` (about to be sent) or `primary` (heard)
    Acknowledged { position: LogPosition, by: &'static str },
    /// `output-done`
    OutputDone { through: OutputIndex },
    /// `protection`
    Protection { lacks: Option<String> },
    /// `closed-log`
    ClosedLog { position: LogPosition },
    /// `drained`
    Drained { position: LogPosition },
    /// `attached`
    Attached,
    /// `announced`
    Announced,
    /// `live`
    Live,
    /// `first-output`
    FirstOutput { index: OutputIndex },
    /// `paused`
    Paused { gap_milliseconds: u64 },
    /// `divergence`
    Divergence { position: LogPosition, reason: String },
    /// `halted`
    Halted { reason: String },
    /// `stopped`
    Stopped { exit_status: i32 },
}

/// A snapshot of the state machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What the node is.
    pub role: Role,
    /// The generation it belongs to, if any.
    pub generation: Generation,
    /// The random number of this process start.
    pub incarnation: Incarnation,
    /// Position of the newest entry appended (primary).
    pub appended: LogPosition,
    /// Position of the newest entry held (backup).
    pub stored: LogPosition,
    /// Position acknowledged: heard by the primary, said by the backup.
    pub acknowledged: LogPosition,
    /// Position replayed: by the backup itself, or as the primary heard.
    pub replayed: LogPosition,
    /// Index of the newest output produced, live or by replay.
    pub produced: OutputIndex,
    /// Index of the last output completed: R on the primary, the R it knows on the backup.
    pub released: OutputIndex,
    /// Frames that the network interface refused while there was no backup.
    pub frames_lost: u64,
    /// The session, as the primary counts them; 0 outside of one.
    pub session: u64,
    /// Age of the newest message on the log path; `None`: none yet.
    pub heard_log: Option<Duration>,
    /// Age of the newest message on each heartbeat path; `None`: none yet.
    pub heard_heartbeat: Vec<Option<Duration>>,
    /// Why the peer is suspected, if it is.
    pub suspicion: Option<String>,
    /// Primary without a backup whose guest runs: how far it is with getting one; `None`: it looks for none.
    pub joining: Option<&'static str>,
    /// Why the VM has no backup, where this node runs it alone and it had one, or was to get one.
    pub needs_backup: Option<NeedsBackup>,
    /// Primary: what the operator wants of this pair, and has not got.
    pub planned: Option<&'static str>,
    /// Why the backup of this pair could not take over; `None`: it could, or this node is in no pair.
    pub not_protected: Option<String>,
    /// The arbiter's last answer, as the trace has it.
    pub arbiter_last: Option<String>,
    /// Whether an output could leave now, were one due: alone, or lease valid.
    pub may_speak: bool,
    /// Primary: how long the backup has held the oldest entry that it has not said to have replayed; zero without a backup.
    pub lag: Duration,
    /// For how much of its time the guest may run (R26).
    pub share: Share,
    /// Why the node is halted, if it is.
    pub halt_reason: Option<HaltReason>,
}
