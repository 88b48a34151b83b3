//! The determinism pass: which instructions give different results on different hosts, how they are rewritten, and
//! which images are refused.

use thiserror::Error;

/// An instruction that cannot be made deterministic.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the image cannot be made deterministic: at address {address:#x}: {instruction}: {reason}")]
pub struct DeterminismError {
    pub address: u64,
    pub instruction: String,
    pub reason: &'static str,
}
