//! When all faults are over nobody but the owner of the newest generation believes that it is the primary.

use super::{Verdict, Violation};
use crate::protocol::{ArbiterRecord, Role};

/// A node's role at the end.
pub fn check_owner(role: Role, generation: u64, incarnation: u64, newest: Option<ArbiterRecord>) -> Verdict {
    let owns = newest.is_some_and(|record| record.generation == generation && record.incarnation == incarnation);
    if role.is_primary() && !owns {
        let finding =
            format!("incarnation {incarnation} is {role} under generation {generation}, which it does not own");
        return Err(Violation::new("owner", finding));
    }
    Ok(())
}
