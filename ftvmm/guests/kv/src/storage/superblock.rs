//! The superblock: which half holds the log, and under which name. Two copies, at 0 and 4096.
//!
//! | at | what |
//! |---|---|
//! | 0 | u32 CRC-32 of the rest of the sector, u32 version (1) |
//! | 8 | `FTVMM-KV` |
//! | 16 | u64 generation, u64 name of the log |
//! | 32 | u64 sectors of a half, u64 half (0 or 1), u64 batches that the log had when it was begun |
//!
//! A new log is begun by writing both copies, the first one first; nothing is acknowledged in it before. So one good copy is
//! enough: whichever is left names a log that holds all that was acknowledged.

use super::disk::{Disk, DiskError};
use super::sector::{SECTOR_BYTES, u32_at, u64_at};

const MAGIC: [u8; 8] = *b"FTVMM-KV";
const VERSION: u32 = 1;
const COPY_OFFSETS: [u64; 2] = [0, 4096];
/// Where the first half begins, in bytes.
const HALVES_OFFSET: u64 = 8192;
/// The least number of sectors in a half.
const HALF_SECTORS_MIN: u64 = 64;

/// Which half holds the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// counts the logs of this device
    pub generation: u64,
    /// random name of the log
    pub log: u64,
    /// sectors of a half
    pub half_sectors: u64,
    /// 0 or 1
    pub half: u64,
    /// batches that the log had when it was begun: the copy of what was alive
    pub first_batches: u64,
}

/// Why the device cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuperblockError {
    /// the device has {capacity} bytes, {needed} are needed
    #[error("the device has {capacity} bytes, {needed} are needed")]
    Small {
        /// in bytes
        capacity: u64,
        /// in bytes
        needed: u64,
    },
    /// both copies of the superblock are damaged
    #[error("both copies of the superblock (at 0 and 4096) are damaged: nothing on this device can be trusted")]
    Damaged,
    /// the superblock speaks of a device of another size
    #[error("the superblock speaks of halves of {half_sectors} sectors, which do not fit {capacity} bytes")]
    Foreign {
        /// as the superblock has it
        half_sectors: u64,
        /// of the device, in bytes
        capacity: u64,
    },
    /// the device does not work
    #[error("{0}")]
    Disk(#[from] DiskError),
}

/// What was found in the place of the superblock.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// nothing was ever written to the device
    Empty,
    /// the newest copy, and how many of the two were damaged or older
    Superblock(Superblock, usize),
}

impl Superblock {
    /// The first superblock of a device; `log` is a random name.
    ///
    /// # Errors
    /// Where the device is too small.
    pub fn first(capacity: u64, log: u64) -> Result<Superblock, SuperblockError> {
        let half_sectors = capacity.saturating_sub(HALVES_OFFSET) / (2 * SECTOR_BYTES as u64);
        if half_sectors < HALF_SECTORS_MIN {
            let needed = HALVES_OFFSET + 2 * HALF_SECTORS_MIN * SECTOR_BYTES as u64;
            return Err(SuperblockError::Small { capacity, needed });
        }
        Ok(Superblock { generation: 1, log, half_sectors, half: 0, first_batches: 0 })
    }

    /// The superblock of the log that follows, in the other half.
    pub fn next(&self, log: u64, first_batches: u64) -> Superblock {
        Superblock { generation: self.generation + 1, log, half: 1 - self.half, first_batches, ..*self }
    }

    /// Where a sector of the log is on the device, in bytes.
    pub fn offset(&self, sector: u64) -> u64 {
        HALVES_OFFSET + (self.half * self.half_sectors + sector) * SECTOR_BYTES as u64
    }

    fn encode(&self) -> [u8; SECTOR_BYTES] {
        let mut bytes = [0; SECTOR_BYTES];
        bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..16].copy_from_slice(&MAGIC);
        let fields = [self.generation, self.log, self.half_sectors, self.half, self.first_batches];
        for (place, field) in bytes[16..].chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        let checksum = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; SECTOR_BYTES]) -> Option<Superblock> {
        let right = u32_at(bytes, 0) == crc32fast::hash(&bytes[4..])
            && u32_at(bytes, 4) == VERSION
            && bytes[8..16] == MAGIC
            && u64_at(bytes, 40) <= 1;
        right.then(|| Superblock {
            generation: u64_at(bytes, 16),
            log: u64_at(bytes, 24),
            half_sectors: u64_at(bytes, 32),
            half: u64_at(bytes, 40),
            first_batches: u64_at(bytes, 48),
        })
    }

    /// Writes both copies.
    ///
    /// # Errors
    /// Where the device cannot; then nothing may be acknowledged in the new log.
    pub fn write(&self, disk: &mut dyn Disk) -> Result<(), DiskError> {
        COPY_OFFSETS.into_iter().try_for_each(|offset| disk.write(offset, &self.encode()))
    }

    /// Finds the superblock of a device.
    ///
    /// # Errors
    /// Where the device is no device of this guest, or one that was damaged beyond use.
    pub fn find(disk: &mut dyn Disk) -> Result<Found, SuperblockError> {
        let capacity = disk.capacity();
        Superblock::first(capacity, 0)?; // is it large enough
        let (mut copies, mut empty) = ([None; 2], true);
        for (copy, offset) in copies.iter_mut().zip(COPY_OFFSETS) {
            let mut bytes = [0; SECTOR_BYTES];
            if disk.read(offset, &mut bytes).is_ok() {
                *copy = Superblock::decode(&bytes);
                empty &= bytes.iter().all(|byte| *byte == 0);
            } else {
                empty = false;
            }
        }
        if let Some(newest) = copies.into_iter().flatten().max_by_key(|copy| copy.generation) {
            let end =
                newest.half_sectors.checked_mul(2 * SECTOR_BYTES as u64).and_then(|end| end.checked_add(HALVES_OFFSET));
            if end.is_none_or(|end| end > capacity) || newest.half_sectors < HALF_SECTORS_MIN {
                return Err(SuperblockError::Foreign { half_sectors: newest.half_sectors, capacity });
            }
            return Ok(Found::Superblock(newest, copies.into_iter().filter(|copy| *copy != Some(newest)).count()));
        }
        // A device whose superblock is all zeros was never used, unless a log was.
        let first = Superblock::first(capacity, 0)?;
        for superblock in [first, first.next(0, 0)] {
            let mut bytes = [0; SECTOR_BYTES];
            disk.read(superblock.offset(0), &mut bytes)?;
            empty &= bytes.iter().all(|byte| *byte == 0);
        }
        if empty { Ok(Found::Empty) } else { Err(SuperblockError::Damaged) }
    }
}
