//! What a takeover would have to replay is bounded (R26).

use std::time::Duration;

use super::{Verdict, Violation};
use crate::protocol::Timing;

/// A backup holds so much that its replay, at the pace that it has, takes so long, in nanoseconds.
pub fn check_lag(to_replay: u64, timing: &Timing) -> Verdict {
    let (to_replay, bound) = (Duration::from_nanos(to_replay), timing.lag / 4);
    if to_replay > bound {
        let finding = format!("a takeover would have to replay for {to_replay:?}, more than {bound:?}");
        return Err(Violation::new("lag", finding));
    }
    Ok(())
}
