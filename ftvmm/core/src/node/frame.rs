//! Frames of the logging channel: length-prefixed, numbered, and authenticated for one connection and one direction.
//!
//! A connection begins with a greeting in both directions: 8 bytes magic and 16 random bytes, then a tag over both
//! sides' random bytes. Every later tag covers them too, so no frame of another connection, of the other direction or
//! of another place in the stream passes. On the wire: u32 length of what follows, u8 kind, payload, 16-byte tag.

use std::io::{Read, Write};

use thiserror::Error;

#[cfg(feature = "lab")]
use crate::lab::failpoint;

use super::authentication::{Key, Purpose, TAG_LENGTH};
#[cfg(feature = "lab")]
use super::failpoints::{self, Point};

/// The first bytes of a connection; the digit is the version of the format.
pub const MAGIC: [u8; 8] = *b"FTVMLOG4";
/// Largest payload, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 8 << 20;
const NONCE_BYTES: usize = 16;
const PLACE_BYTES: usize = 2 * NONCE_BYTES + 1 + 8;

/// Why a connection cannot go on.
#[derive(Debug, Error)]
pub enum FrameError {
    /// the connection ended or failed: {0}
    #[error("the connection ended or failed: {0}")]
    Io(#[from] std::io::Error),
    /// the greeting is not that of a logging channel
    #[error("the greeting is not that of a logging channel")]
    Greeting,
    /// the peer does not hold this VM's key
    #[error("the peer does not hold this VM's key")]
    Stranger,
    /// frame {number} at byte {offset} of the stream has a length of {length}
    #[error("frame {number} at byte {offset} of the stream has a length of {length} bytes")]
    Length {
        /// frames before it
        number: u64,
        /// bytes before it
        offset: u64,
        /// what the length field says
        length: usize,
    },
    /// frame {number} at byte {offset} of the stream is corrupted
    #[error("frame {number} at byte {offset} of the stream is corrupted")]
    Corrupted {
        /// frames before it
        number: u64,
        /// bytes before it
        offset: u64,
    },
    /// frame {number} is of the unknown kind {kind}
    #[error("frame {number} is of the unknown kind {kind}")]
    Kind {
        /// frames before it
        number: u64,
        /// its kind
        kind: u8,
    },
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// a message of the protocol
    Control = 1,
    /// a batch of log entries
    Entries = 2,
}

/// The connection that two greetings agreed on.
#[derive(Clone, Debug)]
pub struct Greeting {
    nonces: [u8; 2 * NONCE_BYTES],
    dialled: bool,
}

impl Greeting {
    /// Greets the peer on a fresh connection.
    ///
    /// # Arguments
    /// `random` is this side's 16 random bytes; `dialled` says whether this side opened the connection.
    ///
    /// # Errors
    /// [`FrameError`] when the peer is no logging channel, or not one of this VM.
    pub fn exchange(
        stream: &mut (impl Read + Write),
        key: &Key,
        random: [u8; NONCE_BYTES],
        dialled: bool,
    ) -> Result<Greeting, FrameError> {
        stream.write_all(&[&MAGIC[..], &random].concat())?;
        let mut theirs = [0u8; MAGIC.len() + NONCE_BYTES];
        stream.read_exact(&mut theirs)?;
        if theirs[..MAGIC.len()] != MAGIC {
            return Err(FrameError::Greeting);
        }
        let (dialler, listener) = if dialled { (&random[..], &theirs[8..]) } else { (&theirs[8..], &random[..]) };
        let mut nonces = [0u8; 2 * NONCE_BYTES];
        nonces[..NONCE_BYTES].copy_from_slice(dialler);
        nonces[NONCE_BYTES..].copy_from_slice(listener);
        let greeting = Greeting { nonces, dialled };
        stream.write_all(&key.tag(Purpose::LogFrame, &[&nonces, &[u8::from(dialled)]]))?;
        let mut tag = [0u8; TAG_LENGTH];
        stream.read_exact(&mut tag)?;
        if !key.verify(Purpose::LogFrame, &[&nonces, &[u8::from(!dialled)]], &tag) {
            return Err(FrameError::Stranger);
        }
        Ok(greeting)
    }

