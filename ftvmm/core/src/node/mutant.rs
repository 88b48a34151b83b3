//! A VMM broken on purpose: each mutant breaks one promise, and a test shows the oracle that catches it.

use serde::{Deserialize, Serialize};

/// One way of being broken. Never in production: the node says so at its start and in its status.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Mutant {
    /// outputs leave before the backup has acknowledged them
    ReleaseBeforeAcknowledgement,
    /// a primary that was frozen and wakes still speaks
    IgnoreLease,
    /// goes live without asking the arbiter
    SkipArbiter,
    /// goes live without the last entries of the log and the outputs that they belong to
    LoseLogTail,
    /// emits outputs again that were completed long ago
    RepeatOutputs,
    /// emits other bytes where it re-issues an output
    AlterReissue,
    /// tells the guest that a block write is done, and forgets it
    LoseWrites,
    /// answers block reads with what was there before the last write
    ServeStale,
    /// waits 5 s before it goes live
    SlowGoLive,
    /// starts the guest afresh instead of going on with the replayed one
    ResetOnGoLive,
}
