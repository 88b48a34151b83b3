//! The keys and values in memory, and what is known to be lost.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use crate::storage::record::{Record, key_digest, stored_bytes};

/// A value, with the checksum that it came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    value: Vec<u8>,
    checksum: u32,
    /// milliseconds since 1970 (UTC)
    pub expires: Option<u64>,
}

impl Entry {
    /// The value, or None where memory no longer holds what was stored.
    pub fn value(&self) -> Option<&[u8]> {
        (crc32fast::hash(&self.value) == self.checksum).then_some(&self.value)
    }
}

/// What is known of a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// it exists
    Present(&'a Entry),
    /// it does not exist
    Absent,
    /// its state is lost: it may or may not exist
    Damaged,
}

/// All keys. Changed by records only, so that recovery and service cannot differ.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Keyspace {
    entries: BTreeMap<Vec<u8>, Entry>,
    /// digests of keys whose state is lost
    damaged: BTreeSet<u64>,
    /// whether the state of every key is lost that is neither in `entries` nor in `deleted`
    unknown: bool,
    /// keys known not to exist, kept only while the others are unknown
    deleted: BTreeSet<Vec<u8>>,
    expiring: BTreeSet<(u64, Vec<u8>)>,
    stored_bytes: u64,
}

impl Keyspace {
    /// Carries a record out.
    pub fn apply(&mut self, record: &Record) {
        match *record {
            Record::Set { key, value, checksum, expires } => {
                self.remove(key);
                self.restore(key);
                self.stored_bytes += stored_bytes(key.len(), value.len());
                self.expiring.extend(expires.map(|at| (at, key.to_vec())));
                self.entries.insert(key.to_vec(), Entry { value: value.to_vec(), checksum, expires });
            }
            Record::Delete { key } => {
                self.remove(key);
                self.restore(key);
                if self.unknown {
                    self.stored_bytes += stored_bytes(key.len(), 0);
                    self.deleted.insert(key.to_vec());
                }
            }
            Record::Expire { key, expires } => {
                // Where the key's own state is lost there is no entry, and it stays lost.
                if let Some(entry) = self.entries.get_mut(key) {
                    if let Some(at) = entry.expires {
                        self.expiring.remove(&(at, key.to_vec()));
                    }
                    entry.expires = expires;
                    self.expiring.extend(expires.map(|at| (at, key.to_vec())));
                }
            }
            Record::Flush => *self = Keyspace::default(),
            Record::Damaged { digest } => {
                self.damaged.insert(digest);
            }
            Record::Unknown => *self = Keyspace { unknown: true, ..Keyspace::default() },
        }
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(entry) = self.entries.remove(key) {
            self.stored_bytes -= stored_bytes(key.len(), entry.value.len());
            if let Some(at) = entry.expires {
                self.expiring.remove(&(at, key.to_vec()));
            }
        }
    }

    /// The key's state is known again.
    fn restore(&mut self, key: &[u8]) {
        if !self.damaged.is_empty() {
            self.damaged.remove(&key_digest(key));
        }
        if self.deleted.remove(key) {
            self.stored_bytes -= stored_bytes(key.len(), 0);
        }
    }

    /// What is known of a key.
    pub fn lookup(&self, key: &[u8]) -> Lookup<'_> {
        if !self.damaged.is_empty() && self.damaged.contains(&key_digest(key)) {
            return Lookup::Damaged;
        }
        match self.entries.get(key) {
            Some(entry) => Lookup::Present(entry),
            None if self.unknown && !self.deleted.contains(key) => Lookup::Damaged,
            None => Lookup::Absent,
        }
    }

    /// A key that was there under that digest, to name it in a report.
    pub fn key_of_digest(&self, digest: u64) -> Option<&[u8]> {
        self.entries.keys().find(|key| key_digest(key) == digest).map(Vec::as_slice)
    }

    /// Whether the state of any key is lost.
    pub fn has_damage(&self) -> bool {
        self.unknown || !self.damaged.is_empty()
    }

    /// Keys whose state is lost; None where it is that of all but some.
    pub fn damaged_count(&self) -> Option<usize> {
        (!self.unknown).then_some(self.damaged.len())
    }

    /// The first key that has expired by then.
    pub fn first_expired(&self, now: u64) -> Option<Vec<u8>> {
        self.expiring.first().filter(|(at, _)| *at <= now).map(|(_, key)| key.clone())
    }

    /// How many keys have an expiry.
    pub fn expiring_count(&self) -> usize {
        self.expiring.len()
    }

    /// The keys that exist, in order.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.entries.keys().map(Vec::as_slice)
    }

    /// How many keys exist.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no key exists.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What a log of nothing but the live data takes, in bytes.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// The records that bring an empty keyspace into this state.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let unknown = self.unknown.then_some(Record::Unknown).into_iter();
        let entries = self.entries.iter().map(|(key, Entry { value, checksum, expires })| Record::Set {
            key,
            value,
            checksum: *checksum,
            expires: *expires,
        });
        let deleted = self.deleted.iter().map(|key| Record::Delete { key });
        let damaged = self.damaged.iter().map(|digest| Record::Damaged { digest: *digest });
        unknown.chain(entries).chain(deleted).chain(damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set<'a>(key: &'a [u8], value: &'a [u8]) -> Record<'a> {
        Record::Set { key, value, checksum: crc32fast::hash(value), expires: None }
    }

    #[test]
    fn a_lost_key_is_damaged_until_it_is_written() {
        let mut keyspace = Keyspace::default();
        keyspace.apply(&set(b"a", b"1"));
        keyspace.apply(&Record::Damaged { digest: key_digest(b"a") });
        keyspace.apply(&Record::Expire { key: b"a", expires: Some(1) });
        assert_eq!(keyspace.lookup(b"a"), Lookup::Damaged);
        assert_eq!(keyspace.lookup(b"b"), Lookup::Absent);
        keyspace.apply(&set(b"a", b"2"));
        assert!(matches!(keyspace.lookup(b"a"), Lookup::Present(entry) if entry.value() == Some(b"2")));
        assert!(!keyspace.has_damage());
    }

    #[test]
    fn when_all_is_lost_only_what_is_written_later_is_known() {
        let mut keyspace = Keyspace::default();
        keyspace.apply(&set(b"a", b"1"));
        keyspace.apply(&Record::Unknown);
        keyspace.apply(&set(b"b", b"2"));
        keyspace.apply(&set(b"c", b"3"));
        keyspace.apply(&Record::Delete { key: b"c" });
        assert_eq!(keyspace.lookup(b"a"), Lookup::Damaged);
        assert!(matches!(keyspace.lookup(b"b"), Lookup::Present(_)));
        assert_eq!(keyspace.lookup(b"c"), Lookup::Absent);
        keyspace.apply(&Record::Flush);
        assert_eq!(keyspace.lookup(b"a"), Lookup::Absent);
    }

    #[test]
    fn its_records_bring_it_back() {
        let mut keyspace = Keyspace::default();
        keyspace.apply(&Record::Unknown);
        keyspace.apply(&Record::Set { key: b"a", value: b"1", checksum: crc32fast::hash(b"1"), expires: Some(5) });
        keyspace.apply(&Record::Damaged { digest: key_digest(b"z") });
        keyspace.apply(&set(b"b", b"2"));
        keyspace.apply(&Record::Delete { key: b"b" });
        let mut copy = Keyspace::default();
        keyspace.records().for_each(|record| copy.apply(&record));
        assert_eq!(copy, keyspace);
    }
}
