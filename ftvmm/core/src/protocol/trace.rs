//! The trace events that the state machine gives; `docs/architecture.md` lists them all.

use super::numbers::{Generation, LogPosition, OutputIndex};
use super::role::Role;

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
