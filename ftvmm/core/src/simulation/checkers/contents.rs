//! One content a position, none skipped, none emitted twice by one process.

use std::collections::BTreeSet;

use super::{Verdict, Violation};

/// What has been emitted so far.
#[derive(Clone, Debug, Default, Hash)]
pub struct Contents {
    emitted: Vec<u64>,
    /// By which process.
    by: BTreeSet<(u64, u64)>,
}

impl Contents {
    /// Index of the newest output that was emitted by anyone.
    pub fn newest(&self) -> u64 {
        self.emitted.len() as u64
    }

    /// An output is lost for good; nobody may emit another content in its place.
    pub fn lose(&mut self, index: u64, content: u64) {
        if index == self.newest() + 1 {
            self.emitted.push(content);
        }
    }

    /// An output leaves.
    pub fn emit(&mut self, index: u64, content: u64, process: u64) -> Verdict {
        if !self.by.insert((index, process)) {
            return Err(Violation::new("contents", format!("output {index} emitted twice by one process")));
        }
        let newest = self.newest();
        if index > newest + 1 {
            let finding = format!("output {index} emitted, the one after {newest} skipped");
            return Err(Violation::new("contents", finding));
        }
        if index == newest + 1 {
            self.emitted.push(content);
        } else if self.emitted[index as usize - 1] != content {
            return Err(Violation::new("contents", format!("output {index} emitted with two contents")));
        }
        Ok(())
    }
}
