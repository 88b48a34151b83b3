//! The host's clocks, and those that a guest is shown.

use crate::lab::mutant;
use crate::protocol::Instant;

/// A guest's wall clock follows its host's by one part in so many, 500 ppm: adjtime(3) slews a clock as fast, and so
/// does `ntpd -x`, which never steps one.
const SLEW_PARTS: u64 = 2000;

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

/// A clock at the rate of CLOCK_BOOTTIME. Each look shows more than the one before.
#[derive(Debug)]
struct Ascending {
    /// what it is ahead of CLOCK_BOOTTIME, in nanoseconds
    offset: i128,
    newest: u64,
}

impl Ascending {
    /// A clock that has just shown `value`.
    fn from(value: u64, boottime: u64) -> Ascending {
        Ascending { offset: i128::from(value) - i128::from(boottime), newest: value }
    }

    fn reading(&self, boottime: u64) -> i128 {
        i128::from(boottime) + self.offset
    }

    fn look(&mut self, boottime: u64) -> u64 {
        let reading = u64::try_from(self.reading(boottime)).unwrap_or(0);
        self.newest = reading.max(self.newest.saturating_add(1));
        self.newest
    }
}

/// The guest's time: a counter at 1 GHz and a wall clock. A go-live is a pause to both: a backup `observe`s what it
/// replays, and once it is live they go on from there, the stall included.
///
/// The wall clock shows the host's when the guest first looks at it. After that it never leaps, whatever happens to the
/// host's and on whichever host the guest goes on: it is slewed. A second of difference is gone after 2,000 s.
///
/// All times are in nanoseconds; those of the host are given, so that none of this reads a clock.
#[derive(Debug)]
pub struct GuestClock {
    counter: Ascending,
    /// `None` until the guest has looked at it
    wall: Option<Ascending>,
    /// the host's CLOCK_BOOTTIME up to which the wall clock has been slewed
    slewed_through: u64,
}

impl GuestClock {
    /// A clock whose counter starts at 0 now.
    pub fn starting_at(boottime: u64) -> GuestClock {
        GuestClock { counter: Ascending::from(0, boottime), wall: None, slewed_through: boottime }
    }

    /// The counter now, in ticks of 1 ns.
    pub fn counter(&mut self, boottime: u64) -> u64 {
        if mutant!(CounterBack, once after_go_live) {
            return self.counter.newest - 1000;
        }
        let value = self.counter.look(boottime);
        if mutant!(CounterLeap, once after_go_live) {
            self.counter.offset += 2_000_000_000;
        }
        value
    }

    /// The wall clock now, since 1970. `realtime` is to be read first: if the thread is interrupted between the two, the
    /// guest is a little behind its host and not ahead of it.
    pub fn wall(&mut self, realtime: u64, boottime: u64) -> u64 {
        let Some(wall) = &mut self.wall else {
            self.observe_wall(realtime, boottime);
            return realtime;
        };
        if mutant!(WallBack, once after_go_live) {
            return wall.newest - 1_000_000;
        }
        // What is less than a whole nanosecond of slewing is left for the next look.
        let slewed = boottime.saturating_sub(self.slewed_through) / SLEW_PARTS;
        self.slewed_through += slewed * SLEW_PARTS;
        let slewed_max = i128::from(slewed);
        wall.offset += (i128::from(realtime) - wall.reading(boottime)).clamp(-slewed_max, slewed_max);
        wall.look(boottime)
    }

    /// The counter, by this host's clock.
    pub fn counter_now(&mut self) -> u64 {
        self.counter(boottime_nanoseconds())
    }

    /// The wall clock, by this host's clocks.
    pub fn wall_now(&mut self) -> u64 {
        let (realtime, boottime) = (wall_nanoseconds(), boottime_nanoseconds());
        self.wall(realtime, boottime)
    }

    /// What the guest would see now: its counter, and its wall clock if it has looked at that before. For whoever carries it to another host.
    pub fn look(&mut self) -> (u64, Option<u64>) {
        let boottime = boottime_nanoseconds();
        (self.counter.look(boottime), self.wall.as_mut().map(|wall| wall.look(boottime)))
    }

