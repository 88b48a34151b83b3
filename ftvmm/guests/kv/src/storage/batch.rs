//! A batch: the records that one commit writes, and their directory.

use alloc::vec::Vec;

use super::record::{Kind, Record};
use super::sector::{self, Header, PAYLOAD_BYTES, u32_at, u64_at};

/// An entry of the directory: u64 digest, u32 start, u32 length, u8 kind, 3 bytes of zero.
pub const DIRECTORY_ENTRY_BYTES: usize = 20;
/// Entries of the directory do not cross sectors.
const ENTRIES_PER_SECTOR: usize = PAYLOAD_BYTES / DIRECTORY_ENTRY_BYTES;

/// What the directory repeats of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// digest of the key
    pub digest: u64,
    /// where the record begins in the stream, in bytes
    pub start: u32,
    /// length of the record in bytes
    pub length: u32,
    /// kind of the record
    pub kind: Kind,
}

impl DirectoryEntry {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.digest.to_le_bytes());
        out.extend_from_slice(&self.start.to_le_bytes());
        out.extend_from_slice(&self.length.to_le_bytes());
        out.extend_from_slice(&[self.kind as u8, 0, 0, 0]);
    }

    /// Reads the entries of one sector of directory.
    pub fn decode_all(payload: &[u8]) -> impl Iterator<Item = DirectoryEntry> {
        payload.chunks_exact(DIRECTORY_ENTRY_BYTES).filter_map(|bytes| {
            Some(DirectoryEntry {
                digest: u64_at(bytes, 0),
                start: u32_at(bytes, 8),
                length: u32_at(bytes, 12),
                kind: Kind::from_number(bytes[16])?,
            })
        })
    }
}

/// Records that are gathered for one commit.
#[derive(Debug, Default)]
pub struct Batch {
    stream: Vec<u8>,
    directory: Vec<DirectoryEntry>,
}

impl Batch {
    /// Adds a record.
    pub fn push(&mut self, record: &Record) {
        let start = self.stream.len();
        record.encode(&mut self.stream);
        let length = (self.stream.len() - start) as u32;
        let (digest, kind) = (record.digest(), record.kind());
        self.directory.push(DirectoryEntry { digest, start: start as u32, length, kind });
    }

    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.directory.is_empty()
    }

    /// Length of the records in bytes.
    pub fn stream_bytes(&self) -> usize {
        self.stream.len()
    }

    /// How many sectors it takes.
    pub fn sectors(&self) -> usize {
        self.stream.len().div_ceil(PAYLOAD_BYTES) + self.directory.len().div_ceil(ENTRIES_PER_SECTOR)
    }

    /// The sectors of the batch, as the log of that name has them under that number.
    pub fn encode(&self, log: u64, number: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.sectors() * sector::SECTOR_BYTES);
        let record_sectors = self.stream.len().div_ceil(PAYLOAD_BYTES) as u16;
        let directory_sectors = self.directory.len().div_ceil(ENTRIES_PER_SECTOR) as u16;
        let mut header = Header { log, batch: number, index: 0, record_sectors, directory_sectors };
        for payload in self.stream.chunks(PAYLOAD_BYTES) {
            sector::encode(&header, payload, &mut out);
            header.index += 1;
        }
        let mut payload = Vec::with_capacity(PAYLOAD_BYTES);
        for entries in self.directory.chunks(ENTRIES_PER_SECTOR) {
            payload.clear();
            entries.iter().for_each(|entry| entry.encode(&mut payload));
            sector::encode(&header, &payload, &mut out);
            header.index += 1;
        }
        out
    }

    /// Forgets the records.
    pub fn clear(&mut self) {
        self.stream.clear();
        self.directory.clear();
    }
}
