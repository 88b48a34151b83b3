//! Exact moments of a node, at which a test kills it, stops it, slows it down or holds what has come there.
//!
//! A failpoint is a line such as `before-second-check block kind=frame after=3`: the point, what happens there (`kill`,
//! `stop`, `delay:MILLISECONDS` or `block`), the kind of output meant, how often it is passed first, and with `count=N`
//! or `count=all` how often it acts, which is once without. They come with `node.toml` or over `failpoints.sock` in the
//! node's directory, one command and one JSON answer a line: `arm FAILPOINT`, `wait ID MILLISECONDS` (until it is hit),
//! `release ID` (whoever is held goes on, and it never acts again), `list`.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

use crate::devices::clock;
use crate::lock::{Condvar, Mutex};

use super::thread;
use super::trace::Trace;

macro_rules! points {
    ($($(#[doc = $documentation:literal])+ $point:ident = $name:literal,)+) => {
        /// A moment that a node comes to.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Point {
            $($(#[doc = $documentation])+ $point,)+
        }

        impl Point {
            /// The names of all points.
            pub const NAMES: &'static [&'static str] = &[$($name,)+];

            fn name(self) -> &'static str {
                match self {
                    $(Point::$point => $name,)+
                }
            }

            fn named(name: &str) -> Option<Point> {
                match name {
                    $($name => Some(Point::$point),)+
                    _ => None,
                }
            }
        }
    };
}

points! {
    /// primary, the guest's thread: the guest was given an input, which is in the log and not on the wire
    InputAppended = "input-appended",
    /// primary: a frame of entries was handed to the kernel but for its last bytes. Held, nothing more is sent on the connection
    EntryHalfSent = "entry-half-sent",
    /// primary: a frame of entries was handed to the kernel. Held, no more entries are sent
    EntrySent = "entry-sent",
    /// backup: a frame of entries came, and nothing is stored. Held, nothing more is read from the connection
    EntryReceived = "entry-received",
    /// backup, the guest's thread: an entry is about to be replayed
    EntryReplayed = "entry-replayed",
    /// primary: an acknowledgement came that says more than any before. Held, no message of the
    /// backup acknowledges anything; as signs of life they count
    EntryAcknowledged = "entry-acknowledged",
    /// the guest's thread, live: an output waits, and its entries may go on the wire
    OutputProduced = "output-produced",
    /// an output is about to leave, all but the last look at the lease was done. Here and up to `block-write-ended`, held, no output leaves
    BeforeSecondCheck = "before-second-check",
    /// the last look was done, the system call was not
    AfterSecondCheck = "after-second-check",
    /// the disk's thread: a block write is about to be handed to the kernel, released or re-issued
    BlockWriteBegun = "block-write-begun",
    /// the disk's thread: a block write is durable, and nobody knows
    BlockWriteEnded = "block-write-ended",
    /// the peer is suspected. Here and at all that follow, what is held is only what leads on:
    /// heartbeats and answers go out, messages come in, time goes by
    Suspect = "suspect",
    /// candidate: replay has come to the end of its log
    Drained = "drained",
    /// the arbiter is about to be asked for the next generation
    BeforeAsk = "before-ask",
    /// the arbiter has answered, and the node has yet to hear
    AfterAsk = "after-ask",
    /// won, as the primary or as the backup. From here to `first-output` what is held includes the outputs
    Won = "won",
    /// winner: the VM's devices are attached
    Attached = "attached",
    /// winner: the first announcement is on its way
    Announced = "announced",
    /// winner: the first output after the go-live has left
    FirstOutput = "first-output",
    /// primary, alone: a joiner is there, and nothing of the guest's memory is copied
    TransferBegun = "transfer-begun",
    /// primary, alone: the guest waits, and all of its state is on its way to the joiner
    GuestStopped = "guest-stopped",
    /// joiner: the guest's state is there, and nobody knows
    StateRestored = "state-restored",
    /// primary: COMMIT is on its way, the guest has not started or still waits
    CommitSent = "commit-sent",
    /// joiner: COMMIT came, it is the backup now; it has not answered COMMIT, and replay has not started
    CommitReceived = "commit-received",
}

/// What happens at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// SIGKILL for the whole process
    Kill,
    /// SIGSTOP for the whole process
    Stop,
    /// what has come there goes on after this long
    Delay(Duration),
    /// it goes on when it is released
    Block,
}

