//! One connection of the logging channel: read and written without waiting by the node's thread, which alone decides.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
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
use super::poller::Ready;
use super::transfer;

/// A greeting is over by then, however the peer spreads its bytes: without the key nobody keeps the peer from being heard for longer.
pub const GREETING_TIMEOUT: Duration = Duration::from_secs(2);
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// When the kernel begins to ask whether a connection without a byte is still there, how long it waits for an answer, and
/// how often it asks: without this the connections that a host left behind when it lost power would add up. A silent
/// peer whose host answers is the failure detector's affair: the acknowledgements of a live one may come another way.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_PROBES: u32 = 3;
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
    /// the first frame of a guest's state came: what comes behind it is for another thread
    Transfer {
        /// the session's number
        session: u64,
        /// the protocol's header
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
pub struct Session {
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
    /// `entry-received` holds the frame of entries that came, and what is behind it.
    receiving: Option<Gate>,
    /// That frame has passed the point.
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
    fn new(stream: TcpStream, dialled: bool) -> Session {
        Session {
            stream,
            dialled,
            stage: Stage::Dialling,
            until: Instant::now() + DIAL_TIMEOUT,
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

    /// Begins to connect to the peer.
    ///
    /// # Errors
    /// The operating system's.
    pub fn dial(peer: SocketAddr) -> io::Result<Session> {
        let socket = Socket::new(Domain::for_address(peer), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        match socket.connect(&peer.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(Session::new(TcpStream::from(socket), true)),
        }
    }

    /// Begins to greet whoever has connected.
    ///
    /// # Errors
    /// The operating system's.
    pub fn accept(stream: TcpStream, key: &Key) -> io::Result<Session> {
        stream.set_nonblocking(true)?;
        let mut session = Session::new(stream, false);
        session.greet(key)?;
        Ok(session)
    }

    /// Whether this node opened it.
    pub fn is_dialled(&self) -> bool {
        self.dialled
    }

    /// Whether it was greeted.
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open { .. })
    }

    /// When it is given up; `None`: it is open.
    pub fn until(&self) -> Option<Instant> {
        (!self.is_open()).then_some(self.until)
    }

    /// The kernel says what it is ready for.
    pub fn is_ready(&mut self, ready: Ready) {
        self.ready.add(ready);
    }

    /// Sends a protocol message. A connection that takes nothing any more is given up rather than waited for.
    pub fn send(&mut self, bytes: &[u8]) {
        let Stage::Open { encoder, .. } = &mut self.stage else { return };
        #[cfg(feature = "lab")]
        if !self.points.rest.is_empty() {
            // Behind the frame that is held half sent.
            encoder.append(&mut self.points.rest, Kind::Control, |outgoing| outgoing.extend_from_slice(bytes));
            return;
        }
        encoder.append(&mut self.outgoing, Kind::Control, |outgoing| outgoing.extend_from_slice(bytes));
        if self.outgoing.len() - self.sent > OUTGOING_BYTES_MAX {
            self.stop_writing();
        }
    }

    /// Primary: streams the log from position `from`, behind what was sent before.
    pub fn stream_entries(&mut self, from: LogPosition) {
        self.stream_from = Some(from);
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
    pub fn next(&mut self, number: u64, key: &Key, log: &ReplayLog) -> Result<Option<SessionEvent>, String> {
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
                        Some((Kind::Transfer, payload)) => {
                            // What is no header is nobody's.
                            let header = payload.strip_prefix(&[transfer::HEADER]).unwrap_or_default().to_vec();
                            return Ok(Some(SessionEvent::Transfer { session: number, header }));
                        }
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
    ///
    /// # Errors
    /// The operating system's: nothing can be sent any more.
    pub fn write(&mut self, number: u64, log: &SendLog, entries_max: usize, stamp: &mut Stamp<'_>) -> io::Result<bool> {
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
    pub fn stop_writing(&mut self) {
        self.outgoing.clear();
        (self.sent, self.stream_from) = (0, None);
        self.shut_down();
        self.ready.reads = true;
    }

    /// What comes on it from now on, for another thread; `None`: it was not greeted.
    pub fn into_frames(self) -> Option<Frames> {
        let Stage::Open { decoder, .. } = self.stage else { return None };
        Some(Frames { stream: self.stream, incoming: self.incoming, decoder })
    }

    /// Tells the peer that this is the end, behind what was sent before.
    pub fn shut_down(&self) {
        // A connection that is already gone cannot be shut down: nothing is lost.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// The frames of a guest's state, for a thread that may wait for them.
#[derive(Debug)]
pub struct Frames {
    stream: TcpStream,
    incoming: Incoming,
    decoder: Decoder,
}

impl Frames {
    /// By which another thread ends the connection.
    ///
    /// # Errors
    /// The operating system's.
    pub fn handle(&self) -> io::Result<TcpStream> {
        self.stream.try_clone()
    }

    /// Waits from now on for what has not come, for at most so long at a time.
    ///
    /// # Errors
    /// The operating system's.
    pub fn block(&self, silence_max: Duration) -> io::Result<()> {
        self.stream.set_nonblocking(false)?;
        self.stream.set_read_timeout(Some(silence_max))
    }

    /// The next frame's payload.
    ///
    /// # Errors
    /// A sentence that says why there is none.
    pub fn receive(&mut self) -> Result<Vec<u8>, String> {
        loop {
            match self.decoder.next(&mut self.incoming).map_err(|error| error.to_string())? {
                Some((Kind::Transfer, payload)) => return Ok(payload),
                Some((Kind::Control | Kind::Entries, _)) => return Err("a guest's state is mixed with messages".into()),
                None => {}
            }
            let missing = self.decoder.missing_bytes(&self.incoming).max(READ_BYTES);
            match self.stream.read(self.incoming.room(missing)) {
                Ok(0) => return Err("the connection for the guest's state ended".into()),
                Ok(length) => self.incoming.came(length),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("the guest's state does not come: {error}")),
            }
        }
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
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
