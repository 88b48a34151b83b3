//! The state machine itself: what a node remembers, and the one place where inputs enter.

use super::config::Config;
use super::input::Input;
use super::output::Output;
use super::status::Status;
use super::time::Instant;
use super::wire::EntriesRange;

/// One node's protocol state. One thread owns it; the looks (`may_release`, `accepts_entries`, `status`) take `&self`.
pub struct Node {
    config: Config,
    incarnation: u64,
}

impl Node {
    /// A fresh process, a spare (R1). `incarnation` is random and never 0.
    pub fn new(config: Config, incarnation: u64) -> Node {
        Node { config, incarnation }
    }

    /// Takes one input; appends what is to be done to `outputs`. Call it with non-decreasing `now`.
    pub fn step(&mut self, now: Instant, input: Input, outputs: &mut Vec<Output>) {
        let _ = (now, input, outputs, &self.config);
    }

    /// When the next `Input::Tick` is due. A tick that is late by more than DETECT/2 counts as a pause of this node (R7).
    pub fn deadline(&self) -> Instant {
        Instant(0)
    }

    /// Whether this output may leave now (R5): looked at right before the system call, with a fresh clock reading. Only the output after
    /// the last completed one may; so emit, report `OutputDone`, then look at the next.
    pub fn may_release(&self, output_index: u64, depends_on: u64, now: Instant) -> bool {
        let _ = (output_index, depends_on, now);
        false
    }

    /// Primary: the encoded header for a frame that carries the entries `first..=through` on this connection; `None`: do not send.
    pub fn stamp_entries(&mut self, connection: u64, first: u64, through: u64, now: Instant) -> Option<Vec<u8>> {
        let _ = (connection, first, through, now);
        None
    }

    /// Backup: whether entries under this header may be stored (R3, R6, R9); then store them, and say `EntriesStored`.
    pub fn accepts_entries(&self, connection: u64, header: &[u8]) -> Option<EntriesRange> {
        let _ = (connection, header);
        None
    }

    /// A snapshot for `ftvmm status`.
    pub fn status(&self, now: Instant) -> Status {
        let _ = (now, self.incarnation);
        todo!()
    }
}
