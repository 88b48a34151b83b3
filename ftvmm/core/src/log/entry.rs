//! One log entry: what the guest was told, and the fingerprint of everything up to its question.
//!
//! Encoding, little-endian: `u32` length of what follows the checksum, `u32` checksum (first 4 bytes of the BLAKE3
//! hash of what follows), `u64` position, 16 bytes fingerprint, `u8` kind of answer, the answer's fields.

use std::fmt;

use serde::Serialize;
use thiserror::Error;

use super::Fingerprint;
use crate::machine::{Answer, BLOCK_TRANSFER_BYTES_MAX, HypercallResult, Request};

/// The place of an entry in the log; entries count from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct LogPosition(pub u64);

impl LogPosition {
    /// The initial state's, before all entries.
    pub const START: LogPosition = LogPosition(0);

    /// The next entry's.
    pub fn next(self) -> LogPosition {
        self.after(1)
    }

    /// So many entries further on.
    pub fn after(self, entries: u64) -> LogPosition {
        LogPosition(self.0 + entries)
    }

    /// How many entries follow `earlier` up to here; none if `earlier` is not earlier.
    pub fn since(self, earlier: LogPosition) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// An input of the VM: `answer` is what the guest got at `position`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the log.
    pub position: LogPosition,
    /// The chain up to and including the request that this entry answers.
    pub fingerprint: Fingerprint,
    pub answer: Answer,
}

/// Length and checksum, before the body.
const HEADER_BYTES: usize = 8;
/// Position, fingerprint and kind.
const FIXED_BYTES: usize = 8 + 16 + 1;
/// No entry is longer than this, encoded.
pub const ENTRY_BYTES_MAX: usize = HEADER_BYTES + FIXED_BYTES + 16 + BLOCK_TRANSFER_BYTES_MAX as usize;

/// Why bytes are no log entry. Offsets are in bytes from the entry's first.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EntryError {
    #[error("the entry is cut off: {needed_bytes} bytes are needed and {have_bytes} are there")]
    Truncated { needed_bytes: usize, have_bytes: usize },
    #[error("the entry's length field says {length_bytes} bytes, outside of {FIXED_BYTES} to {ENTRY_BYTES_MAX}")]
    Length { length_bytes: usize },
    #[error("the entry's checksum does not match its content")]
    Checksum,
    #[error("at byte {offset} of the entry: {reason}")]
    Malformed { offset: usize, reason: &'static str },
}

impl Entry {
    /// Appends the encoded entry to `bytes`.
    pub fn encode(&self, bytes: &mut Vec<u8>) {
        let start = bytes.len();
        bytes.extend_from_slice(&[0; HEADER_BYTES]);
        bytes.extend_from_slice(&self.position.0.to_le_bytes());
        bytes.extend_from_slice(&self.fingerprint.0);
        encode_answer(&self.answer, bytes);
        let length = (bytes.len() - start - HEADER_BYTES) as u32;
        let checksum = checksum(&bytes[start + HEADER_BYTES..]);
        bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
        bytes[start + 4..start + 8].copy_from_slice(&checksum);
    }

    /// Whether a replay at `position`, whose guest asks this and has come there by this fingerprint, is that of the guest that was told
    /// this entry.
    ///
    /// # Errors
    /// In what it differs.
    pub fn check(&self, position: LogPosition, fingerprint: Fingerprint, request: &Request) -> Result<(), String> {
        if self.position != position {
            return Err(format!("the log has position {} here", self.position));
        }
        if self.fingerprint != fingerprint {
            return Err(format!("the fingerprint is {fingerprint}, and the log has {}", self.fingerprint));
        }
        if !request.takes(&self.answer) {
            return Err("the log's answer is not one to this request".into());
        }
        Ok(())
    }

    /// Decodes the entry at the start of `bytes`; returns it and how many bytes it took.
    ///
    /// # Errors
    /// [`EntryError::Truncated`] where `bytes` ends within the entry, the other variants where it is no entry.
    pub fn decode(bytes: &[u8]) -> Result<(Entry, usize), EntryError> {
        let needed = |needed_bytes| EntryError::Truncated { needed_bytes, have_bytes: bytes.len() };
        let header = bytes.get(..HEADER_BYTES).ok_or_else(|| needed(HEADER_BYTES))?;
        let length_bytes = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        if !(FIXED_BYTES..=ENTRY_BYTES_MAX - HEADER_BYTES).contains(&length_bytes) {
            return Err(EntryError::Length { length_bytes });
        }
        let total = HEADER_BYTES + length_bytes;
        let body = bytes.get(HEADER_BYTES..total).ok_or_else(|| needed(total))?;
        if checksum(body) != header[4..8] {
            return Err(EntryError::Checksum);
        }
        let mut reader = Reader { bytes: body, offset: 0 };
        let position = LogPosition(reader.u64()?);
        let fingerprint = Fingerprint(reader.array()?);
        let answer = decode_answer(&mut reader)?;
        if reader.offset != body.len() {
            return Err(reader.malformed("bytes follow the answer"));
        }
        Ok((Entry { position, fingerprint, answer }, total))
    }
}

