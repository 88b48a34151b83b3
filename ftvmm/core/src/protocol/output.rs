//! What the state machine has the threads of a node do.

use thiserror::Error;

use super::input::{ArbiterRecord, Path};
use super::lag::Share;
use super::numbers::{Generation, LogPosition, OutputIndex};
use super::trace::TraceEvent;

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
    /// Backup: replay the log from the initial state on.
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
    /// Winner: outputs of replay with these indices are to be emitted (through `may_release` and `OutputDone`, like any other). Empty
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
    /// Held outputs may have become releasable: look with `may_release`.
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
    /// The peer is configured otherwise in what both must have alike (R20).
    #[error("{difference}")]
    Mismatch {
        /// In what, by name.
        difference: String,
    },
}
