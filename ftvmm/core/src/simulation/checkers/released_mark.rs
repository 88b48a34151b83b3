//! The released mark never passes what completed.

use std::collections::BTreeSet;

use super::{Verdict, Violation};
use crate::protocol::OutputIndex;

/// Which outputs have completed well.
#[derive(Clone, Debug, Default, Hash)]
pub struct ReleasedMark {
    /// All up to this one have.
    through: OutputIndex,
    beyond: BTreeSet<OutputIndex>,
}

impl ReleasedMark {
    /// An output has completed well.
    pub fn complete(&mut self, index: OutputIndex) {
        if index > self.through {
            self.beyond.insert(index);
        }
        while self.beyond.remove(&self.through.next()) {
            self.through = self.through.next();
        }
    }

    /// A node believes that all up to this one have completed.
    pub fn check(&self, released: OutputIndex) -> Verdict {
        if released > self.through {
            let finding = format!("released mark {released}, while only {} have completed", self.through);
            return Err(Violation::new("released mark", finding));
        }
        Ok(())
    }
}
