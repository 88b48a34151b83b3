//! How far the backup's replay is behind, and for how much of the time the primary's guest may run, so that a takeover has little to
//! replay (R26; the execution lag of Scales et al. 2010, "Managing the Logging Channel").

use std::collections::VecDeque;
use std::time::Duration;

use crate::log::LogPosition;

use super::time::{Instant, Number};

/// A lag above T_LAG divided by this slows the guest.
const SLOWED_FROM: u32 = 16;
/// From T_LAG divided by this on the guest does not run.
const STALLED_FROM: u32 = 4;
/// How often the share is set: once in T_LAG divided by this.
const LOOKS: u32 = 32;
/// One mark covers what was acknowledged within T_LAG divided by this.
const MARKS: u32 = 128;
/// More marks than a guest can make before it is stalled; what comes then is covered by the newest, and so counts as older than it is.
const MARKS_MAX: usize = MARKS as usize;

/// For how much of the time that it would run the guest does run, in thousandths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(u16);

impl Share {
    /// The guest runs as it likes.
    pub const WHOLE: Share = Share(1000);
    /// The guest is stalled.
    pub const NONE: Share = Share(0);
    /// A guest that is slowed and not stalled has at least this.
    const LEAST: Share = Share(50);

    /// The share in thousandths.
    pub fn thousandths(self) -> u16 {
        self.0
    }

    /// The share of this many thousandths, or of none or all where that is nearer.
    pub fn from_thousandths(thousandths: u16) -> Share {
        Share(thousandths.min(Share::WHOLE.0))
    }

    /// How long the guest has to wait for each time that it has run for `ran`. One that is stalled does not run.
    pub fn pause_after(self, ran: Duration) -> Duration {
        ran * u32::from(Share::WHOLE.0 - self.0) / u32::from(self.0.max(1))
    }

    /// The share at which the guest does what replay does in the same time, and a little less or more where the lag is above or below
    /// what slows: with the lag at its bound it is the least.
    ///
    /// # Arguments
    /// `pace` is how much of the guest's running time replay has got through in a unit of time, in thousandths; `lag_max` is T_LAG.
    fn matching(pace: u64, lag: Duration, lag_max: Duration) -> Share {
        let (slowed_from, stalled_from) = (lag_max / SLOWED_FROM, lag_max / STALLED_FROM);
        let room = stalled_from.saturating_sub(lag).as_nanos() * 1000 / (stalled_from - slowed_from).as_nanos().max(1);
        let share = u128::from(pace) * room / 1000;
        Share(share.clamp(u128::from(Share::LEAST.0), u128::from(Share::WHOLE.0)) as u16)
    }
}

/// Entries that the backup holds and has not replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Mark {
    /// Position of the last of them.
    last: LogPosition,
    /// When the first of them was acknowledged.
    at: Instant,
    /// The same by the running time of the guest: time in which it is throttled does not count.
    ran: Instant,
}

/// The lag of the backup, as its primary knows it, and what follows from it for the guest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Lag {
    /// What there is to replay, oldest first.
    marks: VecDeque<Mark>,
    /// For how long the guest was throttled, while there was anything to replay.
    kept: Duration,
    /// When replay was last looked at, and where it was, by the guest's running time; `None`: it is close behind.
    look: Option<(Instant, Instant)>,
    share: Share,
    stalled: bool,
}

impl Default for Lag {
    fn default() -> Lag {
        Lag { marks: VecDeque::new(), kept: Duration::ZERO, look: None, share: Share::WHOLE, stalled: false }
    }
}

impl Lag {
    /// For how long the backup has held the oldest entry that it has not replayed; zero where it has replayed all that it holds.
    pub(super) fn age(&self, now: Instant) -> Duration {
        self.marks.front().map_or(Duration::ZERO, |mark| now.since(mark.at))
    }

    /// For how much of the time the guest may run.
    pub(super) fn share(&self) -> Share {
        if self.stalled { Share::NONE } else { self.share }
    }

    /// The backup holds the log up to here, which is news.
    pub(super) fn acknowledged(&mut self, through: LogPosition, now: Instant, lag_max: Duration) {
        let (ran, full) = (self.ran(now), self.marks.len() >= MARKS_MAX);
        match self.marks.back_mut() {
            Some(mark) if full || now.since(mark.at) < lag_max / MARKS => mark.last = through,
            _ => self.marks.push_back(Mark { last: through, at: now, ran }),
        }
    }

    /// The backup has replayed up to here.
    pub(super) fn replayed(&mut self, through: LogPosition) {
        while self.marks.front().is_some_and(|mark| mark.last <= through) {
            self.marks.pop_front();
        }
    }

    /// The backup is there again: what it has to replay is counted from now.
    pub(super) fn resume(&mut self, now: Instant) {
        let ran = self.ran(now);
        self.marks.iter_mut().for_each(|mark| (mark.at, mark.ran) = (now, ran));
        self.look = None;
    }

