//! The storage log on a device in memory: what was acknowledged comes back, whatever happens to the device, or is said to
//! be lost.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::disk::{Disk, DiskError};
use super::sector::SECTOR_BYTES;
use crate::database::{Database, DatabaseError};

/// Bytes of a device that tests can get at while the database has it.
#[derive(Clone)]
pub(crate) struct MemoryDisk {
    pub(crate) bytes: Rc<RefCell<Vec<u8>>>,
    /// how many sectors may still be written
    pub(crate) writable_sectors: Rc<RefCell<usize>>,
}

impl MemoryDisk {
    pub(crate) fn new(capacity: usize) -> MemoryDisk {
        MemoryDisk {
            bytes: Rc::new(RefCell::new(vec![0; capacity])),
            writable_sectors: Rc::new(RefCell::new(usize::MAX)),
        }
    }

    pub(crate) fn database(&self) -> Database {
        Database::open(Box::new(self.clone()), 42, u64::MAX).unwrap()
    }
}

impl Disk for MemoryDisk {
    fn capacity(&self) -> u64 {
        self.bytes.borrow().len() as u64
    }

    fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), DiskError> {
        data.copy_from_slice(&self.bytes.borrow()[offset as usize..offset as usize + data.len()]);
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        let mut left = self.writable_sectors.borrow_mut();
        let count = data.len().min(left.saturating_mul(SECTOR_BYTES));
        *left -= count / SECTOR_BYTES;
        self.bytes.borrow_mut()[offset as usize..offset as usize + count].copy_from_slice(&data[..count]);
        if count == data.len() { Ok(()) } else { Err(DiskError::Write { offset }) }
    }
}

const CAPACITY: usize = 128 * 1024;
const KEYS: u8 = 12;

#[derive(Debug, Clone)]
enum Change {
    Set(u8, Vec<u8>),
    Delete(u8),
    Expire(u8, u64),
    Flush,
}

fn changes() -> impl Strategy<Value = Vec<Vec<Change>>> {
    let key = 0..KEYS;
    let change = prop_oneof![
        12 => (key.clone(), vec(any::<u8>(), 0..1500)).prop_map(|(key, value)| Change::Set(key, value)),
        3 => key.clone().prop_map(Change::Delete),
        2 => (key, 1..9u64).prop_map(|(key, at)| Change::Expire(key, at)),
        1 => Just(Change::Flush),
    ];
    vec(vec(change, 1..6), 1..40)
}

type Model = BTreeMap<Vec<u8>, State>;

fn key_name(key: u8) -> Vec<u8> {
    format!("key-{key}").into_bytes()
}

/// Makes a change in the database and in the model.
fn make(change: &Change, database: &mut Database, model: &mut Model) {
    match change {
        Change::Set(key, value) => {
            database.put(&key_name(*key), value, None);
            model.insert(key_name(*key), (value.clone(), None));
        }
        Change::Delete(key) => {
            database.delete(&key_name(*key));
            model.remove(&key_name(*key));
        }
        Change::Expire(key, at) => {
            if let Some((_, expires)) = model.get_mut(&key_name(*key)) {
                database.expire(&key_name(*key), Some(*at));
                *expires = Some(*at);
            }
        }
        Change::Flush => {
            database.flush();
            model.clear();
        }
    }
}

/// A value and its expiry.
type State = (Vec<u8>, Option<u64>);

fn state_of(database: &Database, key: u8) -> Result<Option<State>, DatabaseError> {
    let name = key_name(key);
    let expires = database.entry(&name)?.and_then(|entry| entry.expires);
    Ok(database.value(&name)?.map(|value| (value.to_vec(), expires)))
}

/// Every key is as the model has it.
fn assert_same(database: &Database, model: &Model) {
    for key in 0..KEYS {
        assert_eq!(state_of(database, key), Ok(model.get(&key_name(key)).cloned()), "key {key}");
    }
}

/// How a device is damaged.
#[derive(Debug, Clone)]
enum Injury {
    FlipBit(usize),
    ZeroSector(usize),
    GarbleSector(usize, u8),
}

fn injuries() -> impl Strategy<Value = Vec<Injury>> {
    let injury = prop_oneof![
        4 => any::<usize>().prop_map(Injury::FlipBit),
        1 => any::<usize>().prop_map(Injury::ZeroSector),
        1 => (any::<usize>(), 1..=255u8).prop_map(|(place, mask)| Injury::GarbleSector(place, mask)),
    ];
    vec(injury, 1..4)
}

