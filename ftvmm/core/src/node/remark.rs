//! What a node says to people, on standard error.

use std::io::Write;

/// Writes one line, if it can be written: `eprintln!` panics when it cannot, and with it the node would end for a full
/// file system under its log.
pub fn remark(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
