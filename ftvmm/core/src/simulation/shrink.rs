//! Makes a failing schedule as small as it gets: faults are taken away for as long as it still fails.

use super::fault::Schedule;
use super::run::run_schedule;
use crate::protocol::Rules;

/// The smallest schedule found that fails as this one does, by any promise.
pub fn shrink(schedule: &Schedule, rules: Rules) -> Schedule {
    let mut smallest = schedule.clone();
    let mut index = 0;
    while index < smallest.faults.len() {
        let mut candidate = smallest.clone();
        candidate.faults.remove(index);
        if run_schedule(&candidate, rules).is_err() {
            smallest = candidate;
            index = 0;
        } else {
            index += 1;
        }
    }
    smallest
}
