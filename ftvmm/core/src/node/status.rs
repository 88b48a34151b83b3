//! What `ftvmm status` shows, as JSON.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::devices::clock;
use crate::protocol::{Instant, Status};

use super::config::BUILD;
use super::shared::Shared;
use super::start::RunningNode;

fn milliseconds(age: Option<Duration>) -> Value {
    age.map_or(Value::Null, |age| (age.as_secs_f64() * 1000.0).into())
}

/// How far replay is behind: in entries, and the age of the oldest entry not replayed in milliseconds.
pub fn lag(shared: &Shared, status: &Status, now: Instant) -> (u64, f64) {
    let newest = if status.role.is_primary() { status.appended } else { status.stored };
    let oldest = shared.log.came_at(status.replayed + 1);
    (newest.saturating_sub(status.replayed), oldest.map_or(0.0, |at| now.0.saturating_sub(at) as f64 / 1e6))
}

/// The status of a node; `docs/architecture.md` has its fields.
pub fn json(node: &RunningNode) -> Value {
    let now = clock::now();
    let status = node.shared.protocol.lock().status(now);
    let mut heard = Map::new();
    heard.insert("log".into(), milliseconds(status.heard_log));
    for (heartbeat, age) in node.config.heartbeat.iter().zip(&status.heard_heartbeat) {
        heard.insert(format!("heartbeat-{}", heartbeat.network), milliseconds(*age));
    }
    let (lag_entries, lag_ms) = lag(&node.shared, &status, now);
    json!({
        "node": node.config.node.name,
        "vm": node.config.vm.uuid,
        "role": status.role.to_string(),
        "generation": status.generation,
        "incarnation": format!("{:016x}", node.incarnation),
        "position": {
            "appended": status.appended, "stored": status.stored,
            "acknowledged": status.acknowledged, "replayed": status.replayed,
        },
        "output": { "produced": status.produced, "released": status.released, "frames_lost": status.frames_lost },
        "lag_entries": lag_entries,
        "lag_ms": lag_ms,
        "may_speak": status.may_speak,
        "stalled": status.stalled,
        "suspicion": status.suspicion,
        "not_protected": status.not_protected,
        "peer": { "name": node.config.node.peer, "heard_ms": heard, "session": status.session },
        "arbiter": { "kind": "file", "last": status.arbiter_last },
        "halt_reason": status.halt_reason.map(|reason| reason.to_string()),
        "build": BUILD,
        "mutants": node.config.mutants(),
    })
}
