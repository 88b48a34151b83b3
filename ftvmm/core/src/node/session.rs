//! One connection of the logging channel: its threads read and write frames, and decide nothing.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use socket2::{SockRef, TcpKeepalive};

use crate::devices::random;
use crate::lab::failpoint;
#[cfg(feature = "lab")]
use crate::lab::rule;
use crate::lock::Mutex;
use crate::protocol::LogPosition;

use super::authentication::Key;
use super::frame::{FrameError, FrameReader, FrameWriter, Greeting, Kind};
use super::log_buffer::{self, Batch, LogBuffer, Room};
use super::thread;

/// A greeting is over by then, however the peer spreads its bytes: without the key nobody keeps the peer from being heard for longer.
const GREETING_TIMEOUT: Duration = Duration::from_secs(2);
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// When the kernel begins to ask whether a connection without a byte is still there, how long it waits for an answer, and
/// how often it asks: without this the connections that a host left behind when it lost power would add up. A silent
/// peer whose host answers is the failure detector's affair: the acknowledgements of a live one may come another way.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_PROBES: u32 = 3;
/// Pause behind a failed accept.
const ERROR_PAUSE: Duration = Duration::from_millis(20);
/// Greetings under way at once; further connections are closed unread.
const GREETINGS_MAX: u64 = 8;
/// Protocol messages that wait for the wire; more of them mean that nothing gets through.
const OUTGOING_MAX: usize = 1024;
const BATCH_BYTES_MAX: usize = 256 << 10;

/// What the threads of the logging channel tell the protocol's thread.
#[derive(Debug)]
pub enum SessionEvent {
    /// a connection was greeted
    Opened {
        /// its handle
        session: Session,
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
    /// a frame of entries came, whole and authentic
    Entries {
        /// the session's number
        session: u64,
        /// what it carries
        payload: Vec<u8>,
        /// what it takes up until it is stored
        room: Room,
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

/// A connection on which nothing is waited for beyond a moment.
struct Hurried<'a> {
    stream: &'a TcpStream,
    until: Instant,
}

impl Hurried<'_> {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Hurried<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Hurried<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// What waits for the wire, in order.
#[derive(Debug)]
enum Outgoing {
    /// a protocol message
    Message(Vec<u8>),
    /// from here on the log, from this position
    Stream(LogPosition),
}

/// The handle of one connection.
#[derive(Clone)]
pub struct Session {
    number: u64,
    stream: Arc<TcpStream>,
    outgoing: Sender<Outgoing>,
    writer: Arc<Mutex<FrameWriter<TcpStream>>>,
    closed: Arc<AtomicBool>,
    channel: Channel,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Session({})", self.number)
    }
}

impl Session {
    /// This node's number for it, never used twice.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Sends a protocol message. A connection that takes nothing any more is closed rather than waited for.
    pub fn send(&self, bytes: Vec<u8>) {
        self.enqueue(Outgoing::Message(bytes));
    }

    /// Primary: streams the log from position `from`, behind what was sent before.
    pub fn stream_entries(&self, from: LogPosition) {
        self.enqueue(Outgoing::Stream(from));
    }

    fn enqueue(&self, outgoing: Outgoing) {
        if let Err(TrySendError::Full(_)) = self.outgoing.try_send(outgoing) {
            self.close();
        }
    }

    fn stream(&self, from: LogPosition) {
        let mut next = from;
        let closed = || self.closed.load(Ordering::Acquire);
        while !closed() {
            let Some(batch) = self.channel.log.batch(next, self.channel.entries_per_message, BATCH_BYTES_MAX, closed)
            else {
                return;
            };
            let mut writer = self.writer.lock();
            // Stamped under the writer's lock: no later stamp may overtake this one on the wire.
            let Some(header) = (self.channel.stamp)(self.number, batch.first, batch.last()) else { return };
            next = batch.last().next();
            let written = writer.write(Kind::Entries, &entries_payload(&header, &batch));
            drop(writer);
            if written.is_err() {
                return self.close();
            }
            failpoint!(EntrySent, batch.last().0);
        }
    }

