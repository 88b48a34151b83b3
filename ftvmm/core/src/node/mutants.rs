//! VMMs broken on purpose: each mutant breaks one promise, and a test shows the oracle that catches it.
//!
//! One process runs one node, so which mutants are on is the process's own. The code that a mutant breaks asks `mutant!`
//! (`lab.rs`), and in the shipped build there is nothing to ask.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::log::Entry;
use crate::machine::Answer;
use crate::protocol::{Generation, LogPosition, OutputIndex, Remembered, Role, Rules, Timing};

use super::thread;

macro_rules! mutants {
    ($($(#[doc = $documentation:literal])+ $mutant:ident = $name:literal,)+) => {
        /// One way of being broken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant {
            $($(#[doc = $documentation])+ $mutant,)+
        }

        impl Mutant {
            const ALL: &'static [(&'static str, Mutant)] = &[$(($name, Mutant::$mutant),)+];
        }
    };
}

mutants! {
    // The output rule.
    /// an output waits for one log entry too few
    DependsOnOneTooFew = "depends-on-one-too-few",
    /// of the frames whose number fifty divides, none waits for its acknowledgement
    UnacknowledgedFrames = "unacknowledged-frames",
    /// block writes do not wait for their acknowledgement; frames and console text do
    UnacknowledgedWrites = "unacknowledged-writes",
    /// console text does not wait for its acknowledgement; frames and block writes do
    UnacknowledgedConsole = "unacknowledged-console",
    /// block writes wait for their acknowledgement, and for no lease
    UnleasedWrites = "unleased-writes",
    /// the lease is 5 ms too long
    LongLease = "long-lease",
    /// a primary that was frozen and wakes still speaks, acknowledged or not
    IgnoreLease = "ignore-lease",
    /// the look at the lease right before the send is left out
    SkipSecondCheck = "skip-second-check",
    /// the backup echoes a stamp 5 ms newer than any that it heard
    EchoTooNew = "echo-too-new",
    /// the backup acknowledges one entry more than it holds
    AcknowledgeOneTooMany = "acknowledge-one-too-many",
    /// the primary says that one output more has completed than has
    ReleasedOneTooFar = "released-one-too-far",
    /// a block write counts as completed when it is handed to the disk
    CompletedAtSubmission = "completed-at-submission",

    // What leaves.
    /// after a go-live every fiftieth frame leaves twice
    DuplicateFrames = "duplicate-frames",
    /// after a go-live every fiftieth frame is a byte too short
    ShortenFrames = "shorten-frames",
    /// after a go-live every fiftieth frame, and all behind it, leaves 200 ms late
    DelayFrames = "delay-frames",
    /// after a go-live a copy of every fiftieth frame leaves from another MAC
    SecondMac = "second-mac",
    /// after a go-live every fiftieth frame that comes in is lost
    LoseFramesIn = "lose-frames-in",
    /// after a go-live every fiftieth request of a client asks for something else than it did
    GarbleRequests = "garble-requests",
    /// after a go-live a piece of console text is lost
    LoseConsole = "lose-console",
    /// after a go-live a piece of console text is written twice
    RepeatConsole = "repeat-console",

    // The disk.
    /// tells the guest that a block write is done, and forgets it
    LoseWrites = "lose-writes",
    /// after a go-live one block write is forgotten
    LoseAWrite = "lose-a-write",
    /// after a go-live only the first sector of one block write is written
    TearAWrite = "tear-a-write",
    /// after a go-live one block write lands a sector further
    MisplaceAWrite = "misplace-a-write",
    /// after a go-live two neighbouring block writes change places
    SwapWrites = "swap-writes",
    /// answers block reads without the writes that are still held
    ServeStale = "serve-stale",
    /// after a go-live one block read comes back with a flipped bit
    FlipARead = "flip-a-read",

    // The log and its replay.
    /// the guest runs as it likes, however far the backup's replay is behind
    NeverSlowed = "never-slowed",
    /// goes live without the last entry of the log, and the outputs that it leads to
    LoseLastEntry = "lose-last-entry",
    /// goes live without the last 40 entries of the log and the outputs that they belong to
    LoseLogTail = "lose-log-tail",
    /// the backup's guest is given one frame with a flipped bit
    ReplayAFrameWrong = "replay-a-frame-wrong",

    // Re-issue.
    /// one uncertain frame is not re-issued
    ReissueOneTooFew = "reissue-one-too-few",
    /// a frame that had completed is emitted again at the go-live
    RepeatAFrame = "repeat-a-frame",
    /// the last 10 frames that had completed are emitted again at the go-live
    RepeatOutputs = "repeat-outputs",
    /// emits other bytes where it re-issues a frame; at most moments none is uncertain, so it takes completed ones too
    AlterReissue = "alter-reissue",
    /// one frame is re-issued with one byte altered
    AlterAFrame = "alter-a-frame",
    /// under the policy `drop` uncertain block writes are dropped too
    DropWrites = "drop-writes",

    // Arbitration and the takeover.
    /// goes live without asking the arbiter
    SkipArbiter = "skip-arbiter",
    /// a primary whose backup is suspected goes on in its own generation, and does not ask
    GoOnUnasked = "go-on-unasked",
    /// takes the answer that the generation is another's for a win
    IgnoreLost = "ignore-lost",
    /// a primary that has lost speaks for 50 ms more
    HaltLate = "halt-late",
    /// a candidate waits 50 ms less than the lease. The arbiter's stamp shows it, which comes late on a busy machine
    AskEarly = "ask-early",
    /// a survivor emits 20 ms before the old primary's last write is sure to have landed
    WriteEarly = "write-early",
    /// an arbiter that was out of reach once is never asked again
    AskOnce = "ask-once",
    /// suspects its peer 1 s late
    SuspectLate = "suspect-late",
    /// heartbeats of the management network are not heard
    DeafToManagement = "deaf-to-management",
    /// waits 1 s before it goes live
    SlowGoLive = "slow-go-live",
    /// announces nothing
    AnnounceNothing = "announce-nothing",
    /// a candidate announces itself before it has asked
    AnnounceEarly = "announce-early",
    /// starts the guest afresh instead of going on with the replayed one
    ResetOnGoLive = "reset-on-go-live",
    /// dies 2 s after its go-live
    DieAfterGoLive = "die-after-go-live",

    // Getting a new backup.
    /// the page at the end of the guest's memory, where its stack begins, is never copied
    MissAPage = "miss-a-page",
    /// the guest goes on while its state goes over, and takes in an entry that no log has
    ResumeEarly = "resume-early",
    /// a joiner that has the state of a guest begins the guest's time anew
    ForgetTime = "forget-time",

    // The guest's time.
    /// the wall clock steps back 1 ms at the go-live
    WallBack = "wall-back",
    /// the counter steps back 1 us at the go-live
    CounterBack = "counter-back",
    /// the counter leaps 2 s at the go-live
    CounterLeap = "counter-leap",
}

/// What a rule switched off is called: this and the switch's name.
const RULE: &str = "rule:";

/// How many mutants there are.
const COUNT: usize = Mutant::ALL.len();

/// A mutant that does not exist.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("there is no mutant {0:?}")]
pub struct UnknownMutant(String);

/// The mutants of one node, and the rules that are off.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Mutants {
    names: Vec<String>,
    on: Vec<Mutant>,
    rules: Rules,
}

