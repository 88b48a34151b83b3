//! When all faults are over something lives on, unless two faults took both nodes.

use super::{Verdict, Violation};

/// `fatal_faults` are those that can cost a node for good; with one of them, `faults` tells whether others came on top.
pub fn check_liveness(alive: bool, fatal_faults: usize, faults: usize) -> Verdict {
    let excused = fatal_faults >= 2 || (fatal_faults == 1 && faults > 1);
    if !alive && !excused {
        return Err(Violation::new("liveness", "all faults are over, and the VM does not run".to_owned()));
    }
    Ok(())
}
