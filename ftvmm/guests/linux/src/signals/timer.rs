//! Timers that expire once or again and again: setitimer's and timerfd's.

/// A timer; all times are in nanoseconds of the monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timer {
    /// when it expires next, None where it is not armed
    pub next: Option<u64>,
    /// what lies between two expirations, 0 where it expires once
    pub interval: u64,
}

impl Timer {
    /// What is left until it expires; 0 where it is not armed.
    pub fn remaining(&self, now: u64) -> u64 {
        self.next.map_or(0, |next| next.saturating_sub(now))
    }

    /// Whether it has expired and nobody has taken note of it.
    pub fn is_due(&self, now: u64) -> bool {
        self.next.is_some_and(|next| next <= now)
    }

    /// Takes note of what has expired: how often, and the timer goes on behind that.
    pub fn expire(&mut self, now: u64) -> u64 {
        let Some(next) = self.next.filter(|next| *next <= now) else { return 0 };
        // No interval: it is not armed any more.
        let Some(more) = (now - next).checked_div(self.interval) else {
            self.next = None;
            return 1;
        };
        let times = more.saturating_add(1);
        self.next = Some(next.saturating_add(times.saturating_mul(self.interval)));
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_without_an_interval_expires_once() {
        let mut timer = Timer { next: Some(100), interval: 0 };
        assert_eq!((timer.expire(99), timer.remaining(99), timer.is_due(99)), (0, 1, false));
        assert!(timer.is_due(100));
        assert_eq!((timer.expire(100), timer.remaining(100)), (1, 0));
        assert_eq!((timer.expire(1000), timer.next), (0, None));
    }

    #[test]
    fn expirations_that_nobody_saw_are_counted() {
        let mut timer = Timer { next: Some(100), interval: 10 };
        assert_eq!(timer.expire(100), 1);
        assert_eq!(timer.next, Some(110));
        assert_eq!(timer.expire(145), 4);
        assert_eq!((timer.next, timer.remaining(145)), (Some(150), 5));
    }

    #[test]
    fn huge_numbers_saturate() {
        let mut timer = Timer { next: Some(u64::MAX - 1), interval: u64::MAX };
        assert_eq!(timer.expire(u64::MAX), 1);
        assert_eq!(timer.next, Some(u64::MAX));
        let mut timer = Timer { next: Some(0), interval: 1 };
        assert_eq!(timer.expire(u64::MAX), u64::MAX);
    }
}