impl TryFrom<Vec<String>> for Mutants {
    type Error = UnknownMutant;

    fn try_from(names: Vec<String>) -> Result<Mutants, UnknownMutant> {
        let unknown = |name: &str| UnknownMutant(name.to_owned());
        let off = names.iter().filter_map(|name| name.strip_prefix(RULE));
        let mut rules = Rules::without(off).map_err(|error| unknown(&format!("{RULE}{}", error.0)))?;
        let mut on = Vec::new();
        for name in names.iter().filter(|name| !name.starts_with(RULE)) {
            let (_, mutant) = Mutant::ALL.iter().find(|(known, _)| known == name).ok_or_else(|| unknown(name))?;
            on.push(*mutant);
        }
        if on.contains(&Mutant::HaltLate) {
            rules.loser_halts = false;
        }
        if on.contains(&Mutant::IgnoreLease) {
            // Without its lease alone a woken primary could only repeat what was acknowledged.
            rules.output_lease = false;
            rules.output_acknowledged = false;
        }
        Ok(Mutants { names, on, rules })
    }
}

impl From<Mutants> for Vec<String> {
    fn from(mutants: Mutants) -> Vec<String> {
        mutants.names
    }
}

/// The names of all mutants, the rules' switches last.
pub fn names() -> Vec<String> {
    let mutants = Mutant::ALL.iter().map(|(name, _)| (*name).to_owned());
    mutants.chain(Rules::NAMES.iter().map(|rule| format!("{RULE}{rule}"))).collect()
}

struct Process {
    mutants: Mutants,
    asked: [AtomicU64; COUNT],
}

static PROCESS: OnceLock<Process> = OnceLock::new();
static GONE_LIVE: AtomicBool = AtomicBool::new(false);

/// Breaks this process's VMM. Only the first call counts.
pub fn install(mutants: Mutants) {
    PROCESS.get_or_init(|| Process { mutants, asked: [const { AtomicU64::new(0) }; COUNT] });
}

/// Whether a mutant is on.
pub fn is_on(mutant: Mutant) -> bool {
    PROCESS.get().is_some_and(|process| process.mutants.on.contains(&mutant))
}

fn count(mutant: Mutant) -> u64 {
    PROCESS.get().map_or(0, |process| process.asked[mutant as usize].fetch_add(1, Ordering::Relaxed) + 1)
}

/// Whether a mutant is on, and this is the first time that it is asked for.
pub fn once(mutant: Mutant) -> bool {
    is_on(mutant) && count(mutant) == 1
}