/// Damages what is written of the device; the last batch is left alone by zeroing, as a device that forgets it cannot be
/// told from one that never got it.
fn injure(bytes: &mut [u8], injury: &Injury, log: std::ops::Range<usize>, zeroable: std::ops::Range<usize>) {
    let within = |place: usize, range: &std::ops::Range<usize>| range.start + place % range.len();
    match *injury {
        Injury::FlipBit(place) => bytes[within(place, &log)] ^= 1 << (place % 7),
        Injury::ZeroSector(place) => {
            if !zeroable.is_empty() {
                let start = within(place, &zeroable) / SECTOR_BYTES * SECTOR_BYTES;
                bytes[start..start + SECTOR_BYTES].fill(0);
            }
        }
        Injury::GarbleSector(place, mask) => {
            let start = within(place, &log) / SECTOR_BYTES * SECTOR_BYTES;
            bytes[start..start + SECTOR_BYTES].iter_mut().for_each(|byte| *byte ^= mask);
        }
    }
}

/// Where the current log lies on the device.
fn log_range(disk: &MemoryDisk, database: &Database) -> std::ops::Range<usize> {
    let Ok(super::superblock::Found::Superblock(superblock, _)) =
        super::superblock::Superblock::find(&mut disk.clone())
    else {
        panic!("no superblock")
    };
    let start = superblock.offset(0) as usize;
    start..start + database.journal().fill().0 as usize
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_was_committed_comes_back(rounds in changes()) {
        let disk = MemoryDisk::new(CAPACITY);
        let (mut database, mut model) = (disk.database(), Model::new());
        for round in &rounds {
            round.iter().for_each(|change| make(change, &mut database, &mut model));
            database.commit().unwrap();
        }
        assert_same(&database, &model);
        assert_same(&disk.database(), &model);
        prop_assert!(database.scrub().unwrap().damages.is_empty());
    }

    #[test]
    fn damage_never_yields_a_wrong_value_and_scrubbing_heals_it(rounds in changes(), injuries in injuries()) {
        let disk = MemoryDisk::new(CAPACITY);
        let (mut database, mut model) = (disk.database(), Model::new());
        let mut last_batch = 0;
        for round in &rounds {
            round.iter().for_each(|change| make(change, &mut database, &mut model));
            let before = log_range(&disk, &database);
            database.commit().unwrap();
            let after = log_range(&disk, &database);
            // A commit without changes writes no batch; one that compacts writes the log anew, in batches of its own.
            if after.start != before.start {
                last_batch = after.start;
            } else if after.end != before.end {
                last_batch = before.end;
            }
        }
        let log = log_range(&disk, &database);
        prop_assume!(!log.is_empty());
        let zeroable = log.start..last_batch.clamp(log.start, log.end);
        for injury in &injuries {
            injure(&mut disk.bytes.borrow_mut(), injury, log.clone(), zeroable.clone());
        }
        let injured = disk.bytes.borrow().clone();

        // Who reads it back knows the right value or says that it is lost; and again after the log was written anew.
        for _ in 0..2 {
            let recovered = disk.database();
            for key in 0..KEYS {
                match state_of(&recovered, key) {
                    Ok(state) => prop_assert_eq!(state.as_ref(), model.get(&key_name(key)), "key {}", key),
                    Err(error) => prop_assert_eq!(error, DatabaseError::Damaged),
                }
            }
        }

        // Who still has it in memory repairs it.
        disk.bytes.borrow_mut().copy_from_slice(&injured);
        prop_assert_eq!(log_range(&disk, &database), log);
        database.scrub().unwrap();
        assert_same(&database, &model);
        assert_same(&disk.database(), &model);
    }

    #[test]
    fn a_cut_off_commit_happened_or_did_not(rounds in changes(), last in vec((0..KEYS, vec(any::<u8>(), 0..3000)), 1..8), sectors in 0..40usize) {
        let disk = MemoryDisk::new(CAPACITY);
        let (mut database, mut model) = (disk.database(), Model::new());
        for round in &rounds {
            round.iter().for_each(|change| make(change, &mut database, &mut model));
            database.commit().unwrap();
        }
        let before = model.clone();
        for (key, value) in last {
            make(&Change::Set(key, value), &mut database, &mut model);
        }
        *disk.writable_sectors.borrow_mut() = sectors;
        let committed = database.commit().is_ok();
        *disk.writable_sectors.borrow_mut() = usize::MAX;

        let recovered = disk.database();
        prop_assert!(!recovered.keyspace().has_damage());
        let happened = (0..KEYS).all(|key| state_of(&recovered, key) == Ok(model.get(&key_name(key)).cloned()));
        if committed || happened {
            assert_same(&recovered, &model);
        } else {
            assert_same(&recovered, &before);
        }
    }

    #[test]
    fn a_commit_that_failed_succeeds_later(rounds in changes(), sectors in 0..30usize) {
        let disk = MemoryDisk::new(CAPACITY);
        let (mut database, mut model) = (disk.database(), Model::new());
        *disk.writable_sectors.borrow_mut() = sectors;
        for round in &rounds {
            round.iter().for_each(|change| make(change, &mut database, &mut model));
            if database.commit().is_err() {
                prop_assert!(database.failure().is_some());
                *disk.writable_sectors.borrow_mut() = usize::MAX;
                database.commit().unwrap();
            }
        }
        assert_same(&database, &model);
        assert_same(&disk.database(), &model);
    }
}

