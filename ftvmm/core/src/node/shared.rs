//! What the threads of a node share, besides their channels.

use std::sync::Arc;

use super::cpu_control::CpuControl;
use super::log_buffer::{ReplayLog, SendLog};
use super::outputs::OutputQueue;
use super::trace::Trace;
use super::world::World;

/// Everything that more than one thread of a node looks at.
#[derive(Clone)]
pub struct Shared {
    /// the log of what this node's guest takes live
    pub send_log: Arc<SendLog>,
    /// the log that its guest replays
    pub replay_log: Arc<ReplayLog>,
    /// outputs on their way out
    pub outputs: Arc<OutputQueue>,
    /// commands to the guest's thread
    pub cpu: Arc<CpuControl>,
    /// the devices
    pub world: Arc<World>,
    /// evidence
    pub trace: Arc<Trace>,
}