    /// A counter value that the other node gave to the guest, replayed here just now.
    pub fn observe_counter(&mut self, value: u64, boottime: u64) {
        self.counter = Ascending::from(value, boottime);
    }

    /// A wall clock value that the other node gave to the guest, replayed here just now.
    pub fn observe_wall(&mut self, value: u64, boottime: u64) {
        self.wall = Some(Ascending::from(value, boottime));
        self.slewed_through = boottime;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const HOUR: u64 = 3600 * SECOND;
    /// A time since 1970.
    const TOLD: u64 = 500_000 * HOUR;

    /// A backup that has replayed a look at the wall clock, which showed `TOLD`, when its host had been up for an hour.
    fn survivor() -> GuestClock {
        let mut clock = GuestClock::starting_at(HOUR / 2);
        clock.observe_wall(TOLD, HOUR);
        clock
    }

    #[test]
    fn the_counter_goes_on_from_what_was_replayed() {
        let mut clock = GuestClock::starting_at(7 * SECOND);
        assert_eq!(clock.counter(8 * SECOND), SECOND);
        clock.observe_counter(5 * HOUR, 9 * SECOND);
        assert_eq!(clock.counter(9 * SECOND + 250), 5 * HOUR + 250);
    }

    #[test]
    fn a_first_look_shows_the_wall_clock_of_the_host() {
        let mut clock = GuestClock::starting_at(HOUR);
        assert_eq!(clock.wall(TOLD, 2 * HOUR), TOLD);
        assert_eq!(clock.wall(TOLD + SECOND, 2 * HOUR + SECOND), TOLD + SECOND);
    }

    #[test]
    fn no_look_shows_what_another_has_shown() {
        let mut clock = survivor();
        let counts = [HOUR, HOUR, HOUR + 1].map(|boottime| clock.counter(boottime));
        assert!(counts.is_sorted_by(|first, second| first < second), "{counts:?}");
        let walls = [TOLD, TOLD, 0].map(|realtime| clock.wall(realtime, HOUR));
        assert_eq!(walls, [TOLD + 1, TOLD + 2, TOLD + 3]);
    }

    #[test]
    fn a_wall_clock_goes_on_at_once_where_the_survivors_is_an_hour_behind() {
        let mut clock = survivor();
        for seconds in 1..100 {
            let passed = seconds * SECOND;
            let wall = clock.wall(TOLD - HOUR + passed, HOUR + passed);
            assert_eq!(wall, TOLD + passed - passed / 2000);
        }
    }

    #[test]
    fn a_wall_clock_does_not_leap_to_the_survivors_but_comes_to_it() {
        let mut clock = survivor();
        for seconds in 1..3000 {
            let passed = seconds * SECOND;
            let wall = clock.wall(TOLD + SECOND + passed, HOUR + passed);
            assert_eq!(wall, TOLD + passed + (passed / 2000).min(SECOND));
        }
    }

    #[test]
    fn many_looks_slew_a_wall_clock_as_far_as_one() {
        let walls = [700_u64, 7_000_000].map(|apart| {
            let mut clock = survivor();
            let looks = (1..=7_000_000 / apart).map(|look| look * apart);
            looks.map(|passed| clock.wall(TOLD + HOUR + passed, HOUR + passed)).last()
        });
        assert_eq!(walls, [Some(TOLD + 7_003_500); 2]);
    }

    #[test]
    fn whatever_is_done_to_the_hosts_wall_clock_the_guests_keeps_its_pace() {
        let mut clock = survivor();
        let (mut newest, mut boottime) = (TOLD, HOUR);
        let steps = [TOLD + 5 * HOUR, TOLD - 5 * HOUR, 0, u64::MAX, TOLD];
        for (number, realtime) in steps.into_iter().cycle().take(500).enumerate() {
            let passed = SECOND / 100 * (number as u64 % 7 + 1);
            boottime += passed;
            let wall = clock.wall(realtime, boottime);
            let slewed = (wall - newest).abs_diff(passed);
            assert!(slewed <= passed / 2000, "{slewed} ns within {passed} ns");
            newest = wall;
        }
    }
}
