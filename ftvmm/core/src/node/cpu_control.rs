//! Commands to the guest's thread: how its guest gets its inputs, and for how much of the time it runs.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

use crate::lock::{Condvar, Mutex};
use crate::machine::Kicker;
use crate::protocol::{LogPosition, Share};

use super::transfer::Order;

/// How the guest's inputs are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// nothing runs yet
    Waiting,
    /// from the log
    Replaying,
    /// from the world, appended to the log for the backup
    Logging,
    /// from the world, with no backup that could want them
    Alone,
}

/// Commands to the guest's thread, and what everyone may look at.
pub struct CpuControl {
    mode: Mutex<Mode>,
    /// Raised with each order to replay: a drained replay looks at its log again.
    replays: AtomicU64,
    changed: Condvar,
    /// In thousandths (`Share`).
    share: AtomicU16,
    stopped: AtomicBool,
    position: AtomicU64,
    /// The log connection of the joiner that the guest's memory is copied for; 0: nobody's.
    copying: AtomicU64,
    copy: Mutex<Option<Order>>,
    /// Readable when the guest's thread has something to look at while its guest waits for a device.
    wake: OwnedFd,
    /// Of the machine that runs.
    kicker: Mutex<Option<Kicker>>,
}

impl CpuControl {
    /// Nothing runs yet.
    ///
    /// # Errors
    /// The operating system's.
    pub fn new() -> io::Result<CpuControl> {
        Ok(CpuControl {
            mode: Mutex::new(Mode::Waiting),
            replays: AtomicU64::new(0),
            changed: Condvar::new(),
            share: AtomicU16::new(Share::WHOLE.thousandths()),
            stopped: AtomicBool::new(false),
            position: AtomicU64::new(LogPosition::START.0),
            copying: AtomicU64::new(0),
            copy: Mutex::new(None),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            kicker: Mutex::new(None),
        })
    }

    fn switch(&self, mode: Mode) {
        *self.mode.lock() = mode;
        self.changed.notify_all();
    }

    /// Backup: replay from where the guest stands; after a `Drained`, look at the log again (R12).
    pub fn replay(&self) {
        self.replays.fetch_add(1, Ordering::AcqRel);
        self.switch(Mode::Replaying);
    }

    /// Primary with a backup: run, and log.
    pub fn run_logging(&self) {
        self.switch(Mode::Logging);
    }

    /// Primary without a backup: run.
    pub fn run_alone(&self) {
        self.switch(Mode::Alone);
    }

    /// Primary without a backup: the guest's memory is copied for a joiner, and the guest stops in the end.
    pub fn copy(&self, order: Order) {
        let connection = order.connection;
        *self.copy.lock() = Some(order);
        self.order_copying(connection);
        self.wake();
        self.kick();
    }

    /// The transfer is given up. A guest that was stopped for it goes on.
    pub fn end_copy(&self) {
        self.copy.lock().take();
        self.order_copying(0);
        self.wake();
    }

    /// The stopped guest goes on, and logs.
    pub fn resume_logging(&self) {
        self.copy.lock().take();
        let mut mode = self.mode.lock();
        // Together: a guest that is stopped goes on when it sees either.
        self.copying.store(0, Ordering::Release);
        *mode = Mode::Logging;
        self.changed.notify_all();
    }

    fn order_copying(&self, connection: u64) {
        let _mode = self.mode.lock();
        self.copying.store(connection, Ordering::Release);
        self.changed.notify_all();
    }

    /// For whom the guest's memory is copied; `None`: for nobody.
    pub fn copying(&self) -> Option<u64> {
        Some(self.copying.load(Ordering::Acquire)).filter(|connection| *connection != 0)
    }

    /// The order to copy.
    pub fn copy_order(&self) -> Option<Order> {
        self.copy.lock().clone()
    }

    /// Waits until a guest that was stopped for this joiner is to go on. `None` when the node stops.
    pub fn wait_for_end_of_copy(&self, connection: u64) -> Option<()> {
        let mut mode = self.mode.lock();
        while self.copying() == Some(connection) && *mode == Mode::Alone {
            if self.stopped.load(Ordering::Acquire) {
                return None;
            }
            self.changed.wait(&mut mode);
        }
        (!self.stopped.load(Ordering::Acquire)).then_some(())
    }