/// Whether a mutant is on, and this is one of the times, each `each`th, that it acts.
pub fn every(mutant: Mutant, each: u64) -> bool {
    is_on(mutant) && count(mutant).is_multiple_of(each)
}

/// The rules that this process keeps.
pub fn rules() -> Rules {
    PROCESS.get().map_or_else(Rules::default, |process| process.mutants.rules)
}

/// The protocol's intervals, where a mutant is another interval.
pub fn alter_timing(timing: &mut Timing) {
    if is_on(Mutant::SuspectLate) {
        timing.detect += Duration::from_secs(1);
    }
    if is_on(Mutant::WriteEarly) {
        timing.write_bound = timing.write_bound.saturating_sub(Duration::from_millis(20));
    }
    if is_on(Mutant::AskOnce) {
        timing.retry = Duration::from_secs(3600);
    }
}

/// Where a node with R1 switched off remembers what it was.
static MEMORY: OnceLock<PathBuf> = OnceLock::new();

/// R1 switched off: what an earlier process of this node was, from the file that later ones will believe too.
pub fn remembered(memory: PathBuf) -> Option<Remembered> {
    if rules().fresh_start {
        return None;
    }
    let text = std::fs::read_to_string(&memory).ok();
    let _ = MEMORY.set(memory);
    let generation = Generation(text?.trim().parse().ok()?);
    // Its guest starts afresh, and so do its outputs.
    Some(Remembered { role: Role::Alone, generation, released: OutputIndex::NONE })
}

/// R1 switched off: this node has this role now.
pub fn remember(role: Role, generation: Generation) {
    if let Some(memory) = MEMORY.get() {
        let text = if role.is_primary() { generation.to_string() } else { String::new() };
        let _ = std::fs::write(memory, text);
    }
}

/// An entry of the log as the backup replays it: one frame of the first that come late enough has a flipped bit.
pub fn replayed(position: LogPosition, bytes: Arc<Vec<u8>>) -> Arc<Vec<u8>> {
    const FROM: LogPosition = LogPosition(500);
    if position < FROM || !is_on(Mutant::ReplayAFrameWrong) {
        return bytes;
    }
    let Ok((mut entry, _)) = Entry::decode(&bytes) else { return bytes };
    if let Answer::NetworkRead { frame: Some(frame) } = &mut entry.answer
        && let Some(last) = frame.last_mut()
        && once(Mutant::ReplayAFrameWrong)
    {
        *last ^= 1;
    }
    let mut altered = Vec::new();
    entry.encode(&mut altered);
    altered.into()
}

/// This process ends after a while, whatever it does.
pub fn die_after(duration: Duration) {
    thread::start("end", move || {
        std::thread::sleep(duration);
        // SAFETY: ends the process, with no memory involved.
        unsafe { libc::_exit(3) };
    });
}

/// This node won as the backup, and its guest now runs live.
pub fn note_go_live() {
    GONE_LIVE.store(true, Ordering::Release);
}

/// Whether this node has gone live as the backup.
pub fn has_gone_live() -> bool {
    GONE_LIVE.load(Ordering::Acquire)
}

/// Whether a frame carries a client's request to set a key.
pub fn asks_to_set(frame: &[u8]) -> bool {
    set_at(frame).is_some()
}

/// Turns the `SET` in a frame into `SXT`, as if the client had asked for that: its checksum holds.
pub fn garble(frame: &mut [u8]) {
    let Some(at) = set_at(frame) else { return };
    // The segment begins behind the Ethernet header and an IPv4 header without options. RFC 1624: HC' = ~(~HC + ~m + m').
    let (segment, checksum_at) = (34, 50);
    let word_at = segment + (at + 1 - segment) / 2 * 2;
    let before = u16::from_be_bytes([frame[word_at], frame[word_at + 1]]);
    frame[at + 1] = b'X';
    let after = u16::from_be_bytes([frame[word_at], frame[word_at + 1]]);
    let checksum = u16::from_be_bytes([frame[checksum_at], frame[checksum_at + 1]]);
    let mut sum = u32::from(!checksum) + u32::from(!before) + u32::from(after);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    let [high, low] = (!(sum as u16)).to_be_bytes();
    frame[checksum_at] = high;
    frame[checksum_at + 1] = low;
}

fn set_at(frame: &[u8]) -> Option<usize> {
    let pattern = b"$3\r\nSET\r\n";
    frame.windows(pattern.len()).position(|window| window == pattern).map(|at| at + 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_taken_and_no_other() {
        let all = Mutants::try_from(names()).unwrap();
        assert_eq!(all.on.len(), COUNT);
        assert_eq!(all.rules, Rules::without(Rules::NAMES.iter().copied()).unwrap());
        for name in ["nice", "rule:R99", "R5-lease"] {
            assert_eq!(Mutants::try_from(vec![name.into()]).unwrap_err(), UnknownMutant(name.into()));
        }
    }
}
