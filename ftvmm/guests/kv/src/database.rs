//! The database: the keyspace in memory and its log on the device, which never differ in what was acknowledged.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::keyspace::{Entry, Keyspace, Lookup};
use crate::storage::disk::{Disk, DiskError};
use crate::storage::journal::{BATCH_BYTES_MAX, Journal, Opened};
use crate::storage::record::{Record, key_digest, stored_bytes};
use crate::storage::superblock::SuperblockError;

/// Why a key cannot be read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseError {
    /// the key's state is lost
    #[error("DAMAGED the record of this key is damaged, its value is lost: write it again, or see INFO storage")]
    Damaged,
    /// the storage is full
    #[error("OOM command not allowed: the storage is full")]
    Full,
    /// the device refuses writes
    #[error("IOERR the storage device cannot write: {0}")]
    Device(#[from] DiskError),
}

/// What a scrub found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scrub {
    /// bytes of the log that were read back
    pub log_bytes: u64,
    /// keys that were compared
    pub keys: usize,
    /// what was wrong with the device, one message each
    pub damages: Vec<String>,
    /// whether the log was written anew from memory
    pub repaired: bool,
}

/// Keys and values that survive.
pub struct Database {
    keyspace: Keyspace,
    journal: Journal,
    stored_bytes_max: u64,
    /// the last commit failed: nothing of the data can be said until one succeeds
    failure: Option<DiskError>,
    /// for the console
    messages: Vec<String>,
}

impl Database {
    /// Recovers the data of a device. The seed is random; `memory_bytes_max` is what the live data may take in memory.
    ///
    /// # Errors
    /// Where the device cannot be used at all.
    pub fn open(disk: Box<dyn Disk>, seed: u64, memory_bytes_max: u64) -> Result<Database, SuperblockError> {
        let Opened { journal, keyspace, mut messages } = Journal::open(disk, seed)?;
        let stored_bytes_max = journal.stored_bytes_max().min(memory_bytes_max);
        let (log_bytes, half_bytes) = journal.fill();
        messages.push(format!("recovered {} keys from {log_bytes} of {half_bytes} bytes of log", keyspace.len()));
        Ok(Database { keyspace, journal, stored_bytes_max, failure: None, messages })
    }

    /// What is to be printed on the console since the last call.
    pub fn take_messages(&mut self) -> Vec<String> {
        core::mem::take(&mut self.messages)
    }

    /// The keys.
    pub fn keyspace(&self) -> &Keyspace {
        &self.keyspace
    }

    /// The log.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Bytes that the live data may take.
    pub fn stored_bytes_max(&self) -> u64 {
        self.stored_bytes_max
    }

    /// The entry of a key, or None where it does not exist.
    ///
    /// # Errors
    /// Where its state is lost.
    pub fn entry(&self, key: &[u8]) -> Result<Option<&Entry>, DatabaseError> {
        match self.keyspace.lookup(key) {
            Lookup::Present(entry) => Ok(Some(entry)),
            Lookup::Absent => Ok(None),
            Lookup::Damaged => Err(DatabaseError::Damaged),
        }
    }

    /// The value of a key, checked against the checksum that it was stored with.
    ///
    /// # Errors
    /// Where it is lost.
    pub fn value(&self, key: &[u8]) -> Result<Option<&[u8]>, DatabaseError> {
        self.entry(key)?.map(|entry| entry.value().ok_or(DatabaseError::Damaged)).transpose()
    }

