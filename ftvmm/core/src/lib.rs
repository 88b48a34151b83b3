//! The hot path of ftvmm: the virtual machine, its log, and the fault-tolerance protocol.
//!
//! `docs/architecture.md` maps every module in a line.

pub mod determinism;
pub mod devices;
pub mod execution;
#[cfg(test)]
#[path = "../tests/guest/mod.rs"]
mod guest;
pub mod image;
mod lab;
mod lock;
pub mod log;
pub mod machine;
pub mod node;
pub mod packing;
pub mod protocol;
#[cfg(feature = "extension-module")]
mod python;
pub mod remark;
pub mod simulation;
