//! What `ftvmm status` shows, as JSON.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::protocol::{Instant, NeedsBackup, Share, Status};

use super::config::BUILD;
use super::shared::Shared;
use super::start::RunningNode;

/// How a node is at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// what the protocol says
    pub status: Status,
    /// how far replay is behind, as this node knows it: for how long the backup has held the oldest entry that it has not replayed
    pub lag_ms: f64,
    /// the bytes of this node's log: on the primary what is not acknowledged, on the backup what is not replayed
    pub lag_bytes: usize,
    /// the guest waits for room in the log
    pub stalls: bool,
    /// the peer's name
    pub peer: String,
    /// round, bytes copied and pages left of the transfer to a joiner
    pub transfer: (u64, u64, u64),
}

impl Snapshot {
    /// As it is `now`.
    pub fn new(status: Status, shared: &Shared, peer: &str, now: Instant) -> Snapshot {
        let (lag, lag_bytes) = if status.role.is_primary() {
            (status.lag, shared.send_log.bytes())
        } else {
            let oldest_at = shared.replay_log.oldest_at();
            (oldest_at.map_or(Duration::ZERO, |at| now.since(Instant(at))), shared.replay_log.bytes())
        };
        let stalls = shared.send_log.stalls();
        let transfer = shared.transfer.look();
        Snapshot { status, lag_ms: lag.as_secs_f64() * 1000.0, lag_bytes, stalls, peer: peer.to_owned(), transfer }
    }
}

fn milliseconds(age: Option<Duration>) -> Value {
    age.map_or(Value::Null, |age| (age.as_secs_f64() * 1000.0).into())
}

/// For how much of its time the guest may run: 1 is all of it.
pub fn share(status: &Status) -> f64 {
    f64::from(status.share.thousandths()) / f64::from(Share::WHOLE.thousandths())
}

/// The status of a node; `docs/architecture.md` has its fields.
pub fn json(node: &RunningNode) -> Value {
    let Snapshot { status, lag_ms, lag_bytes, stalls, peer, transfer } = node.snapshot();
    let (round, copied_bytes, left_pages) = transfer;
    let joining = status
        .joining
        .map(|stage| json!({ "stage": stage, "round": round, "copied_bytes": copied_bytes, "left_pages": left_pages }));
    let mut heard = Map::new();
    heard.insert("log".into(), milliseconds(status.heard_log));
    for (heartbeat, age) in node.config.heartbeat.iter().zip(&status.heard_heartbeat) {
        heard.insert(format!("heartbeat-{}", heartbeat.network), milliseconds(*age));
    }
    json!({
        "node": node.config.node.name,
        "vm": node.config.vm.uuid,
        "role": status.role.to_string(),
        "generation": status.generation,
        "incarnation": node.incarnation.to_string(),
        "position": {
            "appended": status.appended, "stored": status.stored,
            "acknowledged": status.acknowledged, "replayed": status.replayed,
        },
        "output": { "produced": status.produced, "released": status.released, "frames_lost": status.frames_lost },
        "lag_ms": lag_ms,
        "lag_bytes": lag_bytes,
        "guest_share": share(&status),
        "may_speak": status.may_speak,
        "stalled": status.share == Share::NONE || stalls,
        "suspicion": status.suspicion,
        "not_protected": status.not_protected,
        "peer": { "name": peer, "heard_ms": heard, "session": status.session },
        "joining": joining,
        "needs_backup": status.needs_backup.map(NeedsBackup::name),
        "planned": status.planned,
        "arbiter": { "last": status.arbiter_last },
        "halt_reason": status.halt_reason.map(|reason| reason.to_string()),
        "build": BUILD,
        "mutants": node.config.mutants(),
    })
}
