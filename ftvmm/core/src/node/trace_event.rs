//! The protocol's trace events as lines of the trace.

use serde_json::json;

use crate::protocol::{LogPosition, OutputIndex, TraceEvent};

use super::trace::Trace;

/// Writes one event under the name and with the fields that `docs/architecture.md` gives it.
///
/// # Arguments
/// `released` is R as the node knows it now: a candidate that has drained its log re-issues what lies behind it.
pub fn write(trace: &Trace, event: TraceEvent, released: OutputIndex) {
    match event {
        TraceEvent::Role { from, to, generation, reason } => {
            trace.set_generation(generation);
            trace.write("role", json!({ "from": from.to_string(), "to": to.to_string(), "reason": reason }));
        }
        TraceEvent::Suspect { reason } => trace.write("suspect", json!({ "reason": reason })),
        TraceEvent::SessionOpened { session } => {
            trace.write("session", json!({ "state": "opened", "session": session, "reason": null }))
        }
        TraceEvent::SessionClosed { session, reason } => {
            trace.write("session", json!({ "state": "closed", "session": session, "reason": reason }));
        }
        TraceEvent::Arbiter { operation, wanted, outcome } => {
            trace.write("arbiter", json!({ "operation": operation, "wanted": wanted, "outcome": outcome }));
        }
        TraceEvent::TransferBegun => transfer(trace, "begun", None, None),
        TraceEvent::GuestStopped { position } => transfer(trace, "stopped", Some(position), None),
        TraceEvent::StateRestored { position } => transfer(trace, "restored", Some(position), None),
        TraceEvent::TransferGivenUp { reason } => transfer(trace, "given-up", None, Some(reason)),
        TraceEvent::HandedOver { position } => trace.write("handed-over", json!({ "position": position })),
        TraceEvent::PlanGivenUp { reason } => trace.write("plan-given-up", json!({ "reason": reason })),
        TraceEvent::NeedsBackup { reason } => trace.write("needs-backup", json!({ "reason": reason.name() })),
        TraceEvent::Committed { session, position } => {
            trace.write("committed", json!({ "session": session, "position": position }));
        }
        TraceEvent::Acknowledged { position, by } => {
            trace.write("acknowledged", json!({ "position": position, "by": by }));
        }
        TraceEvent::OutputDone { through } => trace.write("output-done", json!({ "through": through })),
        TraceEvent::Protection { lacks } => trace.write("protection", json!({ "lacks": lacks })),
        TraceEvent::ClosedLog { position } => trace.write("closed-log", json!({ "position": position })),
        TraceEvent::Drained { position } => {
            trace.write("drained", json!({ "position": position, "released": released }))
        }
        TraceEvent::Attached => trace.write("attached", json!({})),
        TraceEvent::Announced => trace.write("announced", json!({})),
        TraceEvent::Live => trace.write("live", json!({})),
        TraceEvent::FirstOutput { index } => trace.write("first-output", json!({ "index": index })),
        TraceEvent::Paused { gap_milliseconds } => trace.write("paused", json!({ "gap_ms": gap_milliseconds })),
        TraceEvent::Divergence { position, reason } => {
            trace.write("divergence", json!({ "position": position, "reason": reason }));
        }
        TraceEvent::Halted { reason } => trace.write("halted", json!({ "reason": reason })),
        TraceEvent::Stopped { exit_status } => trace.write("stopped", json!({ "exit_status": exit_status })),
    }
}

fn transfer(trace: &Trace, state: &'static str, position: Option<LogPosition>, reason: Option<String>) {
    trace.write("transfer", json!({ "state": state, "position": position, "reason": reason }));
}
