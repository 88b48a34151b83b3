//! Noticing that a thread of the guest computes while others wait for the processor: nothing interrupts it.
//!
//! A packed program's threads take turns at system calls, which its personality serves within the guest, unseen from
//! here. What the personality knows of them it keeps in a record (`package::ThreadRecord`), and the image says where.
//! The record is the guest's: it is only read, and nothing but a remark depends on it.

use std::fmt;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use package::ThreadRecord;

use super::kicker::Kicker;
use super::memory::GuestMemory;
use crate::image::{Functions, Image};

/// How long a thread may compute before that is remarked. The next remark is due when that much time has passed again,
/// and so on, twice as long each time: in one stretch, and over many, as of a program that computes in pieces.
const FIRST_REMARK: Duration = Duration::from_secs(1);
/// After so long without anything to remark, of the processor's time, the next is the first again.
const QUIET: Duration = Duration::from_secs(60);
/// A guest that has not left for so long is interrupted, and so often from then on. Far less than the time after which
/// something is said, far more than what an interruption costs.
const PERIOD: Duration = Duration::from_millis(200);

/// A thread that computes while others wait for it to make a system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Starvation {
    thread: u64,
    name: [u8; 16],
    /// At least so long, of the processor's time.
    computed: Duration,
    place: String,
    others: Others,
}

/// Who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Others {
    /// At least so many other threads can run.
    Wait { at_least: u64 },
    /// Something has happened that one of them may have been waiting for.
    MayWait,
}

impl fmt::Display for Starvation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.split(|byte| *byte == 0).next().unwrap_or_default();
        let Starvation { thread, computed, place, others, .. } = self;
        let (name, place) = (name.escape_ascii(), place.as_bytes().escape_ascii());
        write!(formatter, "the guest's thread {thread} ({name}) has computed for {:.1} s", computed.as_secs_f64())?;
        write!(formatter, " without a system call, now in {place}, while ")?;
        match others {
            Others::Wait { at_least: 1 } => write!(formatter, "at least 1 other thread waits for its turn"),
            Others::Wait { at_least } => write!(formatter, "at least {at_least} other threads wait for their turn"),
            Others::MayWait => write!(formatter, "another thread may have something to do"),
        }
    }
}

/// Follows the guest from one interruption to the next.
pub(super) struct Watch {
    record: u64,
    functions: Functions,
    stretch: Option<Stretch>,
    pace: Option<Pace>,
}

/// How often something is remarked. All times are of the processor's time that the vCPU's thread has used.
#[derive(Clone, Copy)]
struct Pace {
    /// There was last something to remark.
    seen: Duration,
    /// Before that nothing more is said.
    until: Duration,
    /// Between the newest remark and `until`.
    interval: Duration,
}

impl Pace {
    /// Whether what has gone on for `computed` is said at `now`.
    fn is_due(pace: &mut Option<Pace>, now: Duration, computed: Duration) -> bool {
        let last = pace.filter(|pace| now.saturating_sub(pace.seen) < QUIET);
        let is_due = last.is_none_or(|last| now >= last.until);
        *pace = Some(match last {
            Some(last) if !is_due => Pace { seen: now, ..last },
            _ => {
                let interval = last.map_or(FIRST_REMARK, |last| 2 * last.interval).max(computed);
                Pace { seen: now, until: now + interval, interval }
            }
        });
        is_due
    }
}

/// A time in which the guest neither left nor made a system call.
#[derive(Clone, Copy)]
struct Stretch {
    turn: u64,
    /// Of the processor's time that the vCPU's thread has used.
    began: Duration,
}

impl Watch {
    /// For an image whose personality keeps the record.
    pub fn of(image: &Image) -> Option<Watch> {
        Some(Watch { record: image.thread_record?, functions: image.functions.clone(), stretch: None, pace: None })
    }

    /// The guest has left by itself.
    pub fn guest_left(&mut self) {
        self.stretch = None;
    }

    /// Looks at an interrupted guest. `now` is the processor's time that the vCPU's thread has used: while the host
    /// is frozen, the guest does not compute. `has_frames` says whether frames wait for the guest.
    pub fn look(
        &mut self,
        memory: &GuestMemory,
        rip: u64,
        now: Duration,
        has_frames: impl FnOnce() -> bool,
    ) -> Option<Starvation> {
        let bytes = memory.read(self.record, ThreadRecord::BYTES as u64)?;
        let record = ThreadRecord::from_bytes(bytes.first_chunk()?);
        if record.thread == 0 || !record.turn.is_multiple_of(2) {
            self.stretch = None;
            return None;
        }
        let new = Stretch { turn: record.turn, began: now };
        let stretch = match &mut self.stretch {
            Some(stretch) if stretch.turn == record.turn => stretch,
            stretch => stretch.insert(new),
        };
        let computed = now.saturating_sub(stretch.began);
        if computed < FIRST_REMARK {
            return None;
        }
        let others = others(&record, computed, has_frames)?;
        if !Pace::is_due(&mut self.pace, now, computed) {
            return None;
        }
        let place = self.functions.place_of(rip).unwrap_or_else(|| format!("{rip:#x}"));
        Some(Starvation { thread: record.thread, name: record.name, computed, place, others })
    }
}

