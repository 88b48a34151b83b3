//! What a guest needs on the Solo5 hvt ABI, version 2: start-up, hypercalls, heap, clock, console, network, block device.
//!
//! A guest declares its devices and its main function once, with [`guest!`], and is linked by `image.ld`.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod arguments;
pub mod block;
pub mod boot;
pub mod clock;
pub mod console;
pub mod hypercall;
pub mod manifest;
pub mod network;
pub mod poll;
pub mod reassembly;
mod resolution;
mod segments;
pub mod start;

// On the host, tests have all of these from the standard library.
#[cfg(feature = "bare")]
pub mod heap;
#[cfg(feature = "bare")]
mod memory;
#[cfg(feature = "bare")]
mod panic;

pub use smoltcp;
