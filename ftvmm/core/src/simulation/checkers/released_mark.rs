//! The released mark never passes what completed.

use std::collections::BTreeSet;

use super::{Verdict, Violation};

/// Which outputs have completed well.
#[derive(Clone, Debug, Default, Hash)]
pub struct ReleasedMark {
    /// All up to this one have.
    through: u64,
    beyond: BTreeSet<u64>,
}

impl ReleasedMark {
    /// An output has completed well.
    pub fn complete(&mut self, index: u64) {
        if index > self.through {
            self.beyond.insert(index);
        }
        while self.beyond.remove(&(self.through + 1)) {
            self.through += 1;
        }
    }

    /// A node believes that all up to this one have completed.
    pub fn check(&self, released: u64) -> Verdict {
        if released > self.through {
            let finding = format!("released mark {released}, while only {} have completed", self.through);
            return Err(Violation::new("released mark", finding));
        }
        Ok(())
    }
}
