//! The logging channel: its connections, read and written without waiting by the node's thread, which alone decides.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::devices::random;
#[cfg(feature = "lab")]
use crate::lab::rule;
use crate::protocol::LogPosition;

use super::authentication::Key;
#[cfg(feature = "lab")]
use super::failpoints::{self, Gate, Point};
use super::frame::{Decoder, Encoder, FrameError, Greeter, Incoming, Kind, PAYLOAD_BYTES_MAX};
use super::log_buffer::{self, Batch, ReplayLog, SendLog};
use super::poller::{Ready, Registry, Source};

/// A greeting is over by then, however the peer spreads its bytes: without the key nobody keeps the peer from being heard for longer.
const GREETING_TIMEOUT: Duration = Duration::from_secs(2);
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// When the kernel begins to ask whether a connection without a byte is still there, how long it waits for an answer, and
/// how often it asks: without this the connections that a host left behind when it lost power would add up. A silent
/// peer whose host answers is the failure detector's affair: the acknowledgements of a live one may come another way.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_PROBES: u32 = 3;
/// Pause behind a failed accept: no descriptors are left, for instance, and a real-time thread must not spin over it.
const ERROR_PAUSE: Duration = Duration::from_millis(20);
/// Greetings under way at once; further connections are closed unread.
const GREETINGS_MAX: usize = 8;
/// So many connections are accepted or closed before others are looked after.
const ACCEPTED_A_TURN: usize = 64;
/// So many bytes that wait for the wire mean that nothing gets through.
const OUTGOING_BYTES_MAX: usize = 2 * PAYLOAD_BYTES_MAX;
const BATCH_BYTES_MAX: usize = 256 << 10;
/// Batches that one connection is given before others are looked after.
const BATCHES_A_TURN: usize = 16;
/// At least so many bytes are asked for at once.
const READ_BYTES: usize = 64 << 10;

/// What the logging channel tells.
#[derive(Debug, PartialEq, Eq)]
pub enum SessionEvent {
    /// a connection was greeted
    Opened {
        /// its number
        session: u64,
        /// whether this node opened it
        dialled: bool,
    },
    /// dialling failed: the peer is not there, or not one of this VM
    DialFailed,
    /// a protocol message came
    Message {
        /// the session's number
        session: u64,
        /// the message
        bytes: Vec<u8>,
    },
    /// a frame of entries came, whole and authentic, and there is room for it
    Entries {
        /// the session's number
        session: u64,
        /// what it carries
        payload: Vec<u8>,
    },
    /// a frame of entries begins, and R6 is switched off
    #[cfg(feature = "lab")]
    EntriesBegun {
        /// the session's number
        session: u64,
        /// its header
        header: Vec<u8>,
    },
    /// the connection is over
    Closed {
        /// the session's number
        session: u64,
        /// why
        reason: String,
    },
}

/// How far a connection is.
#[derive(Debug)]
enum Stage {
    /// The kernel connects.
    Dialling,
    Greeting(Greeter),
    Open {
        encoder: Encoder,
        decoder: Decoder,
    },
}

/// One connection.
#[derive(Debug)]
struct Session {
    stream: TcpStream,
    dialled: bool,
    stage: Stage,
    /// When it is given up unless it is open.
    until: Instant,
    ready: Ready,
    incoming: Incoming,
    /// A frame of entries for which the log has no room yet. Nothing more is read, and the primary's kernel has to keep it: the primary's
    /// own log fills, and its guest waits (R26).
    held: Option<Vec<u8>>,
    outgoing: Vec<u8>,
    /// So many bytes of `outgoing` are with the kernel.
    sent: usize,
    /// Primary: the next entry to send.
    stream_from: Option<LogPosition>,
    #[cfg(feature = "lab")]
    points: Points,
}

/// What failpoints make of a connection.
#[cfg(feature = "lab")]
#[derive(Debug, Default)]
struct Points {
    /// `entry-received` holds what is to be read.
    receiving: Option<Gate>,
    received: bool,
    /// `entry-sent` holds the entries that come next.
    streaming: Option<Gate>,
    /// Position of the last entry of the frame that is on its way.
    sending: Option<LogPosition>,
    /// `entry-half-sent`: the end of a frame of which the rest is on its way, and what holds it.
    rest: Vec<u8>,
    half: Option<Gate>,
}

#[cfg(feature = "lab")]
fn is_closed(gate: &mut Option<Gate>) -> bool {
    gate.take_if(|gate| !gate.is_closed());
    gate.is_some()
}