    /// Looks whether there is room for these values beside, or in the place of, what there is.
    ///
    /// # Errors
    /// Where there is not.
    pub fn check_room<'a>(&self, pairs: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<(), DatabaseError> {
        let (mut needed, mut replaced) = (0, 0);
        for (key, value) in pairs {
            needed += stored_bytes(key.len(), value.len());
            if let Lookup::Present(entry) = self.keyspace.lookup(key) {
                replaced += stored_bytes(key.len(), entry.value().map_or(0, <[u8]>::len));
            }
        }
        // What makes the data smaller is always welcome.
        let kept = self.keyspace.stored_bytes().saturating_sub(replaced);
        if needed > replaced && kept + needed > self.stored_bytes_max { Err(DatabaseError::Full) } else { Ok(()) }
    }

    /// Gives a key a value; `expires` in milliseconds since 1970.
    ///
    /// # Errors
    /// Where there is no room for it.
    pub fn set(&mut self, key: &[u8], value: &[u8], expires: Option<u64>) -> Result<(), DatabaseError> {
        self.check_room(core::iter::once((key, value)))?;
        self.put(key, value, expires);
        Ok(())
    }

    /// As [`Database::set`], where the room has been checked.
    pub fn put(&mut self, key: &[u8], value: &[u8], expires: Option<u64>) {
        self.change(&Record::Set { key, value, checksum: crc32fast::hash(value), expires });
    }

    /// Deletes a key that exists.
    pub fn delete(&mut self, key: &[u8]) {
        self.change(&Record::Delete { key });
    }

    /// Lets a key that exists expire then, in milliseconds since 1970.
    pub fn expire(&mut self, key: &[u8], expires: Option<u64>) {
        self.change(&Record::Expire { key, expires });
    }

    /// Deletes every key, and with them the damage.
    pub fn flush(&mut self) {
        self.change(&Record::Flush);
    }

    fn change(&mut self, record: &Record) {
        self.journal.push(record);
        self.keyspace.apply(record);
    }

    /// Deletes what has expired by now, in milliseconds since 1970. The log says so too: a clock that went back must not
    /// bring a key back.
    pub fn delete_expired(&mut self, now: u64) {
        while let Some(key) = self.keyspace.first_expired(now) {
            self.delete(&key);
        }
    }

    /// Whether so much waits for a commit that it is due before the next command.
    pub fn commit_is_due(&self) -> bool {
        self.journal.pending_bytes() >= BATCH_BYTES_MAX
    }

    /// The failure of the last commit: the data can be neither read nor written until one succeeds.
    pub fn failure(&self) -> Option<DiskError> {
        self.failure
    }

    /// Brings all changes down. Until it returns well, nothing that depends on them may be said to anyone.
    ///
    /// # Errors
    /// Where the device cannot write; the changes wait for the next commit.
    pub fn commit(&mut self) -> Result<(), DiskError> {
        let result = self.journal.commit(&self.keyspace);
        match (&self.failure, &result) {
            (None, Err(error)) => self.messages.push(format!("the log cannot be written: {error}; trying again")),
            (Some(_), Ok(())) => self.messages.push("the log can be written again".to_string()),
            _ => {}
        }
        self.failure = result.err();
        result
    }

    /// Reads the log back from the device, compares it with memory, and writes it anew where they differ.
    ///
    /// # Errors
    /// Where the device cannot write.
    pub fn scrub(&mut self) -> Result<Scrub, DiskError> {
        self.commit()?;
        self.forget_rotten_values();
        let recovered = self.journal.read_back();
        let mut damages: Vec<String> = recovered.damages.iter().map(ToString::to_string).collect();
        if damages.is_empty() && recovered.keyspace != self.keyspace {
            damages.push("the log on the device is not the one in memory".to_string());
        }
        if !self.journal.superblock_is_whole() {
            damages.push("damaged: a copy of the superblock".to_string());
        }
        self.messages.extend(damages.iter().map(|damage| format!("scrub: {damage}")));
        let repaired = !damages.is_empty();
        if repaired {
            self.journal.rewrite(&self.keyspace)?;
            self.messages.push("scrub: the log is written anew from memory in the other half".to_string());
        }
        let log_bytes = recovered.end_sector * crate::storage::sector::SECTOR_BYTES as u64;
        Ok(Scrub { log_bytes, keys: self.keyspace.len(), damages, repaired })
    }

    /// Values that memory no longer holds as they were stored must not be written over good ones.
    fn forget_rotten_values(&mut self) {
        let keyspace = &self.keyspace;
        let rotten: Vec<Vec<u8>> = keyspace
            .keys()
            .filter(|key| matches!(keyspace.lookup(key), Lookup::Present(entry) if entry.value().is_none()))
            .map(<[u8]>::to_vec)
            .collect();
        for key in rotten {
            self.messages.push(format!("the value of `{}` rotted in memory", key.escape_ascii()));
            self.keyspace.apply(&Record::Damaged { digest: key_digest(&key) });
        }
    }
}