/// Who waits while the thread that runs has computed for so long; `None` where nobody is known to.
fn others(record: &ThreadRecord, computed: Duration, has_frames: impl FnOnce() -> bool) -> Option<Others> {
    // The record's time is that of the last way out, or older: a wait that is over by this account is over.
    let first_wait = Duration::from_nanos(record.first_end.saturating_sub(record.now));
    let has_ended = record.first_end != u64::MAX && first_wait <= computed;
    match u64::from(record.ready) + u64::from(has_ended) {
        0 if record.listening == 0 => None,
        0 => (record.oldest_seen < record.news || has_frames()).then_some(Others::MayWait),
        at_least => Some(Others::Wait { at_least }),
    }
}

/// A thread that interrupts a guest which does not leave by itself, so that the vCPU's thread can look at it; as long as
/// this lives.
pub(super) struct Watchdog {
    /// The thread ends when this is gone.
    _alive: Sender<()>,
}

impl Watchdog {
    /// Starts the thread.
    ///
    /// # Errors
    /// The operating system's.
    pub fn start(kicker: Kicker) -> io::Result<Watchdog> {
        let (alive, ended) = channel();
        thread::Builder::new().name("watchdog".into()).spawn(move || {
            let mut seen = None;
            while ended.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                seen = kicker.kick_if_still(seen);
            }
        })?;
        Ok(Watchdog { _alive: alive })
    }
}