/// A failpoint as it is written down.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Failpoint {
    text: String,
    point: Point,
    action: Action,
    kind: Option<String>,
    after: u64,
    /// `None`: always.
    count: Option<u64>,
}

/// A line that is no failpoint.
#[derive(Debug, Error)]
#[error("{text:?} is no failpoint: {reason}")]
pub struct FailpointError {
    text: String,
    reason: String,
}

impl FromStr for Failpoint {
    type Err = FailpointError;

    fn from_str(text: &str) -> Result<Failpoint, FailpointError> {
        let error = |reason: String| FailpointError { text: text.to_owned(), reason };
        let mut words = text.split_whitespace();
        let name = words.next().unwrap_or_default();
        let known = || error(format!("there is no point {name:?}, but {}", Point::NAMES.join(", ")));
        let point = Point::named(name).ok_or_else(known)?;
        let action = match words.next().unwrap_or_default() {
            "kill" => Action::Kill,
            "stop" => Action::Stop,
            "block" => Action::Block,
            word => word
                .strip_prefix("delay:")
                .and_then(|milliseconds| milliseconds.parse().ok())
                .map(|milliseconds| Action::Delay(Duration::from_millis(milliseconds)))
                .ok_or_else(|| error(format!("there is no action {word:?}, but kill, stop, delay:MS and block")))?,
        };
        let mut failpoint = Failpoint { text: text.to_owned(), point, action, kind: None, after: 0, count: Some(1) };
        for word in words {
            let number = |value: &str| value.parse::<u64>().map_err(|_| error(format!("{value:?} is no number")));
            match word.split_once('=') {
                Some(("kind", kind @ ("frame" | "block" | "console"))) => failpoint.kind = Some(kind.to_owned()),
                Some(("after", value)) => failpoint.after = number(value)?,
                Some(("count", "all")) => failpoint.count = None,
                Some(("count", value)) => failpoint.count = Some(number(value)?),
                _ => return Err(error(format!("{word:?} is neither kind=, after= nor count="))),
            }
        }
        Ok(failpoint)
    }
}

impl TryFrom<String> for Failpoint {
    type Error = FailpointError;

    fn try_from(text: String) -> Result<Failpoint, FailpointError> {
        text.parse()
    }
}

impl From<Failpoint> for String {
    fn from(failpoint: Failpoint) -> String {
        failpoint.text
    }
}

struct Armed {
    id: u64,
    failpoint: Failpoint,
    passed: u64,
    hits: u64,
    /// What the last hit was: position, index or generation, and when.
    hit: Option<Value>,
}

impl Armed {
    /// Whether it acts now that its point is passed.
    fn acts(&mut self, point: Point, kind: Option<&str>) -> bool {
        let other = self.failpoint.kind.as_deref().is_some_and(|wanted| kind != Some(wanted));
        if self.failpoint.point != point || other || self.failpoint.count.is_some_and(|count| self.hits >= count) {
            return false;
        }
        self.passed += 1;
        self.passed > self.failpoint.after
    }
}

#[derive(Default)]
struct State {
    armed: Vec<Armed>,
    newest: u64,
}

static STATE: Mutex<State> = Mutex::new(State { armed: Vec::new(), newest: 0 });
static CHANGED: Condvar = Condvar::new();
static TRACE: OnceLock<Arc<Trace>> = OnceLock::new();

/// Arms what `node.toml` asks for, and listens for more.
///
/// # Errors
/// The operating system's, when the socket cannot be had.
pub fn start(failpoints: &[Failpoint], socket: &Path, trace: Arc<Trace>) -> std::io::Result<()> {
    let _ = TRACE.set(trace);
    for failpoint in failpoints {
        arm(failpoint.clone());
    }
    // One that a killed node left behind.
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket)?;
    thread::start("failpoints", move || {
        for stream in listener.incoming().flatten() {
            thread::start("failpoints", move || {
                // Whoever asked has gone: nobody is left to tell.
                let _ = serve(&stream);
            });
        }
    });
    Ok(())
}

