//! Recovery: reads a log back, and says what of it is lost.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use alloc::{borrow::ToOwned, format};
use core::fmt;

use super::batch::DirectoryEntry;
use super::disk::Disk;
use super::record::{Kind, Record};
use super::sector::{self, Header, PAYLOAD_BYTES, SECTOR_BYTES, Sector};
use super::superblock::Superblock;
use crate::keyspace::Keyspace;

/// Sectors read in one go.
const SECTORS_PER_READ: u64 = 128;

/// One thing that was found wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// where on the device, in bytes
    pub offset: u64,
    /// what is wrong
    pub what: String,
    /// what follows
    pub consequence: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "damaged at byte {} of the device: {}; {}", self.offset, self.what, self.consequence)
    }
}

/// What a log holds.
#[derive(Debug, Default)]
pub struct Recovered {
    /// the state after its last record
    pub keyspace: Keyspace,
    /// where the next batch goes, counted from the beginning of the half
    pub end_sector: u64,
    /// the number of the next batch
    pub next_batch: u64,
    /// what was found wrong
    pub damages: Vec<Damage>,
    /// where a batch begins that was cut off and is dropped, in bytes
    pub torn: Option<u64>,
    /// whether the device failed to read some sectors
    pub unreadable: bool,
}

/// Reads the whole half, because only what lies behind a gap tells whether the log ends there.
pub fn recover(disk: &mut dyn Disk, superblock: &Superblock) -> Recovered {
    let mut scan = Scan::new(*superblock);
    let mut buffer = vec![0; SECTORS_PER_READ as usize * SECTOR_BYTES];
    let mut position = 0;
    while position < superblock.half_sectors {
        let count = SECTORS_PER_READ.min(superblock.half_sectors - position);
        let bytes = &mut buffer[..count as usize * SECTOR_BYTES];
        let whole = disk.read(superblock.offset(position), bytes).is_ok();
        for (sector, bytes) in (position..).zip(bytes.chunks_exact_mut(SECTOR_BYTES)) {
            // Where a long read fails, one of its sectors may be to blame.
            if whole || disk.read(superblock.offset(sector), bytes).is_ok() {
                scan.sector(sector, &sector::classify(bytes, superblock.log));
            } else {
                scan.recovered.unreadable = true;
                scan.sector(sector, &Sector::Damaged);
            }
        }
        position += count;
    }
    scan.finish()
}

/// A batch of which some sectors may be missing.
struct Partial {
    start: u64,
    header: Header,
    stream: Vec<u8>,
    directory: Vec<DirectoryEntry>,
    present: Vec<bool>,
}

impl Partial {
    fn new(start: u64, header: Header) -> Partial {
        let stream = vec![0; usize::from(header.record_sectors) * PAYLOAD_BYTES];
        Partial { start, header, stream, directory: Vec::new(), present: vec![false; header.sectors() as usize] }
    }

    fn end(&self) -> u64 {
        self.start + u64::from(self.header.sectors())
    }

    /// Whether a sector found in the place `position` is one of its own.
    fn owns(&self, position: u64, header: &Header) -> bool {
        Header { index: 0, ..*header } == Header { index: 0, ..self.header }
            && self.start + u64::from(header.index) == position
    }

    fn put(&mut self, header: &Header, payload: &[u8]) {
        let index = usize::from(header.index);
        if let Some(present) = self.present.get_mut(index) {
            *present = true;
            match self.stream.get_mut(index * PAYLOAD_BYTES..index * PAYLOAD_BYTES + payload.len()) {
                Some(place) => place.copy_from_slice(payload),
                None => self.directory.extend(DirectoryEntry::decode_all(payload)),
            }
        }
    }

    fn records_present(&self) -> &[bool] {
        &self.present[..usize::from(self.header.record_sectors)]
    }

    fn directory_is_whole(&self) -> bool {
        self.present[usize::from(self.header.record_sectors)..].iter().all(|present| *present)
    }

    /// The record of a directory entry, where it is there and undamaged.
    fn record(&self, entry: &DirectoryEntry) -> Option<Record<'_>> {
        let (start, end) = (entry.start as usize, (entry.start as usize).checked_add(entry.length as usize)?);
        let sectors = self.records_present().get(start / PAYLOAD_BYTES..end.div_ceil(PAYLOAD_BYTES))?;
        let (record, length) = Record::decode(self.stream.get(start..end)?)?;
        (sectors.iter().all(|present| *present) && length == entry.length as usize).then_some(record)
    }
}

struct Scan {
    superblock: Superblock,
    recovered: Recovered,
    /// the batch whose sectors are being read
    current: Option<Partial>,
    /// damaged sectors behind the last finished batch
    damaged: Vec<u64>,
}

impl Scan {
    fn new(superblock: Superblock) -> Scan {
        let recovered = Recovered { next_batch: 1, ..Recovered::default() };
        Scan { superblock, recovered, current: None, damaged: Vec::new() }
    }

