//! One connection of the logging channel: its threads read and write frames, and decide nothing.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::Mutex;

use super::authentication::Key;
use super::clock;
use super::frame::{FrameError, FrameReader, FrameWriter, Greeting, Kind};
use super::log_buffer::{self, LogBuffer};
use super::thread;

const GREETING_TIMEOUT: Duration = Duration::from_secs(2);
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Greetings under way at once; further connections are closed unread.
const GREETINGS_MAX: u64 = 8;
/// Protocol messages that wait for the wire; more of them mean that nothing gets through.
const CONTROL_QUEUE_MAX: usize = 1024;
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
    /// dialling failed
    DialFailed {
        /// why
        reason: String,
    },
    /// a protocol message came
    Message {
        /// the session's number
        session: u64,
        /// the message
        bytes: Vec<u8>,
    },
    /// entries were verified and stored; the log now reaches `through`
    Stored {
        /// the session's number
        session: u64,
        /// newest position held
        through: u64,
    },
    /// the connection is over
    Closed {
        /// the session's number
        session: u64,
        /// why
        reason: String,
    },
}

/// The handle of one connection.
#[derive(Clone, Debug)]
pub struct Session {
    number: u64,
    stream: Arc<TcpStream>,
    control: Sender<Vec<u8>>,
    writer: Arc<Mutex<FrameWriter<TcpStream>>>,
    closed: Arc<AtomicBool>,
    log: Arc<LogBuffer>,
}

impl Session {
    /// The number that both nodes call it by.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Sends a protocol message. A connection that takes nothing any more is closed rather than waited for.
    pub fn send(&self, bytes: Vec<u8>) {
        if let Err(TrySendError::Full(_)) = self.control.try_send(bytes) {
            self.close();
        }
    }

    /// Primary: starts to stream the log from position `from`.
    pub fn stream_entries(&self, from: u64) {
        let session = self.clone();
        thread::urgent("log-stream", move || session.stream(from));
    }

    fn stream(&self, from: u64) {
        let mut next = from;
        while !self.closed.load(Ordering::Acquire) {
            let closed = || self.closed.load(Ordering::Acquire);
            let Some(batch) = self.log.batch(next, BATCH_BYTES_MAX, closed) else { return };
            let mut payload = Vec::with_capacity(12 + batch.bytes.len());
            payload.extend_from_slice(&batch.first.to_le_bytes());
            payload.extend_from_slice(&batch.count.to_le_bytes());
            payload.extend_from_slice(&batch.bytes);
            next = batch.last() + 1;
            if self.writer.lock().write(Kind::Entries, &payload).is_err() {
                return self.close();
            }
        }
    }

    /// Ends the connection; the reader's thread then reports it closed.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.log.wake();
        // A connection that is already gone cannot be shut down: nothing is lost.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// What every connection of this node needs.
#[derive(Clone, Debug)]
pub struct Channel {
    /// the VM's key
    pub key: Key,
    /// where entries are stored, and streamed from
    pub log: Arc<LogBuffer>,
    /// where events go
    pub events: Sender<SessionEvent>,
    /// whether entries may be stored now (R9: a candidate takes none)
    pub accepts_entries: Arc<AtomicBool>,
}

impl Channel {
    /// Opens a connection to the peer, in a thread of its own.
    pub fn dial(&self, peer: SocketAddr) {
        let channel = self.clone();
        thread::urgent("log-dial", move || {
            let connected = TcpStream::connect_timeout(&peer, DIAL_TIMEOUT).map_err(FrameError::from);
            if let Err(error) = connected.and_then(|stream| channel.greet(stream, true)) {
                channel.tell(SessionEvent::DialFailed { reason: format!("{peer}: {error}") });
            }
        });
    }

    /// Accepts connections for as long as the process lives.
    pub fn listen(&self, listener: TcpListener) {
        let channel = self.clone();
        let greetings = Arc::new(AtomicU64::new(0));
        thread::urgent("log-listen", move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
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
        let (control, outgoing) = bounded(CONTROL_QUEUE_MAX);
        let session = Session {
            number: greeting.session(),
            writer: Arc::new(Mutex::new(FrameWriter::new(stream.try_clone()?, self.key.clone(), greeting.clone()))),
            stream: Arc::new(stream.try_clone()?),
            control,
            closed: Arc::new(AtomicBool::new(false)),
            log: self.log.clone(),
        };
        self.tell(SessionEvent::Opened { session: session.clone(), dialled });
        let writing = session.clone();
        thread::urgent("log-control", move || write_control(&writing, &outgoing));
        let channel = self.clone();
        let reader = FrameReader::new(stream, self.key.clone(), greeting);
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
                Ok((Kind::Entries, payload)) => match self.store(&payload) {
                    Ok(through) => self.tell(SessionEvent::Stored { session, through }),
                    Err(reason) => return reason,
                },
                Err(error) => return error.to_string(),
            }
        }
    }

    fn store(&self, payload: &[u8]) -> Result<u64, String> {
        if !self.accepts_entries.load(Ordering::Acquire) {
            return Err("entries came to a node that takes none now".into());
        }
        let (Some(first), Some(count)) = (payload.get(..8), payload.get(8..12)) else {
            return Err("a frame of entries is shorter than its header".into());
        };
        let (Ok(first), Ok(count)) = (first.try_into(), count.try_into()) else {
            return Err("a frame of entries is shorter than its header".into());
        };
        let (first, count) = (u64::from_le_bytes(first), u32::from_le_bytes(count));
        let entries = log_buffer::split(count, &payload[12..])?;
        self.log
            .store(first, entries, clock::boottime_nanoseconds())
            .ok_or_else(|| format!("entries from position {first} do not follow {}", self.log.newest()))
    }
}

fn write_control(session: &Session, outgoing: &Receiver<Vec<u8>>) {
    while !session.closed.load(Ordering::Acquire) {
        // Bounded, so that a closed session's thread ends.
        let Ok(bytes) = outgoing.recv_timeout(Duration::from_millis(500)) else { continue };
        if session.writer.lock().write(Kind::Control, &bytes).is_err() {
            return session.close();
        }
    }
}
