//! The log as it is written: commits, and the copy to the other half when one is full.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::batch::Batch;
use super::disk::{Disk, DiskError};
use super::record::Record;
use super::recovery::{Recovered, recover};
use super::sector::{PAYLOAD_BYTES, SECTOR_BYTES};
use super::superblock::{Found, Superblock, SuperblockError};
use crate::keyspace::Keyspace;

/// The most that is written in one go, in bytes.
const WRITE_BYTES_MAX: usize = 64 * 1024;
/// From this length on a batch is committed before the next command is carried out, in bytes.
pub const BATCH_BYTES_MAX: usize = 256 * 1024;

/// The log of a device.
pub struct Journal {
    disk: Box<dyn Disk>,
    superblock: Superblock,
    /// where the next batch goes
    end_sector: u64,
    next_batch: u64,
    pending: Batch,
    /// random source for names of logs
    seed: u64,
    /// set while the switch to another log may have happened halfway: the old one must not be written any more
    switching: bool,
}

/// What opening found, for the console.
pub struct Opened {
    /// the log
    pub journal: Journal,
    /// what it holds
    pub keyspace: Keyspace,
    /// what is to be said about it
    pub messages: Vec<String>,
}

impl Journal {
    /// Opens the log of a device, or begins the first one. The seed is random.
    ///
    /// # Errors
    /// Where the device cannot be used at all.
    pub fn open(mut disk: Box<dyn Disk>, seed: u64) -> Result<Opened, SuperblockError> {
        let mut messages = Vec::new();
        let found = Superblock::find(disk.as_mut())?;
        let (superblock, bad_copies) = match found {
            Found::Superblock(superblock, bad_copies) => (superblock, bad_copies),
            Found::Empty => (Superblock::first(disk.capacity(), random(seed, 0))?, 2),
        };
        if bad_copies > 0 {
            superblock.write(disk.as_mut())?;
            messages.push(match found {
                Found::Empty => "the device is empty, a log is begun".to_string(),
                Found::Superblock(..) => "a copy of the superblock was damaged or old, it is written anew".to_string(),
            });
        }
        let Recovered { keyspace, end_sector, next_batch, damages, torn, unreadable } =
            recover(disk.as_mut(), &superblock);
        let mut journal =
            Journal { disk, superblock, end_sector, next_batch, pending: Batch::default(), seed, switching: false };
        messages.extend(damages.iter().map(ToString::to_string));
        messages.extend(
            torn.map(|offset| format!("the batch at byte {offset} was cut off and never acknowledged: dropped")),
        );
        // A log with scars is left behind; not where the device may yet give back what it could not read now.
        if (!damages.is_empty() || torn.is_some()) && !unreadable {
            match journal.rewrite(&keyspace) {
                Ok(()) => messages.push("the log is written anew in the other half".to_string()),
                Err(error) => messages.push(format!("the log cannot be written anew: {error}")),
            }
        }
        Ok(Opened { journal, keyspace, messages })
    }

    /// Adds a record to the next commit.
    pub fn push(&mut self, record: &Record) {
        self.pending.push(record);
    }

    /// Length of the records that wait for the next commit, in bytes.
    pub fn pending_bytes(&self) -> usize {
        self.pending.stream_bytes()
    }

    /// Whether a commit would have nothing to write.
    pub fn is_clean(&self) -> bool {
        self.pending.is_empty() && !self.switching
    }

    /// Brings the pending records down. `keyspace` is the state after them.
    ///
    /// # Errors
    /// Where the device cannot; the records stay pending, and nothing that depends on them may be said to anyone.
    pub fn commit(&mut self, keyspace: &Keyspace) -> Result<(), DiskError> {
        if self.is_clean() {
            return Ok(());
        }
        let sectors = self.pending.sectors() as u64;
        if self.switching || self.end_sector + sectors > self.superblock.half_sectors {
            return self.rewrite(keyspace);
        }
        let bytes = self.pending.encode(self.superblock.log, self.next_batch);
        if write(self.disk.as_mut(), self.superblock.offset(self.end_sector), &bytes).is_err() {
            // Perhaps the other half still works.
            return self.rewrite(keyspace);
        }
        self.end_sector += sectors;
        self.next_batch += 1;
        self.pending.clear();
        Ok(())
    }

    /// Begins a new log in the other half that holds nothing but the live data, pending records included.
    ///
    /// # Errors
    /// As [`Journal::commit`].
    pub fn rewrite(&mut self, keyspace: &Keyspace) -> Result<(), DiskError> {
        self.seed = self.seed.wrapping_add(1);
        let mut superblock = self.superblock.next(random(self.seed, self.superblock.generation), 0);
        let (mut end_sector, mut next_batch) = (0, 1);
        let mut batch = Batch::default();
        let mut records = keyspace.records().peekable();
        while let Some(record) = records.next() {
            batch.push(&record);
            if batch.stream_bytes() >= BATCH_BYTES_MAX || records.peek().is_none() {
                if end_sector + batch.sectors() as u64 > superblock.half_sectors {
                    return Err(DiskError::Full);
                }
                let bytes = batch.encode(superblock.log, next_batch);
                write(self.disk.as_mut(), superblock.offset(end_sector), &bytes)?;
                end_sector += batch.sectors() as u64;
                next_batch += 1;
                batch.clear();
            }
        }
        superblock.first_batches = next_batch - 1;
        self.switching = true;
        superblock.write(self.disk.as_mut())?;
        self.switching = false;
        (self.superblock, self.end_sector, self.next_batch) = (superblock, end_sector, next_batch);
        self.pending.clear();
        Ok(())
    }

    /// Reads the log back as recovery would.
    pub fn read_back(&mut self) -> Recovered {
        recover(self.disk.as_mut(), &self.superblock)
    }

    /// Whether both copies of the superblock are as they should be.
    pub fn superblock_is_whole(&mut self) -> bool {
        Superblock::find(self.disk.as_mut()) == Ok(Found::Superblock(self.superblock, 0))
    }

    /// The most that the live data may take, in bytes: three quarters of a half, so that a log which has just been copied
    /// has room to grow.
    pub fn stored_bytes_max(&self) -> u64 {
        self.superblock.half_sectors * PAYLOAD_BYTES as u64 / 4 * 3
    }

    /// Counts the logs of this device, from 1.
    pub fn generation(&self) -> u64 {
        self.superblock.generation
    }

    /// How much of the half is written, and how large it is, in bytes.
    pub fn fill(&self) -> (u64, u64) {
        (self.end_sector * SECTOR_BYTES as u64, self.superblock.half_sectors * SECTOR_BYTES as u64)
    }
}

fn write(disk: &mut dyn Disk, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
    let offsets = (offset..).step_by(WRITE_BYTES_MAX);
    offsets.zip(bytes.chunks(WRITE_BYTES_MAX)).try_for_each(|(offset, chunk)| disk.write(offset, chunk))
}

/// A number that looks random (the finaliser of SplitMix64), never one with few bits, so that a sector of the log cannot
/// be taken for a blank one.
fn random(seed: u64, generation: u64) -> u64 {
    let mut value = seed ^ generation.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^= value >> 31;
    if value.count_ones() < 24 { !value } else { value }
}
