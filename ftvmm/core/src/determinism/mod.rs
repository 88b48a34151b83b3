//! The determinism pass: which instructions give the same results on every host, which are rewritten so that they do,
//! and which images are refused.

mod classify;
mod rewrite;
mod sweep;

pub(crate) use classify::{Class, classify};
pub use classify::{HostTrait, trapping_and_rewritten};
pub use rewrite::{Action, Found, Patch, Rewritten, Site, disassemble, examine, rewrite};
pub(crate) use sweep::{Sweep, direct_target, falls_through};

use thiserror::Error;

/// The version of the pass. Two that differ in what they rewrite, or in what goes into the fingerprint, make another VM of
/// one image: neither a pair nor a replay is made of them.
pub const VERSION: u32 = 2;
/// Every rewritten instruction becomes an `out` to this port: one of the eight-bit ports, so that it takes 2 bytes.
pub const SITE_PORT: u8 = 0x10;
/// The length of `out imm8, al`.
pub const SITE_TRAP_BYTES: u64 = 2;

/// An instruction that cannot be made deterministic.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the image cannot be made deterministic: at address {address:#x}: {instruction}: {reason}")]
pub struct DeterminismError {
    pub address: u64,
    pub instruction: String,
    pub reason: &'static str,
}
