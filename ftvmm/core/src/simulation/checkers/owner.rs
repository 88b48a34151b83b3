//! When all faults are over nobody but the owner of the newest generation believes that it is the primary.

use super::{Verdict, Violation};
use crate::protocol::{ArbiterRecord, Generation, Incarnation, Role};

/// A node's role at the end.
pub fn check_owner(
    role: Role,
    generation: Generation,
    incarnation: Incarnation,
    newest: Option<ArbiterRecord>,
) -> Verdict {
    let owns = newest == Some(ArbiterRecord { generation, incarnation });
    if role.is_primary() && !owns {
        let process = incarnation.0;
        let finding = format!("incarnation {process} is {role} under generation {generation}, which it does not own");
        return Err(Violation::new("owner", finding));
    }
    Ok(())
}
