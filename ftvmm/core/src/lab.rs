//! What only the lab's build has, as the rest of the code calls it. In the shipped build all of it is nothing.

/// Whether this VMM is broken on purpose in this way (`node/mutants.rs`). With `once` or `every N` whether it is now,
/// of the times that it is asked; with `after_go_live` not before this node has won as the backup. Ask it last in a
/// condition: each question counts.
#[cfg(feature = "lab")]
macro_rules! mutant {
    ($mutant:ident) => {
        $crate::node::mutants::is_on($crate::node::mutants::Mutant::$mutant)
    };
    ($mutant:ident, once) => {
        $crate::node::mutants::once($crate::node::mutants::Mutant::$mutant)
    };
    ($mutant:ident, every $count:literal) => {
        $crate::node::mutants::every($crate::node::mutants::Mutant::$mutant, $count)
    };
    ($mutant:ident, after_go_live) => {
        $crate::node::mutants::has_gone_live() && mutant!($mutant)
    };
    ($mutant:ident, once after_go_live) => {
        $crate::node::mutants::has_gone_live() && mutant!($mutant, once)
    };
    ($mutant:ident, every $count:literal after_go_live) => {
        $crate::node::mutants::has_gone_live() && mutant!($mutant, every $count)
    };
}

/// Never: the shipped VMM is not broken.
#[cfg(not(feature = "lab"))]
macro_rules! mutant {
    ($($ignored:tt)*) => {
        false
    };
}

/// Whether a rule is in force (its field in `protocol::Rules`), where a thread and not the state machine carries it out.
#[cfg(feature = "lab")]
macro_rules! rule {
    ($rule:ident) => {
        $crate::node::mutants::rules().$rule
    };
}

/// Always: the shipped VMM keeps every rule.
#[cfg(not(feature = "lab"))]
macro_rules! rule {
    ($rule:ident) => {
        true
    };
}

/// A thread comes to a point (`node/failpoints.rs`), with the position or index that it is about and the output's kind.
#[cfg(feature = "lab")]
macro_rules! failpoint {
    ($point:ident, $number:expr) => {
        $crate::node::failpoints::reach($crate::node::failpoints::Point::$point, $number, None)
    };
    ($point:ident, $number:expr, $kind:expr) => {
        $crate::node::failpoints::reach($crate::node::failpoints::Point::$point, $number, Some($kind))
    };
}

/// Nothing: the shipped node has no failpoints.
#[cfg(not(feature = "lab"))]
macro_rules! failpoint {
    ($($ignored:tt)*) => {};
}

pub(crate) use {failpoint, mutant, rule};
