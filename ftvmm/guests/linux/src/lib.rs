//! The personality: serves the system calls of an unmodified Linux program inside the guest, as function calls.
//!
//! `ftvmm pack` lays program, dynamic loader and libraries out in one image beside this guest and turns each SYSCALL into
//! a call of [`entry`]. There is one processor and no interrupt: threads switch at system calls only, so that the whole
//! program is as deterministic as its inputs, which are frames, blocks and the clock.
//!
//! A system call never waits on the inside: where Linux would wait, its handler returns [`system_calls::Stop::Wait`],
//! the thread is parked, and the handler runs again once something has changed ([`kernel`]).
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod clock;
pub mod entry;
pub mod events;
pub mod files;
pub mod heap;
pub mod kernel;
pub mod memory;
pub mod processes;
pub mod readiness;
pub mod signals;
pub mod sockets;
pub mod start;
pub mod system_calls;
pub mod threads;

pub use start::{HEAP_PARTS, main};
