//! A fault that the pair can ride out costs it no node.

use super::{Verdict, Violation};
use crate::protocol::Role;

/// The roles where the pair has to be whole.
pub fn check_pair(roles: Vec<Role>) -> Verdict {
    if !roles.contains(&Role::Protected) || !roles.contains(&Role::Backup) {
        return Err(Violation::new("pair", format!("the pair was lost for nothing: {roles:?}")));
    }
    Ok(())
}
