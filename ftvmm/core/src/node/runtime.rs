//! The protocol's thread: gathers what happened, asks the state machine, carries out what it says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant as Deadline};

use crossbeam_channel::{Receiver, Sender, select};
use parking_lot::Mutex;
use serde_json::json;

use crate::protocol::{ArbiterAnswer, EmissionResult, Input, Node, Output, Path, RequestId};

use super::announce;
use super::clock;
use super::config::NodeConfig;
use super::emitter::Emitted;
use super::heartbeat::{Datagram, Heartbeat};
use super::log_buffer::LogBuffer;
use super::mutant::Mutant;
use super::outputs::OutputQueue;
use super::session::{Channel, Session, SessionEvent};
use super::shared::Shared;
use super::thread;
use super::trace::Trace;
use super::virtual_cpu::{CpuControl, CpuEvent};
use super::world::World;

/// How often the state machine is told the time when nothing else happens.
const TICK: Duration = Duration::from_millis(5);
/// How long a node that was itself paused listens before it judges its peer (R7).
const DRAIN: Duration = Duration::from_millis(20);
/// Outputs that the mutant `repeat-outputs` emits once more.
const REPEATED_OUTPUTS: u64 = 30;
/// When announcements are repeated, in milliseconds after the first: a late frame of the old host flips switch tables.
const ANNOUNCEMENTS_MS: [u64; 7] = [0, 50, 150, 400, 1000, 2000, 3000];

/// What Python and the operator tell the protocol's thread.
#[derive(Debug)]
pub enum Command {
    /// claim generation 1
    Bootstrap,
    /// an orderly end
    Stop,
    /// the arbiter's answer
    Arbiter {
        /// which question
        request: RequestId,
        /// `None`: no answer
        record: Option<(u64, u64)>,
    },
}

/// What Python carries out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// read the newest generation
    ReadArbiter(u64),
    /// claim a generation
    AskArbiter(u64, u64),
    /// tell the operator
    Say(String),
    /// end the process
    Exit(i32, String),
}