/// The processor's time that the calling thread has used.
pub(super) fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the place is valid for the call, which every Linux knows for the calling thread.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::super::memory::{Access, PAGE_BYTES};
    use super::*;
    use crate::image::Function;

    const RECORD: u64 = PAGE_BYTES + 8;
    const CODE: u64 = 3 * PAGE_BYTES;

    fn watch() -> Watch {
        let function = Function { address: CODE, length_bytes: 64, name: "program: spin".into() };
        Watch { record: RECORD, functions: [function].into_iter().collect(), stretch: None, pace: None }
    }

    /// Thread 3 is in the program, and nobody else does anything.
    fn alone() -> ThreadRecord {
        ThreadRecord {
            turn: 8,
            now: 5,
            news: 7,
            thread: 3,
            name: *b"worker\0\0\0\0\0\0\0\0\0\0",
            ..ThreadRecord::EMPTY
        }
    }

    fn memory_with(record: &ThreadRecord) -> GuestMemory {
        let words = [record.turn, record.now, record.news, record.first_end, record.oldest_seen, record.thread];
        let halves = [record.ready, record.listening];
        let mut bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        bytes.extend(halves.into_iter().flat_map(u32::to_le_bytes));
        bytes.extend(record.name);
        let mut memory = GuestMemory::new(4 * PAGE_BYTES).unwrap();
        memory.allow(PAGE_BYTES, 2 * PAGE_BYTES, Access::READ_WRITE);
        memory.write(RECORD, bytes.len() as u64).unwrap().copy_from_slice(&bytes);
        memory
    }

    /// What is remarked when these looks find this record, in milliseconds.
    fn remarks(record: &ThreadRecord, has_frames: bool, looks: &[u64]) -> Vec<(u64, String)> {
        let (mut watch, memory) = (watch(), memory_with(record));
        let look = |at: &u64| {
            let found = watch.look(&memory, CODE + 0x12, Duration::from_millis(*at), || has_frames)?;
            Some((*at, found.to_string()))
        };
        looks.iter().filter_map(look).collect()
    }

    fn last_words(record: &ThreadRecord, has_frames: bool) -> Option<String> {
        let (_, text) = remarks(record, has_frames, &[100, 1100]).pop()?;
        text.split_once(", while ").map(|(_, who)| who.to_owned())
    }

    #[test]
    fn a_thread_that_computes_is_named_with_its_function_at_growing_intervals() {
        let record = ThreadRecord { ready: 2, ..alone() };
        let found = remarks(&record, false, &[100, 300, 1099, 1100, 1300, 2099, 2100, 4099, 4100]);
        let times: Vec<u64> = found.iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [1100, 2100, 4100]);
        let wanted = "the guest's thread 3 (worker) has computed for 1.0 s without a system call, now in program: \
                      spin+0x12, while at least 2 other threads wait for their turn";
        assert_eq!(found[0].1, wanted);
    }

    #[test]
    fn a_program_that_computes_in_pieces_is_remarked_ever_more_seldom_until_it_is_quiet() {
        let mut watch = watch();
        let mut piece = |number: u64, began: u64| {
            let memory = memory_with(&ThreadRecord { turn: 2 * number, ready: 1, ..alone() });
            let mut look = |at| watch.look(&memory, CODE, Duration::from_millis(at), || false).is_some();
            !look(began) && look(began + 1100)
        };
        let said: Vec<u64> = (1..=40).filter(|number| piece(*number, 1200 * number)).collect();
        assert_eq!(said, [1, 2, 4, 8, 16, 31]);
        assert!(!piece(41, 49_200) && piece(42, 49_200 + 60_000), "after a minute of quiet");
    }

    #[test]
    fn a_thread_that_nobody_waits_for_is_not_remarked() {
        assert_eq!(last_words(&alone(), true), None);
        // One sleeps on, one listens and hears nothing.
        let others = ThreadRecord { first_end: 5_000_000_000, listening: 1, oldest_seen: 7, ..alone() };
        assert_eq!(last_words(&others, false), None);
    }

    #[test]
    fn who_waits_is_told_as_far_as_it_is_known() {
        let (one, may) = ("at least 1 other thread waits for its turn", "another thread may have something to do");
        assert_eq!(last_words(&ThreadRecord { ready: 1, ..alone() }, false).as_deref(), Some(one));
        // A wait of a second, and one that has ended before.
        assert_eq!(last_words(&ThreadRecord { first_end: 1_000_000_005, ..alone() }, false).as_deref(), Some(one));
        assert_eq!(last_words(&ThreadRecord { first_end: 1, ..alone() }, false).as_deref(), Some(one));
        let listening = ThreadRecord { listening: 1, oldest_seen: 7, ..alone() };
        assert_eq!(last_words(&listening, true).as_deref(), Some(may));
        assert_eq!(last_words(&ThreadRecord { oldest_seen: 6, ..listening }, false).as_deref(), Some(may));
    }

    #[test]
    fn a_system_call_or_an_exit_begins_anew() {
        let record = ThreadRecord { ready: 1, ..alone() };
        let (mut watch, mut memory) = (watch(), memory_with(&record));
        let look = |watch: &mut Watch, memory: &GuestMemory, at| {
            watch.look(memory, CODE, Duration::from_millis(at), || false).is_some()
        };
        assert!(!look(&mut watch, &memory, 0));
        memory = memory_with(&ThreadRecord { turn: 10, ..record });
        assert!(!look(&mut watch, &memory, 1500));
        watch.guest_left();
        assert!(!look(&mut watch, &memory, 3000));
        assert!(look(&mut watch, &memory, 4000));
        // In the personality itself, and before there is a thread.
        for other in [ThreadRecord { turn: 11, ..record }, ThreadRecord { thread: 0, ..record }] {
            memory = memory_with(&other);
            assert!(!look(&mut watch, &memory, 5000) && !look(&mut watch, &memory, 9000));
        }
    }

    #[test]
    fn a_record_is_whatever_the_guest_likes() {
        let wild = ThreadRecord { ready: u32::MAX, first_end: 0, name: *b"\x1b[2J\xff\n\0behind it", ..alone() };
        let wild = ThreadRecord { now: u64::MAX, thread: u64::MAX, ..wild };
        let (_, text) = remarks(&wild, false, &[0, 1000]).pop().unwrap();
        assert!(text.contains(r"thread 18446744073709551615 (\x1b[2J\xff\n) has"), "{text}");
        assert!(text.contains("at least 4294967296 other threads"), "{text}");
        let memory = memory_with(&alone());
        for record in [0, 2 * PAGE_BYTES - 8, 4 * PAGE_BYTES - 1, u64::MAX - 8] {
            let mut watch = Watch { record, ..watch() };
            assert_eq!(watch.look(&memory, u64::MAX, Duration::ZERO, || true), None);
        }
        let mut lost = watch();
        let memory = memory_with(&ThreadRecord { ready: 1, ..alone() });
        assert_eq!(lost.look(&memory, 0, Duration::ZERO, || false), None);
        let found = lost.look(&memory, u64::MAX, Duration::from_secs(1), || false).unwrap();
        assert!(found.to_string().contains("now in 0xffffffffffffffff, while"), "{found}");
    }
}