/// The protocol's look at each frame of entries before it is sent: the header for entries `first..=through` on this
/// session, or `None` when they must not be sent (any more).
pub type Stamp<'a> = dyn FnMut(u64, LogPosition, LogPosition) -> Option<Vec<u8>> + 'a;

impl Session {
    fn new(stream: TcpStream, dialled: bool, stage: Stage, timeout: Duration) -> Session {
        Session {
            stream,
            dialled,
            stage,
            until: Instant::now() + timeout,
            ready: Ready::default(),
            incoming: Incoming::default(),
            held: None,
            outgoing: Vec::new(),
            sent: 0,
            stream_from: None,
            #[cfg(feature = "lab")]
            points: Points::default(),
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open { .. })
    }

    /// Connected: what this side says first.
    fn greet(&mut self, key: &Key) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        let keep_alive = TcpKeepalive::new().with_time(KEEP_ALIVE_IDLE).with_interval(KEEP_ALIVE_INTERVAL);
        SockRef::from(&self.stream).set_tcp_keepalive(&keep_alive.with_retries(KEEP_ALIVE_PROBES))?;
        let greeter = Greeter::new(key.clone(), random()?, self.dialled, &mut self.outgoing);
        self.stage = Stage::Greeting(greeter);
        self.until = Instant::now() + GREETING_TIMEOUT;
        Ok(())
    }

    /// What has come next, if there is anything.
    ///
    /// # Errors
    /// A sentence that says why the connection is over.
    fn next(&mut self, number: u64, key: &Key, log: &ReplayLog) -> Result<Option<SessionEvent>, String> {
        loop {
            if let Some(event) = self.take(number, key, log).map_err(|error| error.to_string())? {
                return Ok(Some(event));
            }
            if let Stage::Dialling = self.stage {
                if !self.ready.writes {
                    return Ok(None);
                }
                if let Some(error) = self.stream.take_error().map_err(over)? {
                    return Err(over(error));
                }
                match self.stream.peer_addr() {
                    Ok(_) => self.greet(key).map_err(over)?,
                    Err(error) if error.kind() == ErrorKind::NotConnected => self.ready.writes = false,
                    Err(error) => return Err(over(error)),
                }
            }
            if self.held.is_some() || !self.ready.reads {
                return Ok(None);
            }
            let missing = match &self.stage {
                Stage::Open { decoder, .. } => decoder.missing_bytes(&self.incoming),
                Stage::Dialling | Stage::Greeting(_) => 0,
            };
            match self.stream.read(self.incoming.room(missing.max(READ_BYTES))) {
                Ok(0) => return Err(over(ErrorKind::UnexpectedEof.into())),
                Ok(length) => self.incoming.came(length),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.ready.reads = false,
                Err(error) => return Err(over(error)),
            }
        }
    }

    /// Takes what was read.
    fn take(&mut self, number: u64, key: &Key, log: &ReplayLog) -> Result<Option<SessionEvent>, FrameError> {
        match &mut self.stage {
            Stage::Dialling => Ok(None),
            Stage::Greeting(greeter) => {
                let Some(greeting) = greeter.take(&mut self.incoming, &mut self.outgoing)? else { return Ok(None) };
                let encoder = Encoder::new(key.clone(), greeting.clone());
                self.stage = Stage::Open { encoder, decoder: Decoder::new(key.clone(), greeting) };
                Ok(Some(SessionEvent::Opened { session: number, dialled: self.dialled }))
            }
            Stage::Open { decoder, .. } => {
                if self.held.is_none() {
                    #[cfg(feature = "lab")]
                    if !rule!(whole_entries)
                        && let Some((header, ..)) = decoder.begins(&self.incoming).and_then(entries_fields)
                    {
                        return Ok(Some(SessionEvent::EntriesBegun { session: number, header: header.to_vec() }));
                    }
                    match decoder.next(&mut self.incoming)? {
                        None => return Ok(None),
                        Some((Kind::Control, bytes)) => {
                            return Ok(Some(SessionEvent::Message { session: number, bytes }));
                        }
                        Some((Kind::Entries, payload)) => self.held = Some(payload),
                    }
                }
                #[cfg(feature = "lab")]
                if self.is_held_at_receipt() {
                    return Ok(None);
                }
                let payload = self.held.take_if(|payload| log.has_room(payload.len()));
                #[cfg(feature = "lab")]
                if payload.is_some() {
                    self.points.received = false;
                }
                Ok(payload.map(|payload| SessionEvent::Entries { session: number, payload }))
            }
        }
    }

    #[cfg(feature = "lab")]
    fn is_held_at_receipt(&mut self) -> bool {
        if !std::mem::replace(&mut self.points.received, true) {
            let first = self.held.as_deref().and_then(entries_fields).map_or(0, |(_, first, ..)| first.0);
            self.points.receiving = failpoints::gate(Point::EntryReceived, None, first);
        }
        is_closed(&mut self.points.receiving)
    }

    /// Hands to the kernel what waits, and the log's entries as they are ready. Returns whether there is more that could be sent now.
    fn write(&mut self, number: u64, log: &SendLog, entries_max: usize, stamp: &mut Stamp<'_>) -> io::Result<bool> {
        for _ in 0..BATCHES_A_TURN {
            #[cfg(feature = "lab")]
            if is_closed(&mut self.points.half) {
                return Ok(false);
            }
            while self.sent < self.outgoing.len() {
                if !self.ready.writes {
                    return Ok(false);
                }
                match self.stream.write(&self.outgoing[self.sent..]) {
                    Ok(length) => self.sent += length,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => self.ready.writes = false,
                    Err(error) => return Err(error),
                }
            }
            self.outgoing.clear();
            self.sent = 0;
            #[cfg(feature = "lab")]
            {
                if self.goes_on_half_sent() {
                    continue;
                }
                if is_closed(&mut self.points.streaming) {
                    return Ok(false);
                }
            }
            let (Some(from), Stage::Open { encoder, .. }) = (self.stream_from, &mut self.stage) else {
                return Ok(false);
            };
            let Some(batch) = log.batch(from, entries_max, BATCH_BYTES_MAX) else { return Ok(false) };
            // Stamped when nothing is before it: what waits for the wire must not grow old with a stamp of its own.
            let Some(header) = stamp(number, batch.first, batch.last()) else {
                self.stream_from = None;
                return Ok(false);
            };
            self.stream_from = Some(batch.last().next());
            encoder.append(&mut self.outgoing, Kind::Entries, |outgoing| entries_payload(&header, &batch, outgoing));
            #[cfg(feature = "lab")]
            {
                self.points.sending = Some(batch.last());
                if failpoints::awaited(Point::EntryHalfSent) {
                    self.points.rest = self.outgoing.split_off(self.outgoing.len() - super::authentication::TAG_LENGTH);
                }
            }
        }
        Ok(true)
    }

    /// What was on its way is with the kernel. Returns whether it was all of a frame but its end, which comes next.
    #[cfg(feature = "lab")]
    fn goes_on_half_sent(&mut self) -> bool {
        if !self.points.rest.is_empty() {
            self.outgoing = std::mem::take(&mut self.points.rest);
            let number = self.points.sending.map_or(0, |position| position.0);
            self.points.half = failpoints::gate(Point::EntryHalfSent, None, number);
            return true;
        }
        if let Some(through) = self.points.sending.take() {
            self.points.streaming = failpoints::gate(Point::EntrySent, None, through.0);
        }
        false
    }

    /// Nothing can be sent any more; what the peer has said before is still read.
    fn stop_writing(&mut self) {
        self.outgoing.clear();
        (self.sent, self.stream_from) = (0, None);
        // A connection that is already gone cannot be shut down: nothing is lost.
        let _ = self.stream.shutdown(Shutdown::Both);
        self.ready.reads = true;
    }
}

