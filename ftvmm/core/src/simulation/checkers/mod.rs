//! What must hold after every step, one promise a file. `docs/decisions/protocol-simulation.md` tells what each stands for.

mod contents;
mod disk;
mod lag;
mod liveness;
mod log_holder;
mod owner;
mod pair;
mod released_mark;
mod speaker;

pub use contents::Contents;
pub use disk::{check_failed_read, check_final_disk, check_landing, check_read};
pub use lag::check_lag;
pub use liveness::check_liveness;
pub use log_holder::check_log_holder;
pub use owner::check_owner;
pub use pair::check_pair;
pub use released_mark::ReleasedMark;
pub use speaker::Speaker;

/// A promise that was broken: the checker's name, and what it saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The checker.
    pub checker: &'static str,
    /// What it saw.
    pub finding: String,
}

impl Violation {
    /// A finding of this checker.
    pub fn new(checker: &'static str, finding: String) -> Violation {
        Violation { checker, finding }
    }
}

/// What a checker says.
pub type Verdict = Result<(), Violation>;