/// A database with one key a commit.
fn filled(disk: &MemoryDisk) -> Database {
    let mut database = disk.database();
    for key in [b"a", b"b", b"c"] {
        database.put(key, key, None);
        database.commit().unwrap();
    }
    database
}

#[test]
fn a_damaged_record_is_reported_with_its_place_and_only_its_key_is_lost() {
    let disk = MemoryDisk::new(CAPACITY);
    drop(filled(&disk));
    // Three batches of a sector of records and one of directory; the middle one's record is hit.
    let offset = 8192 + 2 * SECTOR_BYTES;
    disk.bytes.borrow_mut()[offset + 70] ^= 1;
    let mut recovered = disk.database();
    let messages = recovered.take_messages();
    let expected = format!("damaged at byte {offset} of the device: a record of batch 2; the key of digest");
    assert!(messages.iter().any(|message| message.starts_with(&expected)), "{messages:?}");
    assert_eq!(recovered.value(b"a"), Ok(Some(b"a".as_slice())));
    assert_eq!(recovered.value(b"b"), Err(DatabaseError::Damaged));
    assert_eq!(recovered.value(b"c"), Ok(Some(b"c".as_slice())));
    recovered.put(b"b", b"new", None);
    recovered.commit().unwrap();
    assert_eq!(disk.database().value(b"b"), Ok(Some(b"new".as_slice())));
}

#[test]
fn when_a_whole_batch_is_damaged_only_keys_written_later_are_served() {
    let disk = MemoryDisk::new(CAPACITY);
    drop(filled(&disk));
    for sector in [2, 3] {
        disk.bytes.borrow_mut()[8192 + sector * SECTOR_BYTES + 70] ^= 1;
    }
    let recovered = disk.database();
    assert_eq!(recovered.value(b"a"), Err(DatabaseError::Damaged));
    assert_eq!(recovered.value(b"never-written"), Err(DatabaseError::Damaged));
    assert_eq!(recovered.value(b"c"), Ok(Some(b"c".as_slice())));
}

#[test]
fn the_last_batch_is_not_taken_for_torn_when_a_bit_of_it_flipped() {
    let disk = MemoryDisk::new(CAPACITY);
    drop(filled(&disk));
    disk.bytes.borrow_mut()[8192 + 4 * SECTOR_BYTES + 70] ^= 1;
    assert_eq!(disk.database().value(b"c"), Err(DatabaseError::Damaged));
}

#[test]
fn either_copy_of_the_superblock_suffices_and_without_both_the_device_is_refused() {
    for copy in [0, 4096] {
        let disk = MemoryDisk::new(CAPACITY);
        drop(filled(&disk));
        disk.bytes.borrow_mut()[copy + 20] ^= 1;
        assert_eq!(disk.database().value(b"c"), Ok(Some(b"c".as_slice())));
        // It was written anew, so now the other one may go.
        disk.bytes.borrow_mut()[4096 - copy + 20] ^= 1;
        assert_eq!(disk.database().value(b"c"), Ok(Some(b"c".as_slice())));
    }
    for fill in [0, 0x55] {
        let disk = MemoryDisk::new(CAPACITY);
        drop(filled(&disk));
        [0, 4096].into_iter().for_each(|copy| disk.bytes.borrow_mut()[copy..copy + SECTOR_BYTES].fill(fill));
        let error = Database::open(Box::new(disk.clone()), 1, u64::MAX).err();
        assert_eq!(error, Some(super::superblock::SuperblockError::Damaged));
    }
}

#[test]
fn a_long_run_does_not_fill_the_device_and_live_data_that_would_is_refused() {
    let disk = MemoryDisk::new(CAPACITY);
    let mut database = disk.database();
    for round in 0..2000 {
        database.set(b"key", format!("value {round}").as_bytes(), None).unwrap();
        database.commit().unwrap();
    }
    assert!(database.journal().generation() > 10);
    let refused = (0..).find(|number: &u32| {
        let refused = database.set(&number.to_le_bytes(), &[7; 1000], None) == Err(DatabaseError::Full);
        database.commit().unwrap();
        refused
    });
    assert!((30..100).contains(&refused.unwrap()));
    assert_eq!(disk.database().keyspace().len(), refused.unwrap() as usize + 1);
    database.delete(&0u32.to_le_bytes());
    database.set(b"other", &[7; 900], None).unwrap();
    database.commit().unwrap();
    assert_eq!(disk.database().value(b"other"), Ok(Some([7; 900].as_slice())));
}
