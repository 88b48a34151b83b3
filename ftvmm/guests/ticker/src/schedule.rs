//! When the ticks fall due: at multiples of the period from the start, so that no delay adds up.
#![no_std]

/// A schedule of ticks; all times are nanoseconds of one clock.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    period: u64,
    due: u64,
}

impl Schedule {
    /// The first tick is due at once. The period is at least one nanosecond.
    pub fn start(now: u64, period: u64) -> Schedule {
        Schedule { period: period.max(1), due: now }
    }

    /// Whether a tick is due; if so, the next one is the first multiple of the period that lies ahead. Ticks that were
    /// missed meanwhile are left out rather than sent in a burst.
    pub fn tick(&mut self, now: u64) -> bool {
        if now < self.due {
            return false;
        }
        self.due += ((now - self.due) / self.period + 1) * self.period;
        true
    }

    /// Nanoseconds until the next tick.
    pub fn wait(&self, now: u64) -> u64 {
        self.due.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::Schedule;

    #[test]
    fn ticks_stay_on_multiples_of_the_period_however_late_they_are_noticed() {
        let mut schedule = Schedule::start(1000, 20);
        assert!(schedule.tick(1000));
        assert!(!schedule.tick(1019));
        assert_eq!(schedule.wait(1003), 17);
        assert!(schedule.tick(1027));
        assert_eq!(schedule.wait(1027), 13);
    }

    #[test]
    fn missed_ticks_are_left_out() {
        let mut schedule = Schedule::start(0, 20);
        assert!(schedule.tick(0));
        assert!(schedule.tick(310));
        assert!(!schedule.tick(319));
        assert!(schedule.tick(320));
    }
}