    /// This node stood still for so long, its guest with it: what came of that time is not replay's doing.
    pub(super) fn stood_still(&mut self, gap: Duration) {
        self.marks.iter_mut().for_each(|mark| mark.at = mark.at.after(gap));
        self.look = None;
        // The rest is kept by `control`, to which the pause has passed like any time.
        self.kept += gap * u32::from(self.share().0) / u32::from(Share::WHOLE.0);
    }

    /// Sets the guest's share (R26).
    ///
    /// # Arguments
    /// `elapsed` is the time since the last call, `lag_max` is T_LAG.
    pub(super) fn control(&mut self, now: Instant, elapsed: Duration, lag_max: Duration) {
        self.kept += elapsed * u32::from(Share::WHOLE.0 - self.share().0) / u32::from(Share::WHOLE.0);
        let (slowed_from, stalled_from) = (lag_max / SLOWED_FROM, lag_max / STALLED_FROM);
        let lag = self.age(now);
        // A guest that is resumed at the bound would be stalled again at once.
        self.stalled = lag >= if self.stalled { (slowed_from + stalled_from) / 2 } else { stalled_from };
        let close = lag <= slowed_from / 2;
        if close && self.share == Share::WHOLE {
            self.look = None;
            if self.marks.is_empty() {
                self.kept = Duration::ZERO;
            }
            return;
        }
        let come_to = self.marks.front().map_or(self.ran(now), |mark| mark.ran);
        let (since, from) = *self.look.get_or_insert((now, come_to));
        let passed = now.since(since);
        if passed < lag_max / LOOKS {
            return;
        }
        if close {
            // From nothing to all in the time in which an entry would stall the guest.
            let rise = passed.as_nanos() * 1000 / stalled_from.as_nanos().max(1);
            self.share = Share::from_thousandths(self.share.0.saturating_add(u16::try_from(rise).unwrap_or(u16::MAX)));
        } else if lag > slowed_from || self.share < Share::WHOLE {
            let pace = come_to.since(from).as_nanos() * 1000 / passed.as_nanos().max(1);
            self.share = Share::matching(u64::try_from(pace).unwrap_or(u64::MAX), lag, lag_max);
        } else {
            return;
        }
        self.look = Some((now, come_to));
    }

    /// What nothing but differences are made of is shown as if the guest had never been kept from running.
    pub(super) fn numbers(&mut self, visit: &mut dyn FnMut(Number, &mut u64)) {
        let kept = std::mem::take(&mut self.kept);
        let looks = self.look.iter_mut().map(|(at, from)| (at, from));
        for (at, ran) in self.marks.iter_mut().map(|mark| (&mut mark.at, &mut mark.ran)).chain(looks) {
            *ran = ran.after(kept);
            visit(Number::Time, &mut at.0);
            visit(Number::Time, &mut ran.0);
        }
    }

