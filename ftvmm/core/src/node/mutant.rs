//! A VMM broken on purpose: each mutant breaks one promise, and a test shows the oracle that catches it.

use serde::{Deserialize, Serialize};

macro_rules! mutants {
    ($($(#[doc = $documentation:literal])+ $mutant:ident = $name:literal,)+) => {
        /// One way of being broken. Never in production: the node says so at its start and in its status.
        #[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
        pub enum Mutant {
            $($(#[doc = $documentation])+ #[serde(rename = $name)] $mutant,)+
        }

        impl Mutant {
            /// The names of all mutants, as the configuration takes them.
            pub const NAMES: &'static [&'static str] = &[$($name,)+];
        }
    };
}

mutants! {
    /// outputs leave before the backup has acknowledged them
    ReleaseBeforeAcknowledgement = "release-before-acknowledgement",
    /// a primary that was frozen and wakes still speaks
    IgnoreLease = "ignore-lease",
    /// goes live without asking the arbiter
    SkipArbiter = "skip-arbiter",
    /// goes live without the last entries of the log and the outputs that they belong to
    LoseLogTail = "lose-log-tail",
    /// emits outputs again that were completed long ago
    RepeatOutputs = "repeat-outputs",
    /// emits other bytes where it re-issues an output
    AlterReissue = "alter-reissue",
    /// tells the guest that a block write is done, and forgets it
    LoseWrites = "lose-writes",
    /// answers block reads without the writes that are still held
    ServeStale = "serve-stale",
    /// waits 5 s before it goes live
    SlowGoLive = "slow-go-live",
    /// starts the guest afresh instead of going on with the replayed one
    ResetOnGoLive = "reset-on-go-live",
}
