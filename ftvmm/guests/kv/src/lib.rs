//! The key-value server without the machine: protocol, commands, keyspace and storage. The image (`main.rs`) adds the
//! network and the block device of the guest; on the host, tests and `examples/` add their own.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod command;
pub mod database;
pub mod keyspace;
pub mod pattern;
pub mod resp;
pub mod server;
pub mod session;
pub mod storage;
