//! When something arrived at a file, in one order for all files.
//!
//! A client that asks on one connection and then on another expects to be served in that order, and Linux does so: what
//! becomes ready first is reported first. Where many frames come in one round, only this order tells.

use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};

static LAST: AtomicU64 = AtomicU64::new(0);

/// The next moment: greater than all before.
pub fn next_moment() -> u64 {
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// Two moments of a file; the default is that of a file at which nothing ever arrives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Activity {
    /// when something arrived last: data, room, a change of state
    pub last: u64,
    /// when the first of what is there arrived
    pub since: u64,
}

/// What has arrived at a file.
#[derive(Debug, Default)]
pub struct Arrivals(Cell<Activity>);

impl Arrivals {
    /// Something arrives. `is_more` says that what came before it is still there.
    pub fn note(&self, is_more: bool) {
        let last = next_moment();
        let since = if is_more { self.0.get().since } else { last };
        self.0.set(Activity { last, since });
    }

    /// The moments.
    pub fn activity(&self) -> Activity {
        self.0.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_arrival_counts_until_it_is_taken() {
        let (one, other) = (Arrivals::default(), Arrivals::default());
        assert_eq!(one.activity(), Activity::default());
        one.note(false);
        other.note(false);
        let first = one.activity();
        one.note(true);
        assert!(one.activity().last > other.activity().last && one.activity().since == first.since);
        assert!(one.activity() > other.activity() && first.since < other.activity().since);
        one.note(false);
        assert!(one.activity().since > other.activity().since);
    }
}