    /// Reads until the connection is over; returns why it is. While the log has no room for what came, nothing more is read, and
    /// the primary's kernel has to keep it: the primary's own log fills, and its guest waits (R26).
    fn read(&self, mut reader: FrameReader<TcpStream>) -> String {
        let (channel, session) = (&self.channel, self.number);
        loop {
            match reader.read() {
                Ok((Kind::Control, bytes)) => channel.tell(SessionEvent::Message { session, bytes }),
                Ok((Kind::Entries, payload)) => {
                    failpoint!(EntryReceived, entries_fields(&payload).map_or(0, |(_, first, ..)| first.0));
                    let Some(room) = channel.log.room(payload.len(), || self.closed.load(Ordering::Acquire)) else {
                        return "closed here".to_owned();
                    };
                    channel.tell(SessionEvent::Entries { session, payload, room });
                }
                Err(error) => return error.to_string(),
            }
        }
    }

    /// Ends the connection; the reader's thread then reports it closed.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.channel.log.wake();
        // A connection that is already gone cannot be shut down: nothing is lost.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// The protocol's look at each frame of entries before it is sent: the header for entries `first..=through` on this
/// session, or `None` when they must not be sent (any more).
pub type Stamp = dyn Fn(u64, LogPosition, LogPosition) -> Option<Vec<u8>> + Send + Sync;

/// What every connection of this node needs.
#[derive(Clone)]
pub struct Channel {
    /// the VM's key
    pub key: Key,
    /// where entries are stored, and streamed from
    pub log: Arc<LogBuffer>,
    /// where events go
    pub events: Sender<SessionEvent>,
    /// the protocol's look
    pub stamp: Arc<Stamp>,
    /// at most so many log entries go into one frame
    pub entries_per_message: usize,
    /// connections so far, failed ones included
    pub numbers: Arc<AtomicU64>,
}

/// The payload of a frame of entries: u16 length of the header, the header, u64 first position, u32 count, the entries.
pub fn entries_payload(header: &[u8], batch: &Batch) -> Vec<u8> {
    let mut payload = Vec::with_capacity(14 + header.len() + batch.bytes.len());
    payload.extend_from_slice(&(header.len() as u16).to_le_bytes());
    payload.extend_from_slice(header);
    payload.extend_from_slice(&batch.first.0.to_le_bytes());
    payload.extend_from_slice(&batch.count.to_le_bytes());
    payload.extend_from_slice(&batch.bytes);
    payload
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

impl Channel {
    /// Opens a connection to the peer, in a thread of its own.
    pub fn dial(&self, peer: SocketAddr) {
        let channel = self.clone();
        thread::urgent("log-dial", move || {
            let connected = TcpStream::connect_timeout(&peer, DIAL_TIMEOUT).map_err(FrameError::from);
            if connected.and_then(|stream| channel.greet(stream, true)).is_err() {
                channel.tell(SessionEvent::DialFailed);
            }
        });
    }

    /// Accepts connections for as long as the process lives.
    pub fn listen(&self, listener: TcpListener) {
        let channel = self.clone();
        let greetings = Arc::new(AtomicU64::new(0));
        thread::urgent("log-listen", move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else {
                    // No descriptors left, for instance: a real-time thread must not spin over it.
                    std::thread::sleep(ERROR_PAUSE);
                    continue;
                };
                if greetings.fetch_add(1, Ordering::AcqRel) >= GREETINGS_MAX {
                    greetings.fetch_sub(1, Ordering::AcqRel);
                    continue;
                }
                let (channel, greetings) = (channel.clone(), greetings.clone());
                thread::urgent("log-greet", move || {
                    // Strangers are turned away without a word: port scanners would fill the trace.
                    let _ = channel.greet(stream, false);
                    greetings.fetch_sub(1, Ordering::AcqRel);
                });
            }
        });
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::AcqRel) + 1
    }

    fn tell(&self, event: SessionEvent) {
        // The receiver lives as long as the process; when it is gone, so is everyone who could care.
        let _ = self.events.send(event);
    }

