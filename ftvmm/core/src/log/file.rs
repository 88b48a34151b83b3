//! The log file's format: a header, entries, an end.
//!
//! All numbers are little-endian, all checksums the first 4 bytes of a BLAKE3 hash.
//!
//! | part | bytes |
//! |---|---|
//! | header | magic `FTVMLOG\0`, `u32` version, `u32` length of the body, body (JSON), checksum of all before |
//! | entry | tag 1, the entry as in `entry.rs` (with its own length and checksum) |
//! | end | tag 2, `u8` kind, `i32` exit status, `u64` last position, fingerprint, state digest, checksum |

use std::path::Path;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{EntryError, Fingerprint, LogPosition};
use crate::determinism;
use crate::machine::{HostKind, MachineConfig};

pub(super) const MAGIC: [u8; 8] = *b"FTVMLOG\0";
pub(super) const VERSION: u32 = 2;
pub(super) const HEADER_FIXED_BYTES: usize = 16;
pub(super) const HEADER_BODY_BYTES_MAX: usize = 1 << 16;
pub(super) const CHECKSUM_BYTES: usize = 4;
pub(super) const TAG_ENTRY: u8 = 1;
pub(super) const TAG_END: u8 = 2;
/// Kind, status, position, two fingerprints.
pub(super) const END_BODY_BYTES: usize = 1 + 4 + 8 + 16 + 16;

/// What the log is a log of; with the image, all that a replay needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub image_path: String,
    pub image_digest: Fingerprint,
    pub config: MachineConfig,
    pub config_digest: Fingerprint,
    /// Version of the pass that rewrote the image.
    pub determinism_pass: u32,
    /// Where the guest ran.
    pub host: HostKind,
}

impl Header {
    /// The header of the log of a machine that runs this image on this host under this configuration.
    pub fn new(image_path: &Path, image_digest: Fingerprint, config: MachineConfig) -> Header {
        // The log may be replayed from another directory.
        let image_path = std::fs::canonicalize(image_path).unwrap_or_else(|_| image_path.to_owned());
        Header {
            image_path: image_path.display().to_string(),
            image_digest,
            config_digest: config.digest(),
            config,
            determinism_pass: determinism::VERSION,
            host: HostKind::of_this_host(),
        }
    }
}

/// How a recorded run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndKind {
    /// The guest halted with this status.
    Halted { exit_status: i32 },
    /// The guest was stopped for what it did.
    Trapped,
    /// The operator stopped the run; where the guest then was is not reproducible, so there is no state digest.
    Interrupted,
}

/// The last record of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    pub kind: EndKind,
    pub position: LogPosition,
    pub fingerprint: Fingerprint,
    pub state_digest: Fingerprint,
}

/// Why a file is no usable log. Offsets are in bytes from the file's first.
#[derive(Debug, Error)]
pub enum LogError {
    /// Reading or writing failed.
    #[error("the log cannot be {operation}: {source}")]
    Io { operation: &'static str, source: std::io::Error },
    /// The file is something else, or of another version.
    #[error("the log is not usable: at offset {offset}: {reason}")]
    Malformed { offset: u64, reason: String },
    /// An entry is damaged.
    #[error("the log is damaged: in the entry at offset {offset}: {source}")]
    Entry { offset: u64, source: EntryError },
    /// The log belongs to another image or configuration.
    #[error("the log is of another VM: at offset {offset}: {reason}")]
    Foreign { offset: u64, reason: String },
}

pub(super) fn checksum(bytes: &[&[u8]]) -> [u8; CHECKSUM_BYTES] {
    let mut hasher = blake3::Hasher::new();
    bytes.iter().for_each(|part| {
        hasher.update(part);
    });
    let mut short = [0; CHECKSUM_BYTES];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..CHECKSUM_BYTES]);
    short
}

impl End {
    pub(super) fn encode(&self) -> [u8; END_BODY_BYTES] {
        let (kind, status) = match self.kind {
            EndKind::Halted { exit_status } => (1, exit_status),
            EndKind::Trapped => (2, 0),
            EndKind::Interrupted => (3, 0),
        };
        let mut bytes = [0; END_BODY_BYTES];
        bytes[0] = kind;
        bytes[1..5].copy_from_slice(&status.to_le_bytes());
        bytes[5..13].copy_from_slice(&self.position.0.to_le_bytes());
        bytes[13..29].copy_from_slice(&self.fingerprint.0);
        bytes[29..45].copy_from_slice(&self.state_digest.0);
        bytes
    }

    /// `None` where the kind is unknown.
    pub(super) fn decode(bytes: &[u8; END_BODY_BYTES]) -> Option<End> {
        fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
            let mut array = [0; N];
            array.copy_from_slice(&bytes[..N]);
            array
        }
        let kind = match bytes[0] {
            1 => EndKind::Halted { exit_status: i32::from_le_bytes(array(&bytes[1..])) },
            2 => EndKind::Trapped,
            3 => EndKind::Interrupted,
            _ => return None,
        };
        Some(End {
            kind,
            position: LogPosition(u64::from_le_bytes(array(&bytes[5..]))),
            fingerprint: Fingerprint(array(&bytes[13..])),
            state_digest: Fingerprint(array(&bytes[29..])),
        })
    }
}