fn over(error: io::Error) -> String {
    format!("the connection ended or failed: {error}")
}

/// Appends the payload of a frame of entries: u16 length of the header, the header, u64 first position, u32 count, the entries.
pub fn entries_payload(header: &[u8], batch: &Batch, outgoing: &mut Vec<u8>) {
    outgoing.extend_from_slice(&(header.len() as u16).to_le_bytes());
    outgoing.extend_from_slice(header);
    outgoing.extend_from_slice(&batch.first.0.to_le_bytes());
    outgoing.extend_from_slice(&batch.count.to_le_bytes());
    outgoing.extend_from_slice(&batch.bytes);
}

/// What a frame of entries carries.
#[derive(Debug)]
pub struct EntriesFrame {
    /// the protocol's header
    pub header: Vec<u8>,
    /// position of the first entry
    pub first: LogPosition,
    /// the entries, encoded
    pub entries: Vec<Vec<u8>>,
}

impl EntriesFrame {
    /// Reads a payload.
    ///
    /// # Errors
    /// A sentence that says where it ends too early, or what is left over.
    pub fn parse(payload: &[u8]) -> Result<EntriesFrame, String> {
        let (header, first, count, entries) =
            entries_fields(payload).ok_or("a frame of entries is shorter than its fields")?;
        Ok(EntriesFrame { header: header.to_vec(), first, entries: log_buffer::split(count, entries)? })
    }
}

