//! A sector of the log: 32 bytes of header, 480 bytes of payload.
//!
//! | at | what |
//! |---|---|
//! | 0 | u32 CRC-32 of the rest of the sector |
//! | 4 | `FKVS` |
//! | 8 | u64 name of the log |
//! | 16 | u64 number of the batch, from 1 |
//! | 24 | u16 index in the batch, u16 sectors of records, u16 sectors of directory, u16 length of the payload |
//! | 32 | payload, filled up with zeros |
//!
//! All integers of the log are little-endian.

use alloc::vec::Vec;

/// Size of a sector in bytes.
pub const SECTOR_BYTES: usize = 512;
/// Payload of a sector in bytes.
pub const PAYLOAD_BYTES: usize = SECTOR_BYTES - HEADER_BYTES;
const HEADER_BYTES: usize = 32;
const MAGIC: [u8; 4] = *b"FKVS";

/// A sector with no more bits set than this was never written: some may have been flipped in it, but a header alone has
/// more, its checksum and the log's name being random.
const BLANK_BITS_MAX: u32 = 16;

/// What a sector says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// name of the log
    pub log: u64,
    /// number of the batch
    pub batch: u64,
    /// index of the sector in the batch
    pub index: u16,
    /// how many sectors of the batch hold records; they come first
    pub record_sectors: u16,
    /// how many sectors of the batch hold its directory
    pub directory_sectors: u16,
}

impl Header {
    /// How many sectors the batch has.
    pub fn sectors(&self) -> u32 {
        u32::from(self.record_sectors) + u32::from(self.directory_sectors)
    }
}

/// What was found in the place of a sector.
#[derive(Debug, PartialEq, Eq)]
pub enum Sector<'a> {
    /// a sector of this log, with its payload
    Written(Header, &'a [u8]),
    /// nothing of this log
    Blank,
    /// neither: it was written, and has been changed since
    Damaged,
}

/// Appends a sector to `out`. The payload has at most [`PAYLOAD_BYTES`] bytes.
pub fn encode(header: &Header, payload: &[u8], out: &mut Vec<u8>) {
    debug_assert!(payload.len() <= PAYLOAD_BYTES);
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&header.log.to_le_bytes());
    out.extend_from_slice(&header.batch.to_le_bytes());
    for field in [header.index, header.record_sectors, header.directory_sectors, payload.len() as u16] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    out.extend_from_slice(payload);
    out.resize(start + SECTOR_BYTES, 0);
    let checksum = crc32fast::hash(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
}

/// Judges the [`SECTOR_BYTES`] bytes in the place of a sector of the log of that name.
pub fn classify(bytes: &[u8], log: u64) -> Sector<'_> {
    let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    if bytes[4..8] == MAGIC && bytes[..4] == crc32fast::hash(&bytes[4..]).to_le_bytes() {
        let header = Header {
            log: u64_at(bytes, 8),
            batch: u64_at(bytes, 16),
            index: u16_at(24),
            record_sectors: u16_at(26),
            directory_sectors: u16_at(28),
        };
        let length = usize::from(u16_at(30)).min(PAYLOAD_BYTES);
        if header.log == log {
            Sector::Written(header, &bytes[HEADER_BYTES..HEADER_BYTES + length])
        } else {
            Sector::Blank
        }
    } else if bytes.iter().map(|byte| byte.count_ones()).sum::<u32>() <= BLANK_BITS_MAX {
        Sector::Blank
    } else {
        Sector::Damaged
    }
}

/// The little-endian integer at that place.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// The little-endian integer at that place.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header =
        Header { log: 0x1234_5678_9abc_def0, batch: 7, index: 1, record_sectors: 2, directory_sectors: 1 };

    #[test]
    fn any_flipped_bit_is_seen() {
        let mut sector = Vec::new();
        encode(&HEADER, b"payload", &mut sector);
        assert_eq!(classify(&sector, HEADER.log), Sector::Written(HEADER, b"payload"));
        for bit in 0..SECTOR_BYTES * 8 {
            sector[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(classify(&sector, HEADER.log), Sector::Damaged, "bit {bit}");
            sector[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn sectors_of_another_log_and_sectors_never_written_are_blank() {
        let mut sector = Vec::new();
        encode(&HEADER, b"payload", &mut sector);
        assert_eq!(classify(&sector, 1), Sector::Blank);
        let mut zeros = [0; SECTOR_BYTES];
        zeros[100] = 8;
        assert_eq!(classify(&zeros, 1), Sector::Blank);
    }
}
