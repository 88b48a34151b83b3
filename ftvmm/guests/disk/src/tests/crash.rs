//! A loss of the machine at every write, and in the middle of it.

use std::collections::BTreeMap;

use super::memory::{MemoryDevice, SECTOR_BYTES};
use super::{Random, content, mount};
use crate::format::CAPACITY_BYTES_MIN;
use crate::{Disk, DiskError};

/// What a name stood for after an operation: None for nothing.
struct Version {
    /// how many writes there had been when the operation began
    began: usize,
    content: Option<Vec<u8>>,
}

/// A file system, and what each of its files held after each operation.
struct Workload {
    device: MemoryDevice,
    disk: Disk,
    random: Random,
    now: BTreeMap<String, Vec<u8>>,
    history: BTreeMap<String, Vec<Version>>,
    /// how many writes there were after a sync, and the newest version of each name
    synced: Vec<(usize, BTreeMap<String, usize>)>,
}

impl Workload {
    fn new(device: MemoryDevice) -> Workload {
        let disk = mount(&device).unwrap();
        let random = Random(88_172_645_463_325_252);
        Workload { device, disk, random, now: BTreeMap::new(), history: BTreeMap::new(), synced: Vec::new() }
    }

    fn note(&mut self, name: &str, began: usize) {
        let content = self.now.get(name).cloned();
        let first = || vec![Version { began: 0, content: None }];
        self.history.entry(name.to_string()).or_insert_with(first).push(Version { began, content });
    }

    fn create(&mut self, name: &str) {
        let began = self.device.write_count();
        let root = self.disk.root();
        self.disk.create(root, name.as_bytes(), 0o644).unwrap();
        self.now.insert(name.to_string(), Vec::new());
        self.note(name, began);
    }

    fn write(&mut self, name: &str, offset: usize, length: usize) {
        let began = self.device.write_count();
        let data = self.random.bytes(length);
        let file = super::inode(&mut self.disk, name);
        self.disk.write_at(file, offset as u64, &data).unwrap();
        let content = self.now.get_mut(name).unwrap();
        content.resize(content.len().max(offset + length), 0);
        content[offset..offset + length].copy_from_slice(&data);
        self.note(name, began);
    }

    fn append(&mut self, name: &str, length: usize) {
        self.write(name, self.now[name].len(), length);
    }

    fn truncate(&mut self, name: &str, length: usize) {
        let began = self.device.write_count();
        let file = super::inode(&mut self.disk, name);
        self.disk.truncate(file, length as u64).unwrap();
        self.now.get_mut(name).unwrap().resize(length, 0);
        self.note(name, began);
    }

    fn remove(&mut self, name: &str) {
        let began = self.device.write_count();
        let root = self.disk.root();
        self.disk.remove(root, name.as_bytes()).unwrap();
        self.now.remove(name);
        self.note(name, began);
    }

    fn rename(&mut self, old_name: &str, new_name: &str) {
        let began = self.device.write_count();
        let root = self.disk.root();
        self.disk.rename(root, old_name.as_bytes(), root, new_name.as_bytes()).unwrap();
        let content = self.now.remove(old_name).unwrap();
        self.now.insert(new_name.to_string(), content);
        self.note(old_name, began);
        self.note(new_name, began);
    }

    fn sync(&mut self) {
        self.disk.sync().unwrap();
        let newest = self.history.iter().map(|(name, versions)| (name.clone(), versions.len() - 1)).collect();
        self.synced.push((self.device.write_count(), newest));
    }

    /// Whether each file is as it may be after a loss when `writes` writes were done.
    fn check(&self, disk: &mut Disk, writes: usize) -> Result<(), String> {
        let synced = self.synced.iter().rev().find(|(at, _)| *at <= writes);
        let root = disk.root();
        for (name, versions) in &self.history {
            let oldest = synced.and_then(|(_, newest)| newest.get(name).copied()).unwrap_or(0);
            let begun = versions.iter().rposition(|version| version.began <= writes).unwrap_or(0);
            let possible = &versions[oldest..=begun.max(oldest)];
            let found = match disk.lookup(root, name.as_bytes()) {
                Ok(attributes) => Some(content(disk, attributes.inode).map_err(|error| format!("{name}: {error}"))?),
                Err(DiskError::NotFound) => None,
                Err(error) => return Err(format!("{name}: {error}")),
            };
            if !possible.iter().any(|version| version.content == found) {
                is_mixture(&found, possible).map_err(|reason| format!("{name}: {reason}"))?;
            }
        }
        Ok(())
    }
}