    /// A guest that waits for a device lets its thread look at what it has been told.
    pub fn wake(&self) {
        // The counter of an eventfd is never full here.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// What is readable then.
    pub fn wake_descriptor(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Whether it was woken since the last look.
    pub fn was_woken(&self) -> bool {
        rustix::io::read(&self.wake, &mut [0u8; 8]).is_ok()
    }

    /// This machine runs from now on.
    pub fn runs(&self, kicker: Kicker) {
        *self.kicker.lock() = Some(kicker);
    }

    /// A guest that computes lets its thread look at what it has been told.
    pub fn kick(&self) {
        let kicker = self.kicker.lock().clone();
        kicker.iter().for_each(Kicker::kick);
    }

    /// Lag control: the guest runs for this share of its time, and is not entered where that is none (R26).
    pub fn throttle(&self, share: Share) {
        let _mode = self.mode.lock();
        self.share.store(share.thousandths(), Ordering::Release);
        self.changed.notify_all();
    }

    /// For how much of its time the guest may run.
    pub fn share(&self) -> Share {
        Share::from_thousandths(self.share.load(Ordering::Acquire))
    }

    /// The node stops.
    pub fn stop(&self) {
        let _mode = self.mode.lock();
        self.stopped.store(true, Ordering::Release);
        self.changed.notify_all();
    }

    /// Position of the newest entry that the guest has taken, live or replayed.
    pub fn position(&self) -> LogPosition {
        LogPosition(self.position.load(Ordering::Acquire))
    }

    /// The guest has taken the entry at this position.
    pub fn come_to(&self, position: LogPosition) {
        self.position.store(position.0, Ordering::Release);
    }

    /// Waits until something runs and nothing stalls it. `None` when the node stops.
    pub fn wait_until_runnable(&self) -> Option<()> {
        let mut mode = self.mode.lock();
        while *mode == Mode::Waiting || self.share() == Share::NONE {
            if self.stopped.load(Ordering::Acquire) {
                return None;
            }
            self.changed.wait(&mut mode);
        }
        (!self.stopped.load(Ordering::Acquire)).then_some(())
    }

    /// Lets this time pass, or less where the guest may run as it likes meanwhile, or the node stops.
    pub fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut mode = self.mode.lock();
        while self.share() != Share::WHOLE && !self.stopped.load(Ordering::Acquire) {
            if self.changed.wait_until(&mut mode, until) {
                return;
            }
        }
    }

    /// How the guest's inputs are found now.
    pub fn mode(&self) -> Mode {
        *self.mode.lock()
    }

    /// Orders to replay so far.
    pub fn replays(&self) -> u64 {
        self.replays.load(Ordering::Acquire)
    }

    /// Waits for another mode than `but`, or another order to replay than `replays`. `None` when the node stops.
    pub fn wait_for_order(&self, but: Mode, replays: u64) -> Option<Mode> {
        let mut mode = self.mode.lock();
        loop {
            if self.stopped.load(Ordering::Acquire) {
                return None;
            }
            if *mode != but || self.replays() != replays {
                return Some(*mode);
            }
            self.changed.wait(&mut mode);
        }
    }
}

/// A guest that is slowed waits no less at a time, so that it does not wake for nothing, and no more, so that what it does in between is
/// not held up for long. Where it runs for long without leaving the guest it has more than its share, until it is stalled.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(5);

/// Turns a share of the guest's time into short waits between two entries into the guest.
#[derive(Debug, Default)]
pub struct Throttle {
    owed: Duration,
}

impl Throttle {
    /// The guest has run for so long, and may run for this share of its time.
    pub fn ran(&mut self, ran: Duration, share: Share) {
        self.owed = (self.owed + share.pause_after(ran)).min(PAUSE_MAX);
    }

    /// How long the guest has to wait now; `None`: it need not.
    pub fn due(&mut self) -> Option<Duration> {
        (self.owed >= PAUSE_MIN).then(|| std::mem::take(&mut self.owed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_waits_for_its_share_of_the_time_in_short_pauses() {
        let mut throttle = Throttle::default();
        let half = Share::from_thousandths(500);
        let (mut ran, mut paused, mut longest) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        for _ in 0..1000 {
            let run = Duration::from_micros(300);
            throttle.ran(run, half);
            ran += run;
            if let Some(pause) = throttle.due() {
                paused += pause;
                longest = longest.max(pause);
            }
        }
        assert!(paused.abs_diff(ran) < PAUSE_MIN, "{paused:?} of {ran:?}");
        assert!(longest >= PAUSE_MIN && longest <= PAUSE_MAX, "{longest:?}");
        throttle.ran(Duration::from_secs(1), half);
        assert_eq!(throttle.due(), Some(PAUSE_MAX));
        throttle.ran(Duration::from_secs(1), Share::WHOLE);
        assert_eq!(throttle.due(), None);
    }

    #[test]
    fn a_stalled_guest_waits_until_it_may_run_or_the_node_stops() {
        let ways: [fn(&CpuControl); 2] = [|control| control.throttle(Share::WHOLE), CpuControl::stop];
        for go_on in ways {
            let control = std::sync::Arc::new(CpuControl::new().unwrap());
            control.run_logging();
            control.throttle(Share::NONE);
            let guest = {
                let control = control.clone();
                std::thread::spawn(move || {
                    control.pause(Duration::from_secs(3600));
                    control.wait_until_runnable().is_some()
                })
            };
            go_on(&control);
            assert_eq!(guest.join().unwrap(), control.share() == Share::WHOLE);
        }
    }
}