fn entries_fields(payload: &[u8]) -> Option<(&[u8], LogPosition, u32, &[u8])> {
    let (length, rest) = payload.split_first_chunk::<2>()?;
    let (header, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    let (first, rest) = rest.split_first_chunk::<8>()?;
    let (count, entries) = rest.split_first_chunk::<4>()?;
    Some((header, LogPosition(u64::from_le_bytes(*first)), u32::from_le_bytes(*count), entries))
}

/// The listener and every connection of this node.
pub struct Channel {
    key: Key,
    send_log: Arc<SendLog>,
    replay_log: Arc<ReplayLog>,
    /// At most so many log entries go into one frame.
    entries_max: usize,
    registry: Registry,
    listener: TcpListener,
    /// There may be connections to accept, from this moment on.
    accept_at: Option<Instant>,
    sessions: BTreeMap<u64, Session>,
    /// Connections so far, failed ones included.
    number: u64,
    /// The connection that was looked at last.
    turn: u64,
}

impl Channel {
    /// Begins to listen.
    ///
    /// # Errors
    /// The operating system's.
    pub fn new(
        key: Key,
        (send_log, replay_log): (Arc<SendLog>, Arc<ReplayLog>),
        entries_max: usize,
        registry: Registry,
        listener: TcpListener,
    ) -> io::Result<Channel> {
        listener.set_nonblocking(true)?;
        registry.add(listener.as_fd(), Source::Listener)?;
        Ok(Channel {
            key,
            send_log,
            replay_log,
            entries_max,
            registry,
            listener,
            accept_at: None,
            sessions: BTreeMap::new(),
            number: 0,
            turn: 0,
        })
    }

    fn add(&mut self, session: Session) -> io::Result<u64> {
        self.number += 1;
        self.registry.add(session.stream.as_fd(), Source::Session(self.number))?;
        self.sessions.insert(self.number, session);
        Ok(self.number)
    }

    /// Opens a connection to the peer; `false`: that could not even be begun.
    pub fn dial(&mut self, peer: SocketAddr) -> bool {
        let begun = || {
            let socket = Socket::new(Domain::for_address(peer), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
            match socket.connect(&peer.into()) {
                Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
                _ => Ok(TcpStream::from(socket)),
            }
        };
        begun().and_then(|stream| self.add(Session::new(stream, true, Stage::Dialling, DIAL_TIMEOUT))).is_ok()
    }

    /// There may be connections to accept.
    pub fn may_accept(&mut self) {
        self.accept_at.get_or_insert_with(Instant::now);
    }

    /// Connections that came and greet now. Strangers are turned away without a word: port scanners would fill the trace.
    fn accept(&mut self) {
        for _ in 0..ACCEPTED_A_TURN {
            if self.accept_at.is_none_or(|at| at > Instant::now()) {
                return;
            }
            match self.listener.accept() {
                Ok((stream, _)) => {
                    let greetings = self.sessions.values().filter(|session| !session.dialled && !session.is_open());
                    if greetings.count() >= GREETINGS_MAX || stream.set_nonblocking(true).is_err() {
                        continue;
                    }
                    let mut session = Session::new(stream, false, Stage::Dialling, GREETING_TIMEOUT);
                    if session.greet(&self.key).is_ok() {
                        // One that cannot be watched is dropped.
                        let _ = self.add(session);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.accept_at = None,
                Err(_) => self.accept_at = Some(Instant::now() + ERROR_PAUSE),
            }
        }
    }

    /// The kernel says what a connection is ready for.
    pub fn is_ready(&mut self, session: u64, ready: Ready) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.ready.add(ready);
        }
    }

    /// What came next, on any connection: each has its turn.
    pub fn next_event(&mut self) -> Option<SessionEvent> {
        self.accept();
        for _ in 0..self.sessions.len() {
            let behind = self.sessions.range(self.turn + 1..).next().or_else(|| self.sessions.first_key_value());
            self.turn = *behind?.0;
            let session = self.sessions.get_mut(&self.turn)?;
            let reason = match session.next(self.turn, &self.key, &self.replay_log) {
                Ok(Some(event)) => return Some(event),
                Ok(None) if session.is_open() || Instant::now() < session.until => continue,
                Ok(None) => "it has not greeted in time".to_owned(),
                Err(reason) => reason,
            };
            let (is_open, dialled) = (session.is_open(), session.dialled);
            self.sessions.remove(&self.turn);
            if is_open {
                return Some(SessionEvent::Closed { session: self.turn, reason });
            }
            if dialled {
                return Some(SessionEvent::DialFailed);
            }
        }
        None
    }

    /// Sends a protocol message. A connection that takes nothing any more is given up rather than waited for.
    pub fn send(&mut self, session: u64, bytes: &[u8]) {
        let Some(session) = self.sessions.get_mut(&session) else { return };
        let Stage::Open { encoder, .. } = &mut session.stage else { return };
        #[cfg(feature = "lab")]
        if !session.points.rest.is_empty() {
            // Behind the frame that is held half sent.
            encoder.append(&mut session.points.rest, Kind::Control, |outgoing| outgoing.extend_from_slice(bytes));
            return;
        }
        encoder.append(&mut session.outgoing, Kind::Control, |outgoing| outgoing.extend_from_slice(bytes));
        if session.outgoing.len() - session.sent > OUTGOING_BYTES_MAX {
            session.stop_writing();
        }
    }

    /// Primary: streams the log from position `from`, behind what was sent before.
    pub fn stream_entries(&mut self, session: u64, from: LogPosition) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.stream_from = Some(from);
        }
    }

    /// Hands to the kernel what it takes now. Returns whether there is more that could be sent at once.
    pub fn write(&mut self, stamp: &mut Stamp<'_>) -> bool {
        let mut more = false;
        for (number, session) in &mut self.sessions {
            match session.write(*number, &self.send_log, self.entries_max, stamp) {
                Ok(left) => more |= left,
                Err(_) => session.stop_writing(),
            }
        }
        more
    }

    /// Ends a connection; `false`: there is none of that number.
    pub fn close(&mut self, session: u64) -> bool {
        let Some(session) = self.sessions.remove(&session) else { return false };
        let _ = session.stream.shutdown(Shutdown::Both);
        true
    }

    /// The node ends: the peer is told so on each connection, behind what was sent before.
    pub fn shut_down(&self) {
        for session in self.sessions.values() {
            // Not closed: with something unread that would take back what is on its way.
            let _ = session.stream.shutdown(Shutdown::Both);
        }
    }

    /// When something is due that no readiness tells of.
    pub fn deadline(&self) -> Option<Instant> {
        let unopened = self.sessions.values().filter(|session| !session.is_open()).map(|session| session.until);
        unopened.chain(self.accept_at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::MAGIC;
    use super::super::poller::Poller;
    use super::*;

    /// A node's channel, and what its thread does with it.
    struct Side {
        poller: Poller,
        channel: Channel,
        address: SocketAddr,
        send_log: Arc<SendLog>,
        replay_log: Arc<ReplayLog>,
    }

    impl Side {
        fn new(log_bytes: usize) -> Side {
            let poller = Poller::new().unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let (send_log, replay_log) = (Arc::new(SendLog::new(log_bytes)), Arc::new(ReplayLog::new(log_bytes)));
            let logs = (send_log.clone(), replay_log.clone());
            let key = Key::from_hexadecimal(&"5a".repeat(32)).unwrap();
            let channel = Channel::new(key, logs, usize::MAX, poller.registry(), listener).unwrap();
            Side { poller, channel, address, send_log, replay_log }
        }

        /// One turn of the node's loop: what came.
        fn turn(&mut self) -> Vec<SessionEvent> {
            let channel = &mut self.channel;
            let look = |source, ready| match source {
                Source::Listener => channel.may_accept(),
                Source::Session(session) => channel.is_ready(session, ready),
                Source::Wake | Source::Heartbeat(_) => {}
            };
            self.poller.wait(Duration::from_millis(1), look).unwrap();
            let events = std::iter::from_fn(|| self.channel.next_event()).collect();
            self.channel.write(&mut |_, first, through| Some(vec![first.0 as u8, through.0 as u8]));
            events
        }
    }

    /// Two nodes, and the connection between them by the number that each has for it.
    fn connected(log_bytes: usize) -> (Side, Side) {
        let (mut left, mut right) = (Side::new(log_bytes), Side::new(log_bytes));
        assert!(left.channel.dial(right.address));
        let (mut opened_here, mut opened_there) = (Vec::new(), Vec::new());
        while opened_here.is_empty() || opened_there.is_empty() {
            opened_here.extend(left.turn());
            opened_there.extend(right.turn());
        }
        assert_eq!(opened_here, [SessionEvent::Opened { session: 1, dialled: true }]);
        assert_eq!(opened_there, [SessionEvent::Opened { session: 1, dialled: false }]);
        (left, right)
    }

    /// What comes to one side while both take their turns, up to so many things.
    fn come(to: &mut Side, from: &mut Side, count: usize) -> Vec<SessionEvent> {
        let mut came = Vec::new();
        while came.len() < count {
            from.turn();
            came.extend(to.turn());
        }
        came
    }

    #[test]
    fn messages_and_entries_come_in_the_order_that_they_were_sent_in() {
        let (mut left, mut right) = connected(1 << 20);
        left.send_log.append(vec![7; 10]);
        left.send_log.flush();
        left.channel.send(1, b"welcome");
        left.channel.stream_entries(1, LogPosition(1));
        let came = come(&mut right, &mut left, 2);
        assert_eq!(came[0], SessionEvent::Message { session: 1, bytes: b"welcome".to_vec() });
        let SessionEvent::Entries { session: 1, payload } = &came[1] else { panic!("{came:?}") };
        let frame = EntriesFrame::parse(payload).unwrap();
        assert_eq!((frame.header, frame.first, frame.entries), (vec![1, 1], LogPosition(1), vec![vec![7; 10]]));
        left.channel.close(1);
        let came = come(&mut right, &mut left, 1);
        assert!(matches!(&came[..], [SessionEvent::Closed { session: 1, reason }] if reason.contains("ended")));
    }

    #[test]
    fn a_backup_without_room_leaves_the_entries_with_the_primary() {
        let (mut left, mut right) = connected(1 << 16);
        right.replay_log.store(LogPosition(1), vec![vec![0; 1 << 16]], 0);
        left.send_log.append(vec![7; 10]);
        left.send_log.flush();
        left.channel.stream_entries(1, LogPosition(1));
        left.turn();
        left.channel.send(1, b"behind them");
        for _ in 0..20 {
            left.turn();
            assert_eq!(right.turn(), [], "no room, and nothing overtakes");
        }
        right.replay_log.truncate(LogPosition(1));
        let came = come(&mut right, &mut left, 2);
        assert!(matches!(&came[..], [SessionEvent::Entries { .. }, SessionEvent::Message { .. }]), "{came:?}");
    }

    #[test]
    fn a_peer_that_takes_nothing_is_given_up() {
        let (mut left, _right) = connected(1 << 20);
        let message = vec![0; 1 << 20];
        let mut came = Vec::new();
        while came.is_empty() {
            left.channel.send(1, &message);
            came = left.turn();
        }
        assert!(matches!(&came[..], [SessionEvent::Closed { session: 1, .. }]), "{came:?}");
    }

    #[test]
    fn who_is_not_there_is_not_dialled_for_long() {
        let mut left = Side::new(1 << 20);
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(left.channel.dial(free));
        let mut came = Vec::new();
        while came.is_empty() {
            came = left.turn();
        }
        assert_eq!(came, [SessionEvent::DialFailed]);
    }

    #[test]
    fn a_stranger_that_drips_bytes_holds_no_greeting_beyond_its_deadline() {
        let mut side = Side::new(1 << 20);
        let mut stranger = TcpStream::connect(side.address).unwrap();
        stranger.set_nonblocking(true).unwrap();
        let mut greeting = MAGIC.to_vec();
        greeting.resize(39, 0);
        let (mut sent_at, mut bytes) = (Instant::now(), greeting.into_iter());
        // Each byte comes long before a wait for one byte ends; all but the last of them take thrice the deadline.
        let turned_away = loop {
            assert_eq!(side.turn(), []);
            match stranger.read(&mut [0; 64]) {
                Ok(0) => break true,
                Ok(_) => {}
                Err(error) if error.kind() != ErrorKind::WouldBlock => break true,
                Err(_) => {}
            }
            if sent_at.elapsed() >= GREETING_TIMEOUT / 13 {
                sent_at = Instant::now();
                match bytes.next() {
                    Some(byte) if stranger.write_all(&[byte]).is_ok() => {}
                    Some(_) => break true,
                    None => break false,
                }
            }
        };
        assert!(turned_away);
    }
}
