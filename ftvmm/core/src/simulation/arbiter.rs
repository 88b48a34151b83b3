//! The arbiter: an atomic test-and-set on generations, reached over a path that loses and delays.

use crate::protocol::{ArbiterRecord, AskResult, Generation, Incarnation, ReadResult};

/// The arbiter's store.
#[derive(Clone, Debug, Default, Hash)]
pub struct Arbiter {
    records: Vec<ArbiterRecord>,
}

impl Arbiter {
    /// Creates the generation, unless it or a newer one exists.
    pub fn ask(&mut self, generation: Generation, incarnation: Incarnation) -> AskResult {
        if self.newest().is_some_and(|newest| newest.generation >= generation) {
            return AskResult::Lost;
        }
        self.records.push(ArbiterRecord { generation, incarnation });
        AskResult::Won
    }

    /// The newest record.
    pub fn read(&self) -> ReadResult {
        self.newest().map_or(ReadResult::Empty, ReadResult::Record)
    }

    /// What was the newest record before, as a replica that lags answers, or one that has forgotten.
    pub fn read_stale(&self) -> ReadResult {
        let before = self.records.iter().rev().nth(1).copied();
        before.map_or(ReadResult::Empty, ReadResult::Record)
    }

    /// The newest record, if there is one.
    pub fn newest(&self) -> Option<ArbiterRecord> {
        self.records.last().copied()
    }
}
