//! What the threads of a node tell the state machine.

use super::numbers::{Generation, Incarnation, LogPosition, OutputIndex};
use super::readiness::Unusable;
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

/// Answer to [`super::Output::ReadArbiter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadResult {
    /// The newest record.
    Record(ArbiterRecord),
    /// The arbiter is there and holds no generation of this VM.
    Empty,
    /// Error or time-out.
    Unreachable,
}

/// Answer to [`super::Output::AskArbiter`].
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