    fn sector(&mut self, position: u64, sector: &Sector) {
        match sector {
            Sector::Blank => {}
            Sector::Damaged => self.damaged.push(position),
            Sector::Written(header, payload) => {
                if !self.current.as_ref().is_some_and(|current| current.owns(position, header)) {
                    let newest = self.current.as_ref().map_or(self.recovered.next_batch - 1, |it| it.header.batch);
                    let start = position.checked_sub(u64::from(header.index));
                    let (true, Some(start)) = (header.batch > newest, start) else {
                        // A sector in a place that it was not written to; the place it is missing from tells the loss.
                        self.damaged.push(position);
                        return;
                    };
                    self.end_batch(true);
                    self.expect(header.batch, start);
                    self.current = Some(Partial::new(start, *header));
                }
                if let Some(current) = &mut self.current {
                    current.put(header, payload);
                }
            }
        }
    }

    /// A batch begins: is it the one that follows the last?
    fn expect(&mut self, batch: u64, start: u64) {
        let (expected, end) = (self.recovered.next_batch, self.recovered.end_sector);
        if batch != expected || start != end {
            self.lose_all(
                end,
                format!("batch {expected} is missing, batch {batch} follows at sector {start} of the log"),
            );
        }
    }

    fn lose_all(&mut self, sector: u64, what: String) {
        self.recovered.keyspace.apply(&Record::Unknown);
        let consequence = "keys not written since cannot be read".to_owned();
        self.recovered.damages.push(Damage { offset: self.superblock.offset(sector), what, consequence });
    }

    /// No more sectors of the current batch will come.
    fn end_batch(&mut self, others_follow: bool) {
        let Some(batch) = self.current.take() else { return };
        let missing: Vec<u64> =
            (batch.start..).zip(&batch.present).filter(|(_, present)| !**present).map(|(place, _)| place).collect();
        if !missing.is_empty() && !others_follow && !missing.iter().any(|place| self.damaged.contains(place)) {
            // The last batch, and what is missing of it was never written: its commit never returned.
            self.recovered.torn = Some(self.superblock.offset(batch.start));
            return;
        }
        self.recovered.end_sector = batch.end();
        self.recovered.next_batch = batch.header.batch + 1;
        self.damaged.retain(|place| *place >= batch.end());
        if batch.directory_is_whole() {
            self.apply_by_directory(&batch);
        } else if batch.records_present().iter().all(|present| *present) {
            self.apply_in_order(&batch);
        }
        if let Some(first) = missing.first() {
            self.report_sectors(&batch, *first, missing.len());
        }
    }

    /// Names the sectors that are missing of a batch, where what follows has not been said already.
    fn report_sectors(&mut self, batch: &Partial, first: u64, count: usize) {
        let what =
            format!("{count} sector(s) of batch {}, the first being sector {first} of the log", batch.header.batch);
        let records_whole = batch.records_present().iter().all(|present| *present);
        if !batch.directory_is_whole() && !records_whole {
            self.lose_all(first, what);
        } else if records_whole {
            let consequence = "nothing is lost, its records are whole".to_owned();
            self.recovered.damages.push(Damage { offset: self.superblock.offset(first), what, consequence });
        }
    }

    fn apply_by_directory(&mut self, batch: &Partial) {
        for entry in &batch.directory {
            if let Some(record) = batch.record(entry) {
                self.recovered.keyspace.apply(&record);
                continue;
            }
            let sector = batch.start + u64::from(entry.start) / PAYLOAD_BYTES as u64;
            let what = format!("a record of batch {}", batch.header.batch);
            let consequence = self.lose(entry);
            self.recovered.damages.push(Damage { offset: self.superblock.offset(sector), what, consequence });
        }
    }

    /// A record is lost of which the directory tells kind and key.
    fn lose(&mut self, entry: &DirectoryEntry) -> String {
        let keyspace = &mut self.recovered.keyspace;
        match entry.kind {
            Kind::Flush | Kind::Unknown => {
                let whole = if entry.kind == Kind::Flush { Record::Flush } else { Record::Unknown };
                keyspace.apply(&whole);
                "nothing is lost, its directory says it all".to_owned()
            }
            Kind::Set | Kind::Delete | Kind::Expire | Kind::Damaged => {
                let consequence = match keyspace.key_of_digest(entry.digest) {
                    Some(key) => format!("the key `{}` cannot be read until it is written again", key.escape_ascii()),
                    None => format!("the key of digest {:016x} cannot be read until it is written again", entry.digest),
                };
                keyspace.apply(&Record::Damaged { digest: entry.digest });
                consequence
            }
        }
    }

    fn apply_in_order(&mut self, batch: &Partial) {
        let mut rest = batch.stream.as_slice();
        // The stream is filled up with zeros, which are no record.
        while let Some((record, length)) = Record::decode(rest) {
            self.recovered.keyspace.apply(&record);
            rest = &rest[length..];
        }
        if rest.iter().any(|byte| *byte != 0) {
            self.lose_all(batch.start, format!("a record of batch {}, and its directory", batch.header.batch));
        }
    }

    fn finish(mut self) -> Recovered {
        self.end_batch(false);
        let end = self.recovered.end_sector;
        if self.damaged.contains(&end) && self.recovered.torn.is_none() {
            self.lose_all(end, "a sector where the log seems to end".to_owned());
        } else if self.recovered.next_batch <= self.superblock.first_batches {
            let (batch, count) = (self.recovered.next_batch, self.superblock.first_batches);
            self.lose_all(end, format!("the log ends before batch {batch}, and was begun with {count}"));
        }
        self.recovered
    }
}