    /// Now, by the guest's running time.
    fn ran(&self, now: Instant) -> Instant {
        Instant(now.0.saturating_sub(u64::try_from(self.kept.as_nanos()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAG_MAX: Duration = Duration::from_secs(2);
    const MILLISECOND: Duration = Duration::from_millis(1);

    fn milliseconds(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn a_guest_matches_the_pace_of_replay_and_less_the_further_that_is_behind() {
        let share = |pace, lag| Share::matching(pace, milliseconds(lag), LAG_MAX).thousandths();
        assert_eq!([share(1000, 125), share(500, 125), share(250, 125)], [1000, 500, 250]);
        assert_eq!([share(1000, 312), share(500, 312), share(1000, 499)], [501, 250, 50]);
        assert_eq!([share(1000, 63), share(500, 63)], [1000, 582], "it catches up once it is close");
        assert_eq!([share(0, 125), share(1000, 500), share(1000, 5000)], [50; 3]);
        assert_eq!(share(u64::MAX, 125), 1000);
    }

    #[test]
    fn a_pause_gives_the_guest_its_share_of_the_time() {
        let pause = |thousandths| Share::from_thousandths(thousandths).pause_after(milliseconds(3));
        assert_eq!([pause(1000), pause(750), pause(500)], [milliseconds(0), milliseconds(1), milliseconds(3)]);
        assert_eq!(pause(50), milliseconds(57));
        assert_eq!(Share::from_thousandths(2000), Share::WHOLE);
    }

    #[test]
    fn the_lag_is_the_age_of_the_oldest_entry_that_is_held_and_not_replayed() {
        let mut lag = Lag::default();
        let at = |count| Instant(1_000_000_000).after(milliseconds(count));
        assert_eq!(lag.age(at(5)), Duration::ZERO);
        lag.acknowledged(LogPosition(10), at(5), LAG_MAX);
        lag.acknowledged(LogPosition(20), at(15), LAG_MAX);
        lag.acknowledged(LogPosition(30), at(40), LAG_MAX);
        assert_eq!(lag.age(at(50)), milliseconds(45));
        lag.replayed(LogPosition(10));
        assert_eq!(lag.age(at(50)), milliseconds(45), "one mark covers a while, and counts as old as its first entry");
        lag.replayed(LogPosition(20));
        assert_eq!(lag.age(at(50)), milliseconds(10));
        lag.resume(at(60));
        assert_eq!(lag.age(at(61)), MILLISECOND);
        lag.replayed(LogPosition(30));
        assert_eq!(lag.age(at(70)), Duration::ZERO);
    }

    #[test]
    fn the_time_in_which_this_node_stood_still_is_no_lag() {
        let mut lag = Lag::default();
        let at = |count| Instant(1_000_000_000).after(milliseconds(count));
        lag.acknowledged(LogPosition(10), at(5), LAG_MAX);
        lag.stood_still(milliseconds(700));
        lag.control(at(715), milliseconds(710), LAG_MAX);
        assert_eq!((lag.age(at(715)), lag.share()), (milliseconds(10), Share::WHOLE));
        assert_eq!(lag.ran(at(715)), at(15), "nor has the guest run");
    }

    #[test]
    fn marks_are_bounded() {
        let mut lag = Lag::default();
        for position in 1..=1000 {
            lag.acknowledged(LogPosition(position), Instant(1).after(position as u32 * LAG_MAX), LAG_MAX);
        }
        assert_eq!(lag.marks.len(), MARKS_MAX);
        lag.replayed(LogPosition(999));
        assert_eq!(lag.marks.len(), 1, "the newest entry is not replayed yet");
    }

    /// What a guest and its replay do, in units of what a guest does in a millisecond at full speed.
    struct Pair {
        lag: Lag,
        milliseconds: u64,
        done: f64,
        replayed: f64,
        heard: f64,
    }

    impl Pair {
        fn new() -> Pair {
            Pair { lag: Lag::default(), milliseconds: 0, done: 0.0, replayed: 0.0, heard: 0.0 }
        }

        /// Goes on for a second, replay at `speed` of the guest's. The longest that a takeover would have had to replay, in milliseconds,
        /// and what the guest has done of what it could have.
        fn second(&mut self, speed: f64) -> (f64, f64) {
            let (before, mut longest) = (self.done, 0.0_f64);
            for _ in 0..1000 {
                self.milliseconds += 1;
                let share = f64::from(self.lag.share().thousandths()) / 1000.0;
                self.done += share;
                self.replayed = (self.replayed + speed).min(self.done);
                // An acknowledgement comes with each entry, and where the guest is stalled with each heartbeat.
                if share > 0.0 || self.milliseconds.is_multiple_of(50) {
                    self.heard = self.replayed;
                    let now = self.now();
                    self.lag.acknowledged(LogPosition((self.done * 1000.0) as u64), now, LAG_MAX);
                    self.lag.replayed(LogPosition((self.heard * 1000.0) as u64));
                }
                self.lag.control(self.now(), MILLISECOND, LAG_MAX);
                longest = longest.max((self.done - self.replayed) / speed);
            }
            (longest, (self.done - before) / 1000.0)
        }

        fn now(&self) -> Instant {
            Instant(1_000_000_000).after(milliseconds(self.milliseconds))
        }
    }

    #[test]
    fn a_replay_that_keeps_up_slows_nobody() {
        let mut pair = Pair::new();
        assert_eq!(pair.second(1.0).1, 1.0);
        assert_eq!(pair.second(3.0).1, 1.0);
    }

    #[test]
    fn a_slow_replay_slows_its_guest_to_its_own_pace() {
        for speed in [0.9, 0.75, 0.5, 0.25] {
            let mut pair = Pair::new();
            let (longest, _) = pair.second(speed);
            assert!(longest < 500.0, "{speed}: {longest} ms");
            pair.second(speed);
            let (longest, done) = pair.second(speed);
            assert!(longest < 150.0, "{speed}: {longest} ms");
            assert!((done - speed).abs() < 0.05, "{speed}: {done}");
        }
    }

    #[test]
    fn a_replay_that_stands_still_stalls_its_guest_until_it_has_caught_up() {
        let mut pair = Pair::new();
        let stands_still = 1e-9;
        let (_, done) = pair.second(stands_still);
        assert!(done < 0.5, "{done}");
        assert_eq!(pair.lag.share(), Share::NONE);
        assert_eq!(pair.second(stands_still).1, 0.0);
        pair.second(2.0);
        assert!(pair.second(2.0).1 > 0.999, "and then the guest runs freely");
        assert_eq!(pair.lag, Lag::default(), "nothing of it is left");
    }
}
