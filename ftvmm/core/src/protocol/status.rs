//! What `ftvmm status` shows of the protocol.

use std::time::Duration;

use super::lag::Share;
use super::numbers::{Generation, Incarnation, LogPosition, OutputIndex};
use super::output::HaltReason;
use super::role::Role;

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