    fn greet(&self, stream: TcpStream, dialled: bool) -> Result<(), FrameError> {
        stream.set_nodelay(true)?;
        let mut hurried = Hurried { stream: &stream, until: Instant::now() + GREETING_TIMEOUT };
        let greeting = Greeting::exchange(&mut hurried, &self.key, random()?, dialled)?;
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(None)?;
        SockRef::from(&stream).set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(KEEP_ALIVE_IDLE)
                .with_interval(KEEP_ALIVE_INTERVAL)
                .with_retries(KEEP_ALIVE_PROBES),
        )?;
        let (sender, outgoing) = bounded(OUTGOING_MAX);
        let session = Session {
            number: self.number(),
            writer: Arc::new(Mutex::new(FrameWriter::new(stream.try_clone()?, self.key.clone(), greeting.clone()))),
            stream: Arc::new(stream.try_clone()?),
            outgoing: sender,
            closed: Arc::new(AtomicBool::new(false)),
            channel: self.clone(),
        };
        self.tell(SessionEvent::Opened { session: session.clone(), dialled });
        let writing = session.clone();
        thread::urgent("log-write", move || write_outgoing(&writing, &outgoing));
        #[cfg_attr(not(feature = "lab"), expect(unused_mut, reason = "the lab's build alters it"))]
        let mut reader = FrameReader::new(stream, self.key.clone(), greeting);
        #[cfg(feature = "lab")]
        if !rule!(whole_entries) {
            let (channel, session) = (self.clone(), session.number);
            reader.begins = Some(Box::new(move |begun| {
                if let Some((header, ..)) = entries_fields(begun) {
                    channel.tell(SessionEvent::EntriesBegun { session, header: header.to_vec() });
                }
            }));
        }
        thread::urgent("log-read", move || {
            let reason = session.read(reader);
            session.close();
            session.channel.tell(SessionEvent::Closed { session: session.number, reason });
        });
        Ok(())
    }
}

fn write_outgoing(session: &Session, outgoing: &Receiver<Outgoing>) {
    while !session.closed.load(Ordering::Acquire) {
        // Bounded, so that a closed session's thread ends.
        match outgoing.recv_timeout(Duration::from_millis(500)) {
            Ok(Outgoing::Message(bytes)) => {
                if session.writer.lock().write(Kind::Control, &bytes).is_err() {
                    return session.close();
                }
            }
            Ok(Outgoing::Stream(from)) => {
                let session = session.clone();
                thread::urgent("log-stream", move || session.stream(from));
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use crossbeam_channel::unbounded;

    use super::*;
    use crate::node::frame::MAGIC;

    /// Where a channel listens that takes anything with the key.
    fn listening() -> SocketAddr {
        let (events, _) = unbounded();
        let channel = Channel {
            key: Key::from_hexadecimal(&"5a".repeat(32)).unwrap(),
            log: Arc::new(LogBuffer::new(1 << 20)),
            events,
            stamp: Arc::new(|_, _, _| None),
            entries_per_message: usize::MAX,
            numbers: Arc::new(AtomicU64::new(0)),
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        channel.listen(listener);
        address
    }

    /// Whether the other end closes the connection within this time.
    fn is_closed_within(stream: &mut TcpStream, time: Duration) -> bool {
        stream.set_read_timeout(Some(time)).unwrap();
        loop {
            match stream.read(&mut [0; 64]) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            }
        }
    }

    #[test]
    fn a_stranger_that_drips_bytes_holds_no_greeting_beyond_its_deadline() {
        let mut stranger = TcpStream::connect(listening()).unwrap();
        let mut greeting = MAGIC.to_vec();
        greeting.resize(39, 0);
        // Each byte comes long before a wait for one byte ends; all but the last of them take thrice the deadline.
        let turned_away = greeting.iter().any(|byte| {
            stranger.write_all(&[*byte]).is_err() || is_closed_within(&mut stranger, GREETING_TIMEOUT / 13)
        });
        assert!(turned_away);
    }
}