fn serve(stream: &UnixStream) -> std::io::Result<()> {
    for line in BufReader::new(stream).lines() {
        let answer = command(&line?).unwrap_or_else(|reason| json!({ "error": reason }));
        let mut stream = stream;
        stream.write_all(format!("{answer}\n").as_bytes())?;
    }
    Ok(())
}

fn command(line: &str) -> Result<Value, String> {
    let (word, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
    let numbers = || rest.split(' ').map(|word| word.parse::<u64>().map_err(|_| format!("{word:?} is no number")));
    match word {
        "arm" => rest.parse().map(|failpoint| json!({ "id": arm(failpoint) })).map_err(|error| error.to_string()),
        "wait" => match numbers().collect::<Result<Vec<_>, _>>()?[..] {
            [id, milliseconds] => wait(id, Duration::from_millis(milliseconds)),
            _ => Err("wait ID MILLISECONDS".into()),
        },
        "release" => match numbers().collect::<Result<Vec<_>, _>>()?[..] {
            [id] => Ok(json!({ "hit": release(id)? })),
            _ => Err("release ID".into()),
        },
        "list" => Ok(json!({ "armed": STATE.lock().armed.iter().map(described).collect::<Vec<_>>() })),
        _ => Err(format!("{word:?} is neither arm, wait, release nor list")),
    }
}

fn described(armed: &Armed) -> Value {
    json!({ "id": armed.id, "failpoint": armed.failpoint.text, "hits": armed.hits, "hit": armed.hit })
}

fn arm(failpoint: Failpoint) -> u64 {
    let mut state = STATE.lock();
    state.newest += 1;
    let id = state.newest;
    state.armed.push(Armed { id, failpoint, passed: 0, hits: 0, hit: None });
    id
}

fn wait(id: u64, timeout: Duration) -> Result<Value, String> {
    let until = Instant::now() + timeout;
    let mut state = STATE.lock();
    loop {
        let armed = state.armed.iter().find(|armed| armed.id == id).ok_or_else(|| unknown(id))?;
        if armed.hits > 0 || CHANGED.wait_until(&mut state, until) {
            let armed = state.armed.iter().find(|armed| armed.id == id);
            return Ok(json!({ "hit": armed.and_then(|armed| armed.hit.clone()) }));
        }
    }
}

fn release(id: u64) -> Result<Option<Value>, String> {
    let mut state = STATE.lock();
    let place = state.armed.iter().position(|armed| armed.id == id).ok_or_else(|| unknown(id))?;
    let armed = state.armed.remove(place);
    CHANGED.notify_all();
    Ok(armed.hit)
}

fn unknown(id: u64) -> String {
    format!("no failpoint {id} is armed")
}

/// Whether anything at all waits for this point.
pub fn awaited(point: Point) -> bool {
    STATE.lock().armed.iter().any(|armed| armed.failpoint.point == point)
}

/// A point is passed: which failpoint acts now, and how. `number` is the position, index or generation that it is about.
pub fn pass(point: Point, kind: Option<&str>, number: u64) -> Option<(u64, Action)> {
    let mut state = STATE.lock();
    let armed = state.armed.iter_mut().find_map(|armed| armed.acts(point, kind).then_some(armed))?;
    armed.hits += 1;
    armed.hit = Some(json!({
        "number": number, "monotonic_ns": clock::boottime_nanoseconds(), "wall_ns": clock::wall_nanoseconds(),
    }));
    let (id, action) = (armed.id, armed.failpoint.action);
    if let Some(trace) = TRACE.get() {
        let failpoint = &armed.failpoint.text;
        trace.write("failpoint", json!({ "point": point.name(), "kind": kind, "number": number, "armed": failpoint }));
    }
    CHANGED.notify_all();
    Some((id, action))
}

/// A thread comes to a point, and goes on when whoever waits for it lets it.
pub fn reach(point: Point, number: u64, kind: Option<&str>) {
    match pass(point, kind, number) {
        Some((_, action @ (Action::Kill | Action::Stop))) => strike(action),
        Some((_, Action::Delay(duration))) => std::thread::sleep(duration),
        Some((id, Action::Block)) => {
            let mut state = STATE.lock();
            while state.armed.iter().any(|armed| armed.id == id) {
                CHANGED.wait(&mut state);
            }
        }
        None => {}
    }
}

/// What is held at a failpoint by a thread that must not be: until it is released, or until this moment.
#[derive(Debug)]
pub struct Gate {
    id: u64,
    until: Option<Instant>,
}

static GATES: AtomicUsize = AtomicUsize::new(0);

/// Whether anything is held now by a thread that must not be.
pub fn holds() -> bool {
    GATES.load(Ordering::Acquire) > 0
}

impl Gate {
    /// Closed by this failpoint; one that kills or stops closes nothing, it strikes.
    pub fn of(id: u64, action: Action) -> Option<Gate> {
        let until = match action {
            Action::Delay(duration) => Some(Instant::now() + duration),
            Action::Block => None,
            Action::Kill | Action::Stop => {
                strike(action);
                return None;
            }
        };
        Some(Gate::new(id, until))
    }

    fn new(id: u64, until: Option<Instant>) -> Gate {
        GATES.fetch_add(1, Ordering::AcqRel);
        Gate { id, until }
    }

    /// Closed for so long.
    pub fn closed_for(duration: Duration) -> Gate {
        Gate::new(0, Some(Instant::now() + duration))
    }

    /// Whether it still holds.
    pub fn is_closed(&self) -> bool {
        match self.until {
            Some(until) => Instant::now() < until,
            None => STATE.lock().armed.iter().any(|armed| armed.id == self.id),
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        GATES.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The node's thread comes to a point: what is to be held there, if anything. The thread goes on, for heartbeats are its own too.
pub fn gate(point: Point, kind: Option<&str>, number: u64) -> Option<Gate> {
    pass(point, kind, number).and_then(|(id, action)| Gate::of(id, action))
}

/// Kills or stops this process.
pub fn strike(action: Action) {
    let signal = if action == Action::Kill { libc::SIGKILL } else { libc::SIGSTOP };
    // SAFETY: a signal to the calling thread, with no memory involved. To the thread and not to the process, so that it is
    // this one that takes it, and goes no step further; both signals are the whole process's all the same.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::syscall(libc::SYS_gettid), signal) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failpoint_is_read_and_said_again() {
        let text = "before-second-check delay:20 kind=frame after=3 count=all";
        let failpoint: Failpoint = text.parse().unwrap();
        assert_eq!((failpoint.point, failpoint.after), (Point::BeforeSecondCheck, 3));
        assert_eq!(failpoint.action, Action::Delay(Duration::from_millis(20)));
        assert_eq!((failpoint.kind.as_deref(), failpoint.count), (Some("frame"), None));
        assert_eq!(String::from(failpoint), text);
    }

    #[test]
    fn what_is_wrong_with_a_failpoint_is_said() {
        for (text, reason) in [
            ("before-tea block", "there is no point \"before-tea\", but input-appended, "),
            ("before-ask", "there is no action \"\""),
            ("before-ask delay:soon", "there is no action \"delay:soon\""),
            ("before-ask block kind=fame", "\"kind=fame\" is neither"),
            ("before-ask block after=x", "\"x\" is no number"),
        ] {
            let error = text.parse::<Failpoint>().unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    #[test]
    fn a_thread_is_held_until_it_is_released_and_then_never_again() {
        let id = arm("block-write-ended block kind=block after=1".parse().unwrap());
        reach(Point::BlockWriteEnded, 1, Some("block"));
        reach(Point::BlockWriteEnded, 2, Some("frame"));
        assert_eq!(wait(id, Duration::ZERO).unwrap(), json!({ "hit": null }));
        let thread = std::thread::spawn(|| reach(Point::BlockWriteEnded, 3, Some("block")));
        assert_eq!(wait(id, Duration::from_secs(10)).unwrap()["hit"]["number"], 3);
        assert!(!thread.is_finished());
        assert_eq!(command(&format!("release {id}")).unwrap()["hit"]["number"], 3);
        thread.join().unwrap();
        reach(Point::BlockWriteEnded, 4, Some("block"));
        assert!(release(id).is_err());
    }
}
