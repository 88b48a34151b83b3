//! One connection of the logging channel: its threads read and write frames, and decide nothing.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::Mutex;
use socket2::{SockRef, TcpKeepalive};

use crate::lab::failpoint;
#[cfg(feature = "lab")]
use crate::lab::rule;

use super::authentication::Key;
use super::frame::{FrameError, FrameReader, FrameWriter, Greeting, Kind};
use super::log_buffer::{self, Batch, LogBuffer};
use super::thread;

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

/// What waits for the wire, in order.
#[derive(Debug)]
enum Outgoing {
    /// a protocol message
    Message(Vec<u8>),
    /// from here on the log, from this position
    Stream(u64),
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
    pub fn stream_entries(&self, from: u64) {
        self.enqueue(Outgoing::Stream(from));
    }

    fn enqueue(&self, outgoing: Outgoing) {
        if let Err(TrySendError::Full(_)) = self.outgoing.try_send(outgoing) {
            self.close();
        }
    }

    fn stream(&self, from: u64) {
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
            next = batch.last() + 1;
            let written = writer.write(Kind::Entries, &entries_payload(&header, &batch));
            drop(writer);
            if written.is_err() {
                return self.close();
            }
            failpoint!(EntrySent, batch.last());
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
pub type Stamp = dyn Fn(u64, u64, u64) -> Option<Vec<u8>> + Send + Sync;

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
    payload.extend_from_slice(&batch.first.to_le_bytes());
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
    pub first: u64,
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

fn entries_fields(payload: &[u8]) -> Option<(&[u8], u64, u32, &[u8])> {
    let (length, rest) = payload.split_first_chunk::<2>()?;
    let (header, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    let (first, rest) = rest.split_first_chunk::<8>()?;
    let (count, entries) = rest.split_first_chunk::<4>()?;
    Some((header, u64::from_le_bytes(*first), u32::from_le_bytes(*count), entries))
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

    fn greet(&self, mut stream: TcpStream, dialled: bool) -> Result<(), FrameError> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(GREETING_TIMEOUT))?;
        stream.set_write_timeout(Some(GREETING_TIMEOUT))?;
        let greeting = Greeting::exchange(&mut stream, &self.key, thread::random()?, dialled)?;
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
        let channel = self.clone();
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
            let reason = channel.read(session.number, reader);
            session.close();
            channel.tell(SessionEvent::Closed { session: session.number, reason });
        });
        Ok(())
    }

    /// Reads until the connection is over; returns why it is.
    fn read(&self, session: u64, mut reader: FrameReader<TcpStream>) -> String {
        loop {
            match reader.read() {
                Ok((Kind::Control, bytes)) => self.tell(SessionEvent::Message { session, bytes }),
                Ok((Kind::Entries, payload)) => {
                    failpoint!(EntryReceived, entries_fields(&payload).map_or(0, |(_, first, ..)| first));
                    self.tell(SessionEvent::Entries { session, payload });
                }
                Err(error) => return error.to_string(),
            }
        }
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
