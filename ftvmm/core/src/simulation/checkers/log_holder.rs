//! Who goes live holds the log of all that was emitted.

use super::{Verdict, Violation};
use crate::protocol::OutputIndex;

/// A winner runs on with replay at this output; these were emitted, by anyone.
pub fn check_log_holder(produced: OutputIndex, emitted: OutputIndex) -> Verdict {
    if produced < emitted {
        let finding = format!("goes live with outputs up to {produced}, while {emitted} were emitted");
        return Err(Violation::new("log holder", finding));
    }
    Ok(())
}
