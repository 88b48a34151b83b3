//! Re-protection: the state of a guest that runs goes to the node that is to become its backup, on a connection of its own.
//!
//! The guest's thread copies its own memory, a little before each entry into the guest, so that nobody else ever looks at memory that a guest writes
//! (`copier`). An ordinary thread hashes and sends what was copied (`sender`), another one at the joiner puts it into a machine that has not run
//! (`receiver`). When little is left, the guest stops at an input, and the rest goes over.
//!
//! On the wire the transfer is a connection to the peer's log listener, greeted like any other. Its frames are of the kind `Transfer`; the first byte
//! tells what follows:
//!
//! - 0: the protocol's header (`Body::Transfer`), which names the session that the transfer belongs to;
//! - 1: pages: `u32` count, the numbers of the pages as `u32`, then their contents;
//! - 2: pages that are all zero: their numbers as `u32`;
//! - 3: the rest of the state as JSON, `Carried`: the last frame.

mod copier;
mod receiver;
mod sender;

pub use copier::{Chunk, Copier, Order};
pub use receiver::{Prepared, Receiving, Slot, receive};
pub use sender::{Sending, send};

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::machine::{MachineState, Page};
use crate::protocol::LogPosition;

/// The pages of one frame, at most.
const PAGES_MAX: usize = 64;
/// The protocol is told of progress no more often than this.
const TOLD_EVERY: Duration = Duration::from_millis(50);
/// The kind of the first frame.
pub const HEADER: u8 = 0;
const PAGES: u8 = 1;
const ZERO_PAGES: u8 = 2;
const STATE: u8 = 3;
const ZERO_PAGE: Page = [0; size_of::<Page>()];

/// All of a guest's state but its memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Carried {
    /// the machine
    pub machine: MachineState,
    /// S: the position of the last entry that the guest has taken
    pub position: u64,
    /// the number of its newest output
    pub produced: u64,
    /// what the guest's counter shows then
    pub counter: u64,
    /// and its wall clock, if it has looked at that before
    pub wall: Option<u64>,
}

impl Carried {
    /// S.
    pub fn position(&self) -> LogPosition {
        LogPosition(self.position)
    }
}

/// How far a transfer is, for `ftvmm status`.
#[derive(Debug, Default)]
pub struct Progress {
    round: AtomicU64,
    bytes: AtomicU64,
    left_pages: AtomicU64,
}

impl Progress {
    fn begin(&self) {
        [&self.round, &self.bytes, &self.left_pages].into_iter().for_each(|one| one.store(0, Ordering::Relaxed));
    }

    fn round(&self, round: u64, pages: usize) {
        self.round.store(round, Ordering::Relaxed);
        self.left_pages.store(pages as u64, Ordering::Relaxed);
    }

    fn copied(&self, bytes: usize, left_pages: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.left_pages.store(left_pages as u64, Ordering::Relaxed);
    }

    /// Round, bytes copied so far, pages left in this round.
    pub fn look(&self) -> (u64, u64, u64) {
        let [round, bytes, left] = [&self.round, &self.bytes, &self.left_pages].map(|one| one.load(Ordering::Relaxed));
        (round, bytes, left)
    }
}

#[cfg(test)]
mod tests;