/// Whether a content comes about when some of the changes between the possible versions reached the device and others did
/// not, sector by sector; where a version ends before a byte, the byte may be zero.
fn is_mixture(found: &Option<Vec<u8>>, possible: &[Version]) -> Result<(), &'static str> {
    let Some(found) = found else { return Err("is missing") };
    let contents: Vec<_> = possible.iter().filter_map(|version| version.content.as_ref()).collect();
    let lengths = contents.iter().map(|content| content.len());
    let (Some(shortest), Some(longest)) = (lengths.clone().min(), lengths.max()) else { return Err("came back") };
    if !(shortest..=longest).contains(&found.len()) {
        return Err("has a wrong length");
    }
    for (index, sector) in found.chunks(SECTOR_BYTES).enumerate() {
        let start = index * SECTOR_BYTES;
        let is_of =
            |content: &[u8]| (start..).zip(sector).all(|(at, byte)| *byte == content.get(at).copied().unwrap_or(0));
        let ends_before = contents.iter().any(|content| content.len() < start + sector.len());
        let mixed =
            |(at, byte): (usize, &u8)| *byte == 0 || contents.iter().any(|content| content.get(at) == Some(byte));
        let is_possible =
            contents.iter().any(|content| is_of(content)) || ends_before && (start..).zip(sector).all(mixed);
        if !is_possible {
            return Err("has bytes that were never written there");
        }
    }
    Ok(())
}

/// A device whose journal went round once. Behind new records are the old ones of directories, which are zeros but for a few
/// bytes, so that a torn record does not just seem to end there.
fn used_device() -> MemoryDevice {
    let device = MemoryDevice::new(CAPACITY_BYTES_MIN as usize);
    let mut disk = mount(&device).unwrap();
    let root = disk.root();
    for _ in 0..70 {
        let names: Vec<_> = (0..40).map(|number| format!("directory-{number}")).collect();
        for name in &names {
            disk.create_directory(root, name.as_bytes(), 0o755).unwrap();
        }
        disk.sync().unwrap();
        for name in &names {
            disk.remove_directory(root, name.as_bytes()).unwrap();
        }
        disk.sync().unwrap();
    }
    disk.unmount().unwrap();
    device.take_writes();
    device
}

/// What databases do, and what makes file systems stumble.
fn run(workload: &mut Workload) {
    // An append-only file.
    workload.create("log");
    workload.sync();
    for _ in 0..200 {
        workload.append("log", 137);
        workload.sync();
    }
    // A file that is replaced whole.
    workload.create("dump");
    workload.write("dump", 0, 5000);
    workload.sync();
    for round in 0..6 {
        workload.create("temporary");
        workload.write("temporary", 0, 3000 + round * 1311);
        workload.sync();
        workload.rename("temporary", "dump");
        workload.sync();
    }
    // A file that is cut off.
    workload.truncate("log", 10_500);
    workload.sync();
    workload.append("log", 700);
    workload.truncate("log", 7000);
    workload.truncate("log", 12_000);
    workload.append("log", 100);
    workload.sync();
    // A file that is written over in place, under a rollback journal.
    workload.create("database");
    workload.write("database", 0, 65_536);
    workload.sync();
    for round in 0..5 {
        workload.create("rollback");
        workload.write("rollback", 0, 512);
        workload.write("rollback", 512, 3 * 4104);
        workload.sync();
        workload.write("database", 0, 4096);
        workload.write("database", 4096 * (1 + round * 7 % 15), 4096);
        workload.write("database", 4096 * (1 + round * 5 % 15), 4096);
        workload.sync();
        workload.remove("rollback");
        workload.sync();
    }
    // Blocks that change hands while nothing is synced.
    for number in 0..9 {
        workload.create(&format!("old-{number}"));
        workload.write(&format!("old-{number}"), 0, 20_000);
    }
    workload.sync();
    for number in 0..4 {
        workload.remove(&format!("old-{number}"));
        workload.create(&format!("new-{number}"));
        workload.write(&format!("new-{number}"), 0, 30_000);
    }
    for number in 4..7 {
        workload.truncate(&format!("old-{number}"), 4096 * number % 9000);
        workload.create(&format!("new-{number}"));
        workload.write(&format!("new-{number}"), 0, 150_000);
    }
    workload.rename("old-7", "old-9");
    workload.write("old-8", 5, 9000);
    workload.sync();
    for name in ["old-4", "old-5", "old-6", "old-8", "old-9", "new-0"] {
        workload.remove(name);
    }
    let root = workload.disk.root();
    for number in 0..20 {
        // Longer than what an inode has room for.
        workload.disk.create_symbolic_link(root, format!("link-{number}").as_bytes(), &[b'x'; 200]).unwrap();
    }
    workload.sync();
    // Holes, and a file in many pieces.
    workload.create("sparse");
    for number in 0..40 {
        workload.write("sparse", (number * 7 % 40) * 12_000, 600);
    }
    workload.sync();
    workload.write("sparse", 100_000, 5000);
    workload.truncate("sparse", 50_000);
    workload.sync();
    // So many blocks of directories that their journal descriptor does not fit a sector.
    let root = workload.disk.root();
    for number in 0..50 {
        workload.disk.create_directory(root, format!("directory-{number}").as_bytes(), 0o755).unwrap();
    }
    workload.append("log", 9);
    workload.sync();
}