fn checksum(body: &[u8]) -> [u8; 4] {
    let hash = blake3::hash(body);
    let bytes = hash.as_bytes();
    [bytes[0], bytes[1], bytes[2], bytes[3]]
}

/// Appends the canonical encoding of an answer: the log holds it, and the fingerprint chain covers it.
pub(crate) fn encode_answer(answer: &Answer, bytes: &mut Vec<u8>) {
    match answer {
        Answer::Walltime { nanoseconds } => encode_words(bytes, 1, &[*nanoseconds]),
        Answer::Poll { ready_set } => encode_words(bytes, 2, &[*ready_set]),
        Answer::BlockRead { result, data } => {
            bytes.push(3);
            bytes.push(result.code());
            bytes.extend_from_slice(data);
        }
        Answer::NetworkRead { frame: None } => bytes.push(4),
        Answer::NetworkRead { frame: Some(frame) } => {
            bytes.push(5);
            bytes.extend_from_slice(frame);
        }
        Answer::Counter { value } => encode_words(bytes, 6, &[*value]),
        Answer::CounterWithAux { value, aux } => {
            encode_words(bytes, 7, &[*value]);
            bytes.extend_from_slice(&aux.to_le_bytes());
        }
        Answer::Random { value } => encode_words(bytes, 8, &[*value]),
        Answer::Done => bytes.push(9),
    }
}

fn encode_words(bytes: &mut Vec<u8>, kind: u8, words: &[u64]) {
    bytes.push(kind);
    words.iter().for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
}

fn decode_answer(reader: &mut Reader<'_>) -> Result<Answer, EntryError> {
    let [kind] = reader.array()?;
    Ok(match kind {
        1 => Answer::Walltime { nanoseconds: reader.u64()? },
        2 => Answer::Poll { ready_set: reader.u64()? },
        3 => {
            let [code] = reader.array()?;
            let result =
                HypercallResult::from_code(code).ok_or_else(|| reader.malformed("no such hypercall result"))?;
            Answer::BlockRead { result, data: reader.rest() }
        }
        4 => Answer::NetworkRead { frame: None },
        5 => Answer::NetworkRead { frame: Some(reader.rest()) },
        6 => Answer::Counter { value: reader.u64()? },
        7 => Answer::CounterWithAux { value: reader.u64()?, aux: u32::from_le_bytes(reader.array()?) },
        8 => Answer::Random { value: reader.u64()? },
        9 => Answer::Done,
        _ => return Err(reader.malformed("no such kind of answer")),
    })
}

struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], EntryError> {
        let mut array = [0; N];
        let slice = self.bytes.get(self.offset..self.offset + N).ok_or_else(|| self.malformed("a field is cut off"))?;
        array.copy_from_slice(slice);
        self.offset += N;
        Ok(array)
    }

    fn u64(&mut self) -> Result<u64, EntryError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn rest(&mut self) -> Vec<u8> {
        let rest = self.bytes[self.offset..].to_vec();
        self.offset = self.bytes.len();
        rest
    }

    fn malformed(&self, reason: &'static str) -> EntryError {
        EntryError::Malformed { offset: HEADER_BYTES + self.offset, reason }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answers() -> impl Strategy<Value = Answer> {
        let bytes = proptest::collection::vec(any::<u8>(), 0..64);
        prop_oneof![
            any::<u64>().prop_map(|nanoseconds| Answer::Walltime { nanoseconds }),
            any::<u64>().prop_map(|ready_set| Answer::Poll { ready_set }),
            bytes.clone().prop_map(|data| Answer::BlockRead { result: HypercallResult::Ok, data }),
            Just(Answer::BlockRead { result: HypercallResult::Unspecified, data: Vec::new() }),
            proptest::option::of(bytes).prop_map(|frame| Answer::NetworkRead { frame }),
            any::<u64>().prop_map(|value| Answer::Counter { value }),
            any::<(u64, u32)>().prop_map(|(value, aux)| Answer::CounterWithAux { value, aux }),
            any::<u64>().prop_map(|value| Answer::Random { value }),
            Just(Answer::Done),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(position: u64, fingerprint: [u8; 16], answer in answers()) {
            let entry = Entry { position: LogPosition(position), fingerprint: Fingerprint(fingerprint), answer };
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            prop_assert_eq!(Entry::decode(&bytes), Ok((entry, bytes.len())));
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Entry::decode(&bytes).is_err());
        }

        #[test]
        fn a_part_of_an_entry_is_truncated(answer in answers(), cut in 0.0..1.0) {
            let entry = Entry { position: LogPosition(1), fingerprint: Fingerprint::default(), answer };
            let mut bytes = Vec::new();
            entry.encode(&mut bytes);
            let length = (bytes.len() as f64 * cut) as usize;
            let truncated = matches!(Entry::decode(&bytes[..length]), Err(EntryError::Truncated { .. }));
            prop_assert!(truncated);
        }
    }
}
