//! The node's own clock, and the clock that its guest sees.

use crate::lab::mutant;
use crate::protocol::Instant;

/// Reads a POSIX clock in nanoseconds.
fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, writable timespec for the duration of the call.
    unsafe { libc::clock_gettime(clock, &mut time) };
    (time.tv_sec as u64) * 1_000_000_000 + time.tv_nsec as u64
}

/// Nanoseconds of CLOCK_BOOTTIME, the clock of every protocol decision (R20): it runs on while the host is suspended.
pub fn now() -> Instant {
    Instant(boottime_nanoseconds())
}

/// Nanoseconds of CLOCK_BOOTTIME.
pub fn boottime_nanoseconds() -> u64 {
    read(libc::CLOCK_BOOTTIME)
}

/// Nanoseconds of CLOCK_REALTIME, for traces and for the guest's wall clock.
pub fn wall_nanoseconds() -> u64 {
    read(libc::CLOCK_REALTIME)
}

/// The guest's time: a counter at 1 GHz and a wall clock, neither of which ever runs backwards, not even over a go-live.
///
/// A backup `observe`s what it replays; when it goes live it counts on from there, the stall included, so that the
/// guest sees a pause and never a step back.
#[derive(Debug)]
pub struct GuestClock {
    counter_offset: i128,
    counter_newest: u64,
    wall_newest: u64,
}

impl GuestClock {
    /// A clock whose counter starts at 0 now.
    pub fn starting_now() -> GuestClock {
        GuestClock { counter_offset: -i128::from(boottime_nanoseconds()), counter_newest: 0, wall_newest: 0 }
    }

    /// The counter now, in ticks of 1 ns.
    pub fn counter(&mut self) -> u64 {
        let value = (i128::from(boottime_nanoseconds()) + self.counter_offset).max(0) as u64;
        if mutant!(CounterBack, once after_go_live) {
            return self.counter_newest - 1000;
        }
        self.counter_newest = self.counter_newest.max(value);
        if mutant!(CounterLeap, once after_go_live) {
            self.counter_offset += 2_000_000_000;
        }
        self.counter_newest
    }

    /// The wall clock now, in nanoseconds since 1970.
    pub fn wall(&mut self) -> u64 {
        if mutant!(WallBack, once after_go_live) {
            return self.wall_newest - 1_000_000;
        }
        self.wall_newest = self.wall_newest.max(wall_nanoseconds());
        self.wall_newest
    }

    /// A counter value that the other node gave to the guest, replayed here just now.
    pub fn observe_counter(&mut self, value: u64) {
        self.counter_newest = value;
        self.counter_offset = i128::from(value) - i128::from(boottime_nanoseconds());
    }

    /// A wall clock value that the other node gave to the guest.
    pub fn observe_wall(&mut self, value: u64) {
        self.wall_newest = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_goes_on_from_what_was_replayed() {
        let mut clock = GuestClock::starting_now();
        clock.observe_counter(5_000_000_000_000);
        let first = clock.counter();
        assert!(first >= 5_000_000_000_000);
        assert!(clock.counter() >= first);
    }

    #[test]
    fn the_wall_clock_never_steps_back_behind_the_other_host() {
        let mut clock = GuestClock::starting_now();
        let ahead = wall_nanoseconds() + 3_600_000_000_000;
        clock.observe_wall(ahead);
        assert_eq!(clock.wall(), ahead);
    }
}
