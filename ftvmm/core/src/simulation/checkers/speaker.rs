//! Nothing is released while a newer generation is live, and a generation has one owner.

use super::{Verdict, Violation};
use crate::protocol::{Generation, Incarnation, OutputIndex, Role};

/// Who has been live under which generation.
#[derive(Clone, Debug, Default, Hash)]
pub struct Speaker {
    /// Every primary there ever was.
    live: Vec<(Generation, Incarnation)>,
}

impl Speaker {
    /// A node has this role now.
    pub fn observe(&mut self, role: Role, generation: Generation, incarnation: Incarnation) -> Verdict {
        if !role.is_primary() || self.live.contains(&(generation, incarnation)) {
            return Ok(());
        }
        if let Some((_, other)) = self.live.iter().find(|(known, _)| *known == generation) {
            let finding =
                format!("generation {generation} is live on incarnation {} and on {}", incarnation.0, other.0);
            return Err(Violation::new("speaker", finding));
        }
        self.live.push((generation, incarnation));
        Ok(())
    }

    /// The newest generation that was ever live.
    pub fn newest(&self) -> Generation {
        self.live.iter().map(|(generation, _)| *generation).max().unwrap_or(Generation::NONE)
    }

    /// A node under this generation is about to emit an output: its check has just said yes.
    pub fn released(&self, index: OutputIndex, generation: Generation) -> Verdict {
        let newest = self.newest();
        if newest > generation {
            let finding = format!("output {index} released under generation {generation} while {newest} is live");
            return Err(Violation::new("speaker", finding));
        }
        Ok(())
    }
}
