//! One node of a fault-tolerant pair: the threads that carry out what the protocol's state machine says.

pub mod announce;
pub mod authentication;
pub mod bounded_file;
#[cfg(feature = "lab")]
mod broken_emission;
mod carry_out;
pub mod channel;
pub mod command;
pub mod config;
pub mod cpu_control;
pub mod emission;
#[cfg(feature = "lab")]
pub mod failpoints;
pub mod frame;
pub mod heartbeat;
#[cfg(feature = "lab")]
pub mod holding;
pub mod log_buffer;
#[cfg(feature = "lab")]
pub mod mutants;
pub mod outputs;
pub mod poller;
pub mod recording;
pub mod runtime;
pub mod session;
pub mod shared;
pub mod start;
pub mod status;
pub mod thread;
pub mod trace;
mod trace_event;
pub mod transfer;
pub mod virtual_cpu;
pub mod world;
