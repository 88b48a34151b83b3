//! The clocks that a live VM is shown.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Wall time from the host, and a counter of nanoseconds that starts where it is told to.
#[derive(Clone, Debug)]
pub struct Clock {
    start: Instant,
    offset_nanoseconds: u64,
    last_nanoseconds: u64,
}

impl Clock {
    /// A counter that continues from `offset_nanoseconds`: 0 at boot, the last value replayed at a go-live.
    pub fn starting_at(offset_nanoseconds: u64) -> Clock {
        Clock { start: Instant::now(), offset_nanoseconds, last_nanoseconds: offset_nanoseconds }
    }

    /// Nanoseconds since the epoch.
    pub fn walltime(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_nanos() as u64)
    }

    /// The time-stamp counter, at [`crate::machine::COUNTER_FREQUENCY_HERTZ`]; never the same value twice.
    pub fn counter(&mut self) -> u64 {
        let now = self.offset_nanoseconds + self.start.elapsed().as_nanos() as u64;
        self.last_nanoseconds = now.max(self.last_nanoseconds + 1);
        self.last_nanoseconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_goes_up_from_where_it_starts() {
        let mut clock = Clock::starting_at(1 << 40);
        let first = clock.counter();
        assert!(first > 1 << 40);
        assert!(clock.counter() > first);
    }
}