    /// What stands before the kind and payload of a frame in its tag: which connection, who speaks, which frame.
    fn place(&self, from_dialler: bool, number: u64) -> [u8; PLACE_BYTES] {
        let mut place = [0; PLACE_BYTES];
        place[..2 * NONCE_BYTES].copy_from_slice(&self.nonces);
        place[2 * NONCE_BYTES] = u8::from(from_dialler) + 2;
        place[2 * NONCE_BYTES + 1..].copy_from_slice(&number.to_le_bytes());
        place
    }
}

/// Writes frames.
#[derive(Debug)]
pub struct FrameWriter<W> {
    stream: W,
    key: Key,
    greeting: Greeting,
    number: u64,
}

impl<W: Write> FrameWriter<W> {
    /// A writer behind a greeting.
    pub fn new(stream: W, key: Key, greeting: Greeting) -> FrameWriter<W> {
        FrameWriter { stream, key, greeting, number: 0 }
    }

    /// Writes one frame with one write(2) where the system takes it whole.
    ///
    /// # Errors
    /// The operating system's.
    pub fn write(&mut self, kind: Kind, payload: &[u8]) -> std::io::Result<()> {
        let place = self.greeting.place(self.greeting.dialled, self.number);
        let tag = self.key.tag(Purpose::LogFrame, &[&place, &[kind as u8], payload]);
        let mut frame = Vec::with_capacity(5 + payload.len() + TAG_LENGTH);
        frame.extend_from_slice(&((1 + payload.len() + TAG_LENGTH) as u32).to_le_bytes());
        frame.push(kind as u8);
        frame.extend_from_slice(payload);
        frame.extend_from_slice(&tag);
        self.number += 1;
        #[cfg(feature = "lab")]
        if kind == Kind::Entries && failpoints::awaited(Point::EntryHalfSent) {
            let rest = frame.split_off(frame.len() - TAG_LENGTH);
            self.stream.write_all(&frame)?;
            failpoint!(EntryHalfSent, self.number);
            return self.stream.write_all(&rest);
        }
        self.stream.write_all(&frame)
    }
}

/// Reads frames.
pub struct FrameReader<R> {
    stream: R,
    key: Key,
    greeting: Greeting,
    number: u64,
    offset: u64,
    /// Told the first bytes of each frame of entries, unverified and before the rest has come: R6 switched off.
    #[cfg(feature = "lab")]
    pub begins: Option<Box<Begins>>,
}

/// Takes the first bytes of a payload.
#[cfg(feature = "lab")]
pub type Begins = dyn Fn(&[u8]) + Send;

impl<R: Read> FrameReader<R> {
    /// A reader behind a greeting.
    pub fn new(stream: R, key: Key, greeting: Greeting) -> FrameReader<R> {
        FrameReader {
            stream,
            key,
            greeting,
            number: 0,
            offset: 0,
            #[cfg(feature = "lab")]
            begins: None,
        }
    }

