//! Frames of the logging channel: length-prefixed, numbered, and authenticated for one connection and one direction.
//!
//! A connection begins with a greeting in both directions: 8 bytes magic and 16 random bytes, then a tag over both
//! sides' random bytes. Every later tag covers them too, so no frame of another connection, of the other direction or
//! of another place in the stream passes. On the wire: u32 length of what follows, u8 kind, payload, 16-byte tag.

use thiserror::Error;

use super::authentication::{Key, Purpose, TAG_LENGTH};

/// The first bytes of a connection; the digit is the version of the format.
pub const MAGIC: [u8; 8] = *b"FTVMLOG6";
/// Largest payload, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 8 << 20;
const NONCE_BYTES: usize = 16;
const PLACE_BYTES: usize = 2 * NONCE_BYTES + 1 + 8;

/// Why a connection cannot go on.
#[derive(Debug, Error)]
pub enum FrameError {
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
    /// a part of a guest's state on its way to a joiner (`transfer`)
    Transfer = 3,
}

/// Bytes that came on a connection and are not taken yet.
#[derive(Debug, Default)]
pub struct Incoming {
    bytes: Vec<u8>,
    /// Where what is not taken begins and ends.
    begin: usize,
    end: usize,
}

impl Incoming {
    /// What is not taken yet.
    pub fn waiting(&self) -> &[u8] {
        &self.bytes[self.begin..self.end]
    }

