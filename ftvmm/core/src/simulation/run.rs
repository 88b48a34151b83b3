//! Runs schedules, and reports.

use std::fmt;
use std::ops::Range;

use super::checkers::Violation;
use super::coverage::Coverage;
use super::fault::{MILLISECOND, Schedule};
use super::shrink::shrink;
use super::world::World;
use crate::protocol::Rules;

/// A schedule under which a promise was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What the full schedule broke.
    pub violation: Violation,
    /// The smallest schedule that still breaks a promise.
    pub shrunk: Schedule,
    /// What happened in it, line by line.
    pub story: Vec<String>,
}

/// What a range of seeds showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Schedules that ran.
    pub schedules: u64,
    /// What they made happen.
    pub coverage: Coverage,
    /// The first that failed; the run ends with it.
    pub failure: Option<Failure>,
}

/// Runs the random schedules of these seeds, up to the first that breaks a promise.
pub fn run(seeds: Range<u64>, rules: Rules) -> Report {
    let mut report = Report::default();
    for seed in seeds {
        let schedule = Schedule::random(seed);
        let (coverage, violation, _) = World::new(&schedule, rules, false).run();
        report.schedules += 1;
        report.coverage.add(&coverage);
        if let Some(violation) = violation {
            let shrunk = shrink(&schedule, rules);
            let (_, _, story) = World::new(&shrunk, rules, true).run();
            report.failure = Some(Failure { seed, violation, shrunk, story });
            break;
        }
    }
    report
}

/// Runs one schedule.
pub fn run_schedule(schedule: &Schedule, rules: Rules) -> Result<Coverage, Violation> {
    let (coverage, violation, _) = World::new(schedule, rules, false).run();
    violation.map_or(Ok(coverage), Err)
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{} random fault schedules", self.schedules)?;
        write!(formatter, "{}", self.coverage)?;
        match &self.failure {
            None => writeln!(formatter, "every promise held"),
            Some(failure) => write!(formatter, "{failure}"),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { checker, finding } = &self.violation;
        writeln!(formatter, "seed {} broke a promise: {checker}: {finding}", self.seed)?;
        writeln!(formatter, "shrunk to {} faults on {} hosts:", self.shrunk.faults.len(), self.shrunk.hosts)?;
        for fault in &self.shrunk.faults {
            let (at, until) = (fault.at / MILLISECOND, fault.until / MILLISECOND);
            writeln!(formatter, "  {at} ms to {until} ms: {:?}", fault.kind)?;
        }
        for line in &self.story {
            writeln!(formatter, "{line}")?;
        }
        Ok(())
    }
}
