//! The deterministic simulation that drives `crate::protocol`: nodes, networks, clocks, disk and arbiter under random faults, the promises
//! checked after every step. The same seed gives the same run, to the nanosecond. `explore` walks every interleaving of small worlds instead.

mod arbiter;
mod carry_out;
mod checkers;
mod coverage;
mod explore;
mod fault;
mod guest;
mod host;
mod inject;
mod network;
mod random;
mod run;
mod shrink;
mod small_worlds;
mod world;

pub use checkers::Violation;
pub use coverage::Coverage;
pub use explore::{Explored, SmallWorld, explore};
pub use fault::{Fault, FaultKind, MILLISECOND, Paths, Schedule};
pub use run::{Failure, Report, run, run_schedule};
pub use shrink::shrink;
pub use small_worlds::small_worlds;