    /// Room for at least `length` bytes behind what waits; [`Incoming::came`] tells how many of them there are then.
    pub fn room(&mut self, length: usize) -> &mut [u8] {
        if self.begin == self.end {
            (self.begin, self.end) = (0, 0);
        }
        if self.bytes.len() - self.end < length && self.begin > 0 {
            self.bytes.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
        }
        if self.bytes.len() - self.end < length {
            self.bytes.resize(self.end + length, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// So many bytes have come into the room.
    pub fn came(&mut self, length: usize) {
        self.end += length;
    }

    /// The next `length` bytes; `None` until all of them are there.
    fn take(&mut self, length: usize) -> Option<&[u8]> {
        let taken = self.bytes.get(self.begin..self.end)?.get(..length)?;
        self.begin += length;
        Some(taken)
    }
}

/// The connection that two greetings agreed on.
#[derive(Clone, Debug)]
pub struct Greeting {
    nonces: [u8; 2 * NONCE_BYTES],
    dialled: bool,
}

impl Greeting {
    /// What stands before the kind and payload of a frame in its tag: which connection, who speaks, which frame.
    fn place(&self, from_dialler: bool, number: u64) -> [u8; PLACE_BYTES] {
        let mut place = [0; PLACE_BYTES];
        place[..2 * NONCE_BYTES].copy_from_slice(&self.nonces);
        place[2 * NONCE_BYTES] = u8::from(from_dialler) + 2;
        place[2 * NONCE_BYTES + 1..].copy_from_slice(&number.to_le_bytes());
        place
    }
}

/// Greets the peer on a fresh connection.
#[derive(Debug)]
pub struct Greeter {
    key: Key,
    random: [u8; NONCE_BYTES],
    dialled: bool,
    /// Once the peer has told its random bytes.
    agreed: Option<Greeting>,
}

impl Greeter {
    /// Begins with what this side says first, which is appended to `outgoing`.
    ///
    /// # Arguments
    /// `random` is this side's 16 random bytes; `dialled` says whether this side opened the connection.
    pub fn new(key: Key, random: [u8; NONCE_BYTES], dialled: bool, outgoing: &mut Vec<u8>) -> Greeter {
        outgoing.extend_from_slice(&MAGIC);
        outgoing.extend_from_slice(&random);
        Greeter { key, random, dialled, agreed: None }
    }

    /// Takes what came, and appends what this side says next to `outgoing`. `None` until the peer has said all of its greeting.
    ///
    /// # Errors
    /// [`FrameError`] when the peer is no logging channel, or not one of this VM.
    pub fn take(&mut self, incoming: &mut Incoming, outgoing: &mut Vec<u8>) -> Result<Option<Greeting>, FrameError> {
        if self.agreed.is_none() {
            let Some(theirs) = incoming.take(MAGIC.len() + NONCE_BYTES) else { return Ok(None) };
            let (magic, theirs) = theirs.split_at(MAGIC.len());
            if magic != MAGIC {
                return Err(FrameError::Greeting);
            }
            let (dialler, listener) =
                if self.dialled { (&self.random[..], theirs) } else { (theirs, &self.random[..]) };
            let mut nonces = [0u8; 2 * NONCE_BYTES];
            nonces[..NONCE_BYTES].copy_from_slice(dialler);
            nonces[NONCE_BYTES..].copy_from_slice(listener);
            outgoing.extend_from_slice(&self.key.tag(Purpose::LogFrame, &[&nonces, &[u8::from(self.dialled)]]));
            self.agreed = Some(Greeting { nonces, dialled: self.dialled });
        }
        let Some(greeting) = &self.agreed else { return Ok(None) };
        let Some(tag) = incoming.take(TAG_LENGTH) else { return Ok(None) };
        if !self.key.verify(Purpose::LogFrame, &[&greeting.nonces, &[u8::from(!self.dialled)]], tag) {
            return Err(FrameError::Stranger);
        }
        Ok(self.agreed.take())
    }
}

/// Makes the frames of one connection.
#[derive(Debug)]
pub struct Encoder {
    key: Key,
    greeting: Greeting,
    number: u64,
}

impl Encoder {
    /// Begins behind a greeting.
    pub fn new(key: Key, greeting: Greeting) -> Encoder {
        Encoder { key, greeting, number: 0 }
    }

    /// Appends the next frame to `outgoing`; `payload` appends what it carries.
    pub fn append(&mut self, outgoing: &mut Vec<u8>, kind: Kind, payload: impl FnOnce(&mut Vec<u8>)) {
        let begin = outgoing.len();
        outgoing.extend_from_slice(&[0, 0, 0, 0, kind as u8]);
        payload(outgoing);
        let length = (outgoing.len() - begin - 4 + TAG_LENGTH) as u32;
        outgoing[begin..begin + 4].copy_from_slice(&length.to_le_bytes());
        let place = self.greeting.place(self.greeting.dialled, self.number);
        let tag = self.key.tag(Purpose::LogFrame, &[&place, &outgoing[begin + 4..]]);
        outgoing.extend_from_slice(&tag);
        self.number += 1;
    }
}

/// Reads the frames of one connection.
#[derive(Debug)]
pub struct Decoder {
    key: Key,
    greeting: Greeting,
    number: u64,
    offset: u64,
    /// Frames whose first bytes were shown.
    #[cfg(feature = "lab")]
    begun: u64,
}

impl Decoder {
    /// Begins behind a greeting.
    pub fn new(key: Key, greeting: Greeting) -> Decoder {
        Decoder {
            key,
            greeting,
            number: 0,
            offset: 0,
            #[cfg(feature = "lab")]
            begun: 0,
        }
    }

    /// The length of the next frame behind its length field; `None` until that is there.
    fn length(&self, incoming: &Incoming) -> Result<Option<usize>, FrameError> {
        let Some((length, _)) = incoming.waiting().split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length <= TAG_LENGTH || length > 1 + PAYLOAD_BYTES_MAX + TAG_LENGTH {
            return Err(FrameError::Length { number: self.number, offset: self.offset, length });
        }
        Ok(Some(length))
    }

    /// Bytes that are missing for the next frame, as far as is known.
    pub fn missing_bytes(&self, incoming: &Incoming) -> usize {
        let length = self.length(incoming).ok().flatten().unwrap_or(0);
        (4 + length).saturating_sub(incoming.waiting().len())
    }

    /// The next frame; `None` until all of it is there.
    ///
    /// # Errors
    /// [`FrameError`]: the connection must be closed, for the place of the next frame is not known any more.
    pub fn next(&mut self, incoming: &mut Incoming) -> Result<Option<(Kind, Vec<u8>)>, FrameError> {
        let Some(length) = self.length(incoming)? else { return Ok(None) };
        let Some(frame) = incoming.take(4 + length) else { return Ok(None) };
        let (frame, tag) = frame[4..].split_at(length - TAG_LENGTH);
        let (number, offset) = (self.number, self.offset);
        self.number += 1;
        self.offset += 4 + length as u64;
        let place = self.greeting.place(!self.greeting.dialled, number);
        if !self.key.verify(Purpose::LogFrame, &[&place, frame], tag) {
            return Err(FrameError::Corrupted { number, offset });
        }
        let kind = match frame[0] {
            1 => Kind::Control,
            2 => Kind::Entries,
            3 => Kind::Transfer,
            kind => return Err(FrameError::Kind { number, kind }),
        };
        Ok(Some((kind, frame[1..].to_vec())))
    }

    /// R6 switched off: the first bytes of the next payload, if it is one of entries, unverified and before the rest has come. Once for
    /// each frame.
    #[cfg(feature = "lab")]
    pub fn begins<'a>(&mut self, incoming: &'a Incoming) -> Option<&'a [u8]> {
        // Enough for the header and the fields behind it, which every frame of entries has.
        const FIRST_BYTES: usize = 128;
        let length = self.length(incoming).ok().flatten()?;
        let first = incoming.waiting().get(4..4 + length.min(FIRST_BYTES))?;
        if first[0] != Kind::Entries as u8 || self.begun > self.number {
            return None;
        }
        self.begun = self.number + 1;
        Some(&first[1..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: &str) -> Key {
        Key::from_hexadecimal(&byte.repeat(32)).unwrap()
    }

    /// A peer that greets, with what it has said.
    struct Peer {
        greeter: Greeter,
        said: Vec<u8>,
    }

    impl Peer {
        fn new(key: Key, random: u8, dialled: bool) -> Peer {
            let mut said = Vec::new();
            Peer { greeter: Greeter::new(key, [random; NONCE_BYTES], dialled, &mut said), said }
        }

        fn hears(&mut self, bytes: &[u8]) -> Result<Option<Greeting>, FrameError> {
            self.said.clear();
            self.greeter.take(&mut incoming(bytes), &mut self.said)
        }
    }

    fn incoming(bytes: &[u8]) -> Incoming {
        let mut incoming = Incoming::default();
        incoming.room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        incoming.came(bytes.len());
        incoming
    }

    fn greeted() -> (Greeting, Greeting) {
        let (mut left, mut right) = (Peer::new(key("aa"), 1, true), Peer::new(key("aa"), 2, false));
        let first = left.said.clone();
        assert!(left.hears(&right.said).unwrap().is_none());
        assert!(right.hears(&first).unwrap().is_none());
        let tag = left.said.clone();
        (left.hears(&right.said).unwrap().unwrap(), right.hears(&tag).unwrap().unwrap())
    }

    fn wire(greeting: &Greeting) -> Vec<u8> {
        let mut encoder = Encoder::new(key("aa"), greeting.clone());
        let mut bytes = Vec::new();
        for (kind, payload) in [(Kind::Control, b"one"), (Kind::Entries, b"two")] {
            encoder.append(&mut bytes, kind, |outgoing| outgoing.extend_from_slice(payload));
        }
        bytes
    }

    #[test]
    fn frames_arrive_as_they_were_sent_however_they_are_cut() {
        let (dialler, listener) = greeted();
        let bytes = wire(&dialler);
        for piece in 1..=bytes.len() {
            let mut decoder = Decoder::new(key("aa"), listener.clone());
            let (mut incoming, mut frames) = (Incoming::default(), Vec::new());
            for piece in bytes.chunks(piece) {
                incoming.room(piece.len())[..piece.len()].copy_from_slice(piece);
                incoming.came(piece.len());
                while let Some(frame) = decoder.next(&mut incoming).unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames, [(Kind::Control, b"one".to_vec()), (Kind::Entries, b"two".to_vec())]);
            assert_eq!(incoming.waiting(), b"");
        }
    }

    #[test]
    fn no_flipped_bit_passes() {
        let (dialler, listener) = greeted();
        let bytes = wire(&dialler);
        for bit in 0..bytes.len() * 8 {
            let mut broken = bytes.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            let (mut decoder, mut incoming) = (Decoder::new(key("aa"), listener.clone()), incoming(&broken));
            let frames = std::iter::from_fn(|| decoder.next(&mut incoming).ok().flatten());
            assert!(frames.count() < 2, "bit {bit} passed");
        }
    }

    #[test]
    fn a_frame_of_another_connection_or_direction_is_refused() {
        let (dialler, listener) = greeted();
        let bytes = wire(&listener);
        let read = |bytes: &[u8]| Decoder::new(key("aa"), listener.clone()).next(&mut incoming(bytes));
        assert!(matches!(read(&bytes), Err(FrameError::Corrupted { number: 0, offset: 0 })), "an echo");
        let bytes = wire(&dialler);
        assert!(matches!(read(&bytes[bytes.len() / 2..]), Err(FrameError::Corrupted { .. })), "out of its place");
    }

    #[test]
    fn a_frame_of_no_possible_length_is_refused_before_it_has_come() {
        let (_, listener) = greeted();
        for length in [TAG_LENGTH, 2 + PAYLOAD_BYTES_MAX + TAG_LENGTH] {
            let mut incoming = incoming(&(length as u32).to_le_bytes());
            let outcome = Decoder::new(key("aa"), listener.clone()).next(&mut incoming);
            assert!(matches!(outcome, Err(FrameError::Length { number: 0, offset: 0, .. })));
        }
    }

    #[test]
    fn a_stranger_is_turned_away() {
        let (mut left, mut right) = (Peer::new(key("aa"), 1, true), Peer::new(key("bb"), 2, false));
        let first = left.said.clone();
        left.hears(&right.said).unwrap();
        right.hears(&first).unwrap();
        let tag = left.said.clone();
        assert!(matches!(left.hears(&right.said), Err(FrameError::Stranger)));
        assert!(matches!(right.hears(&tag), Err(FrameError::Stranger)));
        let mut left = Peer::new(key("aa"), 1, false);
        let request = b"GET / HTTP/1.1\r\nHost: somewhere\r\n\r\n";
        assert!(matches!(left.hears(request), Err(FrameError::Greeting)));
    }
}