/// Ways for a write of so many sectors to be cut off, each as the sectors that were reached.
fn tears(sectors: usize, is_special: bool, random: &mut Random) -> Vec<Vec<bool>> {
    let mut tears = vec![vec![false; sectors]];
    if is_special {
        // The first block in order; and all but one of its sectors.
        tears.extend((1..8).map(|reached| (0..sectors).map(|sector| sector < reached).collect()));
        tears.extend((0..8).map(|missing| (0..sectors).map(|sector| sector != missing).collect()));
    } else {
        tears.push((0..sectors).map(|sector| sector == 0).collect());
        tears.push((0..sectors).map(|sector| sector + 1 < sectors).collect());
    }
    tears.push((0..sectors).map(|_| random.next() >> 40 & 1 == 1).collect());
    tears
}

/// Loses the machine in the middle of each of these writes, and checks what is there then.
fn lose(start: Vec<u8>, workload: &Workload, chosen: impl Fn(usize) -> bool) {
    let writes = workload.device.take_writes();
    let mut random = Random(1);
    let lost = MemoryDevice::of_image(start);
    let mut cases = 0;
    for (count, write) in writes.iter().enumerate() {
        let is_special = write.0 == 0 || write.1.starts_with(&[0xc0, 0x3b, 0x39, 0x98]);
        let sectors = write.1.len() / SECTOR_BYTES;
        for reached in tears(sectors, is_special, &mut random).into_iter().filter(|_| chosen(count)) {
            lost.tear(write, |sector| reached[sector]);
            let result = mount(&lost).map_err(|error| error.to_string());
            let result = result.and_then(|mut disk| workload.check(&mut disk, count));
            assert_eq!(result, Ok(()), "write {count} of {} at {}, sectors {reached:?}", writes.len(), write.0);
            cases += 1;
        }
        lost.apply(write);
    }
    assert!(cases > 100, "{cases} losses");
}

#[test]
fn what_was_synced_is_there_after_a_loss_at_any_write() {
    let device = used_device();
    let start = device.state().image.clone();
    let mut workload = Workload::new(device);
    run(&mut workload);
    lose(start, &workload, |_| true);
}

#[test]
fn what_was_synced_is_there_when_the_journal_goes_round() {
    let device = used_device();
    let start = device.state().image.clone();
    let mut workload = Workload::new(device);
    workload.create("counter");
    workload.write("counter", 0, 8);
    workload.sync();
    for _ in 0..950 {
        workload.write("counter", 0, 8);
        workload.sync();
    }
    // The superblock is in the oldest transactions alone, so it is written in its place when they leave the journal.
    let state = workload.device.state();
    let places: Vec<_> = state.writes.iter().enumerate().filter(|(_, write)| write.0 == 0).map(|(at, _)| at).collect();
    drop(state);
    let last = *places.last().unwrap();
    assert!(last > 1000, "{places:?}");
    lose(start, &workload, |count| count.abs_diff(last) < 7);
}