    /// Reads the next frame.
    ///
    /// # Errors
    /// [`FrameError`]: the connection must be closed, for the place of the next frame is not known any more.
    pub fn read(&mut self) -> Result<(Kind, Vec<u8>), FrameError> {
        let mut length = [0u8; 4];
        self.stream.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        let (number, offset) = (self.number, self.offset);
        if length <= TAG_LENGTH || length > 1 + PAYLOAD_BYTES_MAX + TAG_LENGTH {
            return Err(FrameError::Length { number, offset, length });
        }
        let mut frame = vec![0u8; length];
        #[cfg(not(feature = "lab"))]
        self.stream.read_exact(&mut frame)?;
        #[cfg(feature = "lab")]
        {
            // Enough for the header and the fields behind it, which every frame of entries has.
            let (begun, rest) = frame.split_at_mut(length.min(128));
            self.stream.read_exact(begun)?;
            if let Some(begins) = self.begins.as_ref().filter(|_| begun[0] == Kind::Entries as u8) {
                begins(&begun[1..]);
            }
            self.stream.read_exact(rest)?;
        }
        self.number += 1;
        self.offset += 4 + length as u64;
        let tag = frame.split_off(length - TAG_LENGTH);
        let kind = frame[0];
        let payload = frame.split_off(1);
        let place = self.greeting.place(!self.greeting.dialled, number);
        if !self.key.verify(Purpose::LogFrame, &[&place, &[kind], &payload], &tag) {
            return Err(FrameError::Corrupted { number, offset });
        }
        match kind {
            1 => Ok((Kind::Control, payload)),
            2 => Ok((Kind::Entries, payload)),
            _ => Err(FrameError::Kind { number, kind }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn key(byte: &str) -> Key {
        Key::from_hexadecimal(&byte.repeat(32)).unwrap()
    }

    fn greeted() -> (Greeting, Greeting) {
        let (mut left, mut right) = UnixStream::pair().unwrap();
        let other = std::thread::spawn(move || Greeting::exchange(&mut right, &key("aa"), [2; 16], false).unwrap());
        let ours = Greeting::exchange(&mut left, &key("aa"), [1; 16], true).unwrap();
        (ours, other.join().unwrap())
    }

    fn wire(greeting: &Greeting) -> Vec<u8> {
        let mut writer = FrameWriter::new(Vec::new(), key("aa"), greeting.clone());
        writer.write(Kind::Control, b"one").unwrap();
        writer.write(Kind::Entries, b"two").unwrap();
        writer.stream
    }

    #[test]
    fn frames_arrive_as_they_were_sent() {
        let (dialler, listener) = greeted();
        let bytes = wire(&dialler);
        let mut reader = FrameReader::new(&bytes[..], key("aa"), listener);
        assert_eq!(reader.read().unwrap(), (Kind::Control, b"one".to_vec()));
        assert_eq!(reader.read().unwrap(), (Kind::Entries, b"two".to_vec()));
        assert!(matches!(reader.read(), Err(FrameError::Io(_))));
    }

    #[test]
    fn no_flipped_bit_passes() {
        let (dialler, listener) = greeted();
        let bytes = wire(&dialler);
        for bit in 0..bytes.len() * 8 {
            let mut broken = bytes.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            let mut reader = FrameReader::new(&broken[..], key("aa"), listener.clone());
            let outcome = reader.read().and_then(|_| reader.read());
            assert!(outcome.is_err(), "bit {bit} passed");
        }
    }

    #[test]
    fn a_frame_of_another_connection_or_direction_is_refused() {
        let (dialler, listener) = greeted();
        let bytes = wire(&listener);
        let mut reader = FrameReader::new(&bytes[..], key("aa"), listener.clone());
        assert!(matches!(reader.read(), Err(FrameError::Corrupted { number: 0, offset: 0 })), "an echo");
        let bytes = wire(&dialler);
        let second = &bytes[bytes.len() / 2..];
        let mut reader = FrameReader::new(second, key("aa"), listener);
        assert!(matches!(reader.read(), Err(FrameError::Corrupted { .. })), "out of its place");
    }

    #[test]
    fn a_stranger_is_turned_away() {
        let (mut left, mut right) = UnixStream::pair().unwrap();
        let other = std::thread::spawn(move || Greeting::exchange(&mut right, &key("bb"), [2; 16], false));
        assert!(matches!(Greeting::exchange(&mut left, &key("aa"), [1; 16], true), Err(FrameError::Stranger)));
        assert!(matches!(other.join().unwrap(), Err(FrameError::Stranger)));
        let (mut left, mut right) = UnixStream::pair().unwrap();
        right.write_all(b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n").unwrap();
        assert!(matches!(Greeting::exchange(&mut left, &key("aa"), [1; 16], false), Err(FrameError::Greeting)));
    }
}
