//! What the threads of a node share, besides their channels.

use std::sync::Arc;

use crate::machine::StateDigest;

use super::cpu_control::CpuControl;
use super::log_buffer::{ReplayLog, SendLog};
use super::outputs::OutputQueue;
use super::trace::Trace;
use super::transfer::{Progress, Slot};
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
    /// the machine that waits for the guest's thread
    pub slot: Arc<Slot>,
    /// of what the guest cannot write
    pub constant_digest: Arc<StateDigest>,
    /// how far the guest's state is on its way to a joiner
    pub transfer: Arc<Progress>,
}
