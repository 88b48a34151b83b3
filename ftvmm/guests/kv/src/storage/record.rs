//! A record of the log: one change of the keyspace.
//!
//! | at | what |
//! |---|---|
//! | 0 | u8 kind, 3 bytes of zero |
//! | 4 | u32 length of the key, u32 length of the value |
//! | 12 | u64 expiry in milliseconds since 1970 (0: never), or the digest of [`Record::Damaged`] |
//! | 20 | u32 CRC-32 of the value |
//! | 24 | u32 CRC-32 of the 24 bytes before and the key |
//! | 28 | the key, the value |

use alloc::vec::Vec;

use super::sector::{u32_at, u64_at};

const HEADER_BYTES: usize = 28;

/// One change of the keyspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record<'a> {
    /// the key has this value
    Set {
        /// the key
        key: &'a [u8],
        /// its value
        value: &'a [u8],
        /// CRC-32 of the value
        checksum: u32,
        /// milliseconds since 1970 (UTC)
        expires: Option<u64>,
    },
    /// the key does not exist
    Delete {
        /// the key
        key: &'a [u8],
    },
    /// the key, which exists, expires then
    Expire {
        /// the key
        key: &'a [u8],
        /// milliseconds since 1970 (UTC)
        expires: Option<u64>,
    },
    /// no key exists
    Flush,
    /// the state of the keys of that digest is lost
    Damaged {
        /// of the key, see [`key_digest`]
        digest: u64,
    },
    /// the state of every key is lost
    Unknown,
}

/// What kind of record it is, as the log has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// [`Record::Set`]
    Set = 1,
    /// [`Record::Delete`]
    Delete = 2,
    /// [`Record::Expire`]
    Expire = 3,
    /// [`Record::Flush`]
    Flush = 4,
    /// [`Record::Damaged`]
    Damaged = 5,
    /// [`Record::Unknown`]
    Unknown = 6,
}

impl Kind {
    /// The kind of that number, if there is one.
    pub fn from_number(number: u8) -> Option<Kind> {
        use Kind::{Damaged, Delete, Expire, Flush, Set, Unknown};
        [Set, Delete, Expire, Flush, Damaged, Unknown].into_iter().find(|kind| *kind as u8 == number)
    }
}

/// Tells keys apart in the directory and among the damaged (FNV-1a, 64 bits). Two keys of one digest would both be taken
/// for damaged, which is safe.
pub fn key_digest(key: &[u8]) -> u64 {
    key.iter().fold(0xcbf2_9ce4_8422_2325, |digest, byte| (digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

impl<'a> Record<'a> {
    /// What kind of record it is.
    pub fn kind(&self) -> Kind {
        match self {
            Record::Set { .. } => Kind::Set,
            Record::Delete { .. } => Kind::Delete,
            Record::Expire { .. } => Kind::Expire,
            Record::Flush => Kind::Flush,
            Record::Damaged { .. } => Kind::Damaged,
            Record::Unknown => Kind::Unknown,
        }
    }

    /// The digest of the key that it is about; 0 where it is about all.
    pub fn digest(&self) -> u64 {
        match self {
            Record::Set { key, .. } | Record::Delete { key } | Record::Expire { key, .. } => key_digest(key),
            Record::Damaged { digest } => *digest,
            Record::Flush | Record::Unknown => 0,
        }
    }

    /// Appends the record to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (key, value, number, value_checksum): (&[u8], &[u8], u64, u32) = match *self {
            Record::Set { key, value, checksum, expires } => (key, value, expires.unwrap_or(0), checksum),
            Record::Delete { key } => (key, &[], 0, 0),
            Record::Expire { key, expires } => (key, &[], expires.unwrap_or(0), 0),
            Record::Damaged { digest } => (&[], &[], digest, 0),
            Record::Flush | Record::Unknown => (&[], &[], 0, 0),
        };
        let start = out.len();
        out.extend_from_slice(&[self.kind() as u8, 0, 0, 0]);
        out.extend_from_slice(&(key.len() as u32).to_le_bytes());
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&value_checksum.to_le_bytes());
        let checksum = header_checksum(&out[start..], key);
        out.extend_from_slice(&checksum.to_le_bytes());
        out.extend_from_slice(key);
        out.extend_from_slice(value);
    }

    /// Reads the record at the beginning of `bytes`; also returns its length in bytes. None where there is no whole and
    /// undamaged record.
    pub fn decode(bytes: &'a [u8]) -> Option<(Record<'a>, usize)> {
        let header = bytes.get(..HEADER_BYTES)?;
        let key_end = HEADER_BYTES.checked_add(u32_at(header, 4) as usize)?;
        let end = key_end.checked_add(u32_at(header, 8) as usize)?;
        let (key, value) = (bytes.get(HEADER_BYTES..key_end)?, bytes.get(key_end..end)?);
        if header_checksum(&header[..24], key) != u32_at(header, 24) {
            return None;
        }
        let (number, checksum) = (u64_at(header, 12), u32_at(header, 20));
        let expires = (number != 0).then_some(number);
        let record = match Kind::from_number(header[0])? {
            Kind::Set if crc32fast::hash(value) == checksum => Record::Set { key, value, checksum, expires },
            Kind::Set => return None,
            Kind::Delete => Record::Delete { key },
            Kind::Expire => Record::Expire { key, expires },
            Kind::Flush => Record::Flush,
            Kind::Damaged => Record::Damaged { digest: number },
            Kind::Unknown => Record::Unknown,
        };
        Some((record, end))
    }
}

fn header_checksum(header: &[u8], key: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(key);
    hasher.finalize()
}

/// How many bytes a [`Record::Set`] of these lengths takes in the log, its place in the directory included.
pub fn stored_bytes(key_bytes: usize, value_bytes: usize) -> u64 {
    (HEADER_BYTES + key_bytes + value_bytes + super::batch::DIRECTORY_ENTRY_BYTES) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_went_and_no_flipped_bit_goes_unseen() {
        let set = Record::Set { key: b"key", value: b"value", checksum: crc32fast::hash(b"value"), expires: Some(9) };
        for record in [
            set,
            Record::Delete { key: b"key" },
            Record::Expire { key: b"", expires: None },
            Record::Flush,
            Record::Damaged { digest: 77 },
            Record::Unknown,
        ] {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            assert_eq!(Record::decode(&bytes), Some((record, bytes.len())));
            assert_eq!(Record::decode(&bytes[..bytes.len() - 1]), None);
            for bit in 0..bytes.len() * 8 {
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Record::decode(&bytes), None, "bit {bit} of {record:?}");
                bytes[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }
}
