//! One content a position, none skipped, none emitted twice by one process.

use std::collections::BTreeSet;

use super::{Verdict, Violation};
use crate::protocol::OutputIndex;

/// What has been emitted so far.
#[derive(Clone, Debug, Default, Hash)]
pub struct Contents {
    emitted: Vec<u64>,
    /// By which process.
    by: BTreeSet<(OutputIndex, u64)>,
}

impl Contents {
    /// Index of the newest output that was emitted by anyone.
    pub fn newest(&self) -> OutputIndex {
        OutputIndex(self.emitted.len() as u64)
    }

    /// An output is lost for good; nobody may emit another content in its place.
    pub fn lose(&mut self, index: OutputIndex, content: u64) {
        if index == self.newest().next() {
            self.emitted.push(content);
        }
    }

    /// An output leaves.
    pub fn emit(&mut self, index: OutputIndex, content: u64, process: u64) -> Verdict {
        if !self.by.insert((index, process)) {
            return Err(Violation::new("contents", format!("output {index} emitted twice by one process")));
        }
        let newest = self.newest();
        if index > newest.next() {
            let finding = format!("output {index} emitted, the one after {newest} skipped");
            return Err(Violation::new("contents", finding));
        }
        if index == newest.next() {
            self.emitted.push(content);
        } else if self.emitted[index.0 as usize - 1] != content {
            return Err(Violation::new("contents", format!("output {index} emitted with two contents")));
        }
        Ok(())
    }
}
