//! The sans-I/O state machine that takes every decision of the fault-tolerance protocol.
//!
//! [`Node::step`] takes the time and one [`Input`] and appends the [`Output`]s that the threads around it carry out. There is no
//! clock, socket, thread, randomness or KVM in here, so the deterministic simulation (`crate::simulation`) drives the very code
//! that runs in a node. Rules are cited by their numbers (R1 to R26), which `docs/protocol.md` lists.

mod backup;
mod config;
mod forming;
mod interface;
mod lag;
mod lease;
mod node;
mod numbers;
mod planned;
mod primary;
mod readiness;
mod release;
mod role;
mod rules;
mod suspicion;
mod takeover;
mod time;
mod transfer;
mod wire;

pub use crate::log::LogPosition;
pub use config::{Config, Terms};
pub use interface::{
    ArbiterRecord, AskResult, HaltReason, Input, NeedsBackup, Output, OutputResult, Path, ReadResult, Status,
    TraceEvent,
};
pub use lag::Share;
pub use node::{Node, Remembered};
pub use numbers::{Generation, Incarnation, OutputIndex};
pub use readiness::Unusable;
pub use role::Role;
pub use rules::{Rules, UnknownRule};
pub use time::{Instant, Number, Timing, TimingConfig, TimingError};
pub use wire::{Body, EntriesRange, Header, Message, OutputMark, WireError};
