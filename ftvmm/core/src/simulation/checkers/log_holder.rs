//! Who goes live holds the log of all that was emitted.

use super::{Verdict, Violation};

/// A winner runs on with replay at this output; these were emitted, by anyone.
pub fn check_log_holder(produced: u64, emitted: u64) -> Verdict {
    if produced < emitted {
        let finding = format!("goes live with outputs up to {produced}, while {emitted} were emitted");
        return Err(Violation::new("log holder", finding));
    }
    Ok(())
}
