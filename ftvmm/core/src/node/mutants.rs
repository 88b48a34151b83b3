//! VMMs broken on purpose: each mutant breaks one promise, and a test shows the oracle that catches it.
//!
//! One process runs one node, so which mutants are on is the process's own. The code that a mutant breaks asks `mutant!`
//! (`lab.rs`), and in the shipped build there is nothing to ask.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::protocol::Rules;

macro_rules! mutants {
    ($($(#[doc = $documentation:literal])+ $mutant:ident = $name:literal,)+) => {
        /// One way of being broken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant {
            $($(#[doc = $documentation])+ $mutant,)+
        }

        impl Mutant {
            const ALL: &'static [(&'static str, Mutant)] = &[$(($name, Mutant::$mutant),)+];
        }
    };
}

mutants! {
    /// a primary that was frozen and wakes still speaks, acknowledged or not
    IgnoreLease = "ignore-lease",
    /// goes live without asking the arbiter
    SkipArbiter = "skip-arbiter",
    /// goes live without the last entries of the log and the outputs that they belong to
    LoseLogTail = "lose-log-tail",
    /// emits outputs again that were completed long ago
    RepeatOutputs = "repeat-outputs",
    /// emits other bytes where it re-issues an output; at most moments none is uncertain, so it takes completed ones too
    AlterReissue = "alter-reissue",
    /// tells the guest that a block write is done, and forgets it
    LoseWrites = "lose-writes",
    /// answers block reads without the writes that are still held
    ServeStale = "serve-stale",
    /// waits 3 s before it goes live
    SlowGoLive = "slow-go-live",
    /// starts the guest afresh instead of going on with the replayed one
    ResetOnGoLive = "reset-on-go-live",
}

/// What a rule switched off is called: this and the switch's name.
const RULE: &str = "rule:";

/// How many mutants there are.
const COUNT: usize = Mutant::ALL.len();

/// A mutant that does not exist.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("there is no mutant {0:?}")]
pub struct UnknownMutant(String);

/// The mutants of one node, and the rules that are off.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Mutants {
    names: Vec<String>,
    on: Vec<Mutant>,
    rules: Rules,
}

impl TryFrom<Vec<String>> for Mutants {
    type Error = UnknownMutant;

    fn try_from(names: Vec<String>) -> Result<Mutants, UnknownMutant> {
        let unknown = |name: &str| UnknownMutant(name.to_owned());
        let off = names.iter().filter_map(|name| name.strip_prefix(RULE));
        let mut rules = Rules::without(off).map_err(|error| unknown(&format!("{RULE}{}", error.0)))?;
        let mut on = Vec::new();
        for name in names.iter().filter(|name| !name.starts_with(RULE)) {
            let (_, mutant) = Mutant::ALL.iter().find(|(known, _)| known == name).ok_or_else(|| unknown(name))?;
            on.push(*mutant);
        }
        if on.contains(&Mutant::IgnoreLease) {
            // Without its lease alone a woken primary could only repeat what was acknowledged.
            rules.output_lease = false;
            rules.output_acknowledged = false;
        }
        Ok(Mutants { names, on, rules })
    }
}

impl From<Mutants> for Vec<String> {
    fn from(mutants: Mutants) -> Vec<String> {
        mutants.names
    }
}

/// The names of all mutants, the rules' switches last.
pub fn names() -> Vec<String> {
    let mutants = Mutant::ALL.iter().map(|(name, _)| (*name).to_owned());
    mutants.chain(Rules::NAMES.iter().map(|rule| format!("{RULE}{rule}"))).collect()
}

struct Process {
    mutants: Mutants,
    asked: [AtomicU64; COUNT],
}

static PROCESS: OnceLock<Process> = OnceLock::new();
static GONE_LIVE: AtomicBool = AtomicBool::new(false);

/// Breaks this process's VMM. Only the first call counts.
pub fn install(mutants: Mutants) {
    PROCESS.get_or_init(|| Process { mutants, asked: [const { AtomicU64::new(0) }; COUNT] });
}

/// Whether a mutant is on.
pub fn is_on(mutant: Mutant) -> bool {
    PROCESS.get().is_some_and(|process| process.mutants.on.contains(&mutant))
}

fn count(mutant: Mutant) -> u64 {
    PROCESS.get().map_or(0, |process| process.asked[mutant as usize].fetch_add(1, Ordering::Relaxed) + 1)
}

/// Whether a mutant is on, and this is the first time that it is asked for.
pub fn once(mutant: Mutant) -> bool {
    is_on(mutant) && count(mutant) == 1
}

/// Whether a mutant is on, and this is one of the times, each `each`th, that it acts.
pub fn every(mutant: Mutant, each: u64) -> bool {
    is_on(mutant) && count(mutant).is_multiple_of(each)
}

/// The rules that this process keeps.
pub fn rules() -> Rules {
    PROCESS.get().map_or_else(Rules::default, |process| process.mutants.rules)
}

/// This node won as the backup, and its guest now runs live.
pub fn note_go_live() {
    GONE_LIVE.store(true, Ordering::Release);
}

/// Whether this node has gone live as the backup.
pub fn has_gone_live() -> bool {
    GONE_LIVE.load(Ordering::Acquire)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_taken_and_no_other() {
        let all = Mutants::try_from(names()).unwrap();
        assert_eq!(all.on.len(), COUNT);
        assert_eq!(all.rules, Rules::without(Rules::NAMES.iter().copied()).unwrap());
        for name in ["nice", "rule:R99", "R5-lease"] {
            assert_eq!(Mutants::try_from(vec![name.into()]).unwrap_err(), UnknownMutant(name.into()));
        }
    }
}
