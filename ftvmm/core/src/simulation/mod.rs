//! The deterministic simulation that drives `crate::protocol`: nodes, networks, clocks, disk and arbiter under random faults, the promises
//! checked after every step. The same seed gives the same run, to the nanosecond.

mod arbiter;
mod carry_out;
mod checkers;
mod coverage;
mod fault;
mod guest;
mod host;
mod inject;
mod network;
mod random;
mod run;
mod shrink;
mod world;

pub use checkers::Violation;
pub use coverage::Coverage;
pub use fault::{Fault, FaultKind, MILLISECOND, Paths, Schedule};
pub use run::{Failure, Report, run, run_schedule};
pub use shrink::shrink;
