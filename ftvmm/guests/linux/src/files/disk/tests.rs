//! The file system on a device in memory, by itself and in a tree.

use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use std::sync::Mutex;

use super::*;
use crate::files::file_system::Node;
use crate::files::ram::Ram;

const CAPACITY: usize = 24 << 20;
/// In nanoseconds since 1970.
const NOW: u64 = 1_700_000_000 * NANOSECONDS;

/// A device in memory, which may refuse writes.
#[derive(Clone)]
struct Memory(Arc<Mutex<State>>);

struct State {
    content: Vec<u8>,
    writes: usize,
    is_refusing: bool,
}

impl Memory {
    fn new() -> Memory {
        Memory(Arc::new(Mutex::new(State { content: vec![0; CAPACITY], writes: 0, is_refusing: false })))
    }

    fn mount(&self) -> DiskFiles {
        DiskFiles::mount(Box::new(self.clone()), NOW, |_| {}).unwrap()
    }

    fn writes(&self) -> usize {
        self.0.lock().unwrap().writes
    }

    fn refuse(&self, is_refusing: bool) {
        self.0.lock().unwrap().is_refusing = is_refusing;
    }
}

impl disk::BlockDevice for Memory {
    fn capacity_bytes(&self) -> u64 {
        CAPACITY as u64
    }

    fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        data.copy_from_slice(&self.0.lock().unwrap().content[offset as usize..][..data.len()]);
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        let mut state = self.0.lock().unwrap();
        if state.is_refusing {
            return Err(DeviceError::Write { offset });
        }
        state.writes += 1;
        state.content[offset as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }
}

fn file(files: &mut DiskFiles, name: &str) -> u64 {
    files.create(files.root(), name, &New::File, 0o644, NOW).unwrap()
}

fn directory(files: &mut DiskFiles, name: &str) -> u64 {
    files.create(files.root(), name, &New::Directory, 0o755, NOW).unwrap()
}

fn content(files: &DiskFiles, node: u64) -> Vec<u8> {
    let mut content = vec![0; files.attributes(node).unwrap().size as usize];
    assert_eq!(files.read_at(node, 0, &mut content), Ok(content.len()));
    content
}

/// The names behind a place, and their places; `count` at most.
fn names(files: &DiskFiles, directory: u64, behind: u64, count: usize) -> Vec<(String, u64)> {
    let mut names = vec![];
    files
        .list(directory, behind, &mut |entry| {
            names.push((entry.name.to_string(), entry.place));
            names.len() < count
        })
        .unwrap();
    names
}

#[test]
fn what_was_synchronised_is_there_after_a_loss() {
    let device = Memory::new();
    let mut files = device.mount();
    let node = file(&mut files, "log");
    let expected: Vec<u8> = (0..100_000u32).map(|index| index as u8).collect();
    for (index, part) in expected.chunks(1000).enumerate() {
        assert_eq!(files.write_at(node, index as u64 * 1000, part, NOW), Ok(part.len()));
    }
    files.synchronise(Some(node)).unwrap();
    drop(files);
    let files = device.mount();
    let node = files.lookup(files.root(), "log").unwrap().unwrap();
    assert_eq!(content(&files, node), expected);
    assert_eq!(files.lookup(files.root(), "other"), Ok(None));
}

#[test]
fn a_refused_write_makes_every_fsync_fail_from_there_on() {
    let device = Memory::new();
    let mut files = device.mount();
    let (node, other) = (file(&mut files, "file"), file(&mut files, "other"));
    files.synchronise(None).unwrap();
    files.write_at(node, 0, b"lost", NOW).unwrap();
    device.refuse(true);
    assert_eq!(files.synchronise(Some(node)), Err(errno::EIO));
    device.refuse(false);
    let before = device.writes();
    assert_eq!(files.synchronise(Some(node)), Err(errno::EIO));
    assert_eq!(files.synchronise(Some(other)), Err(errno::EIO));
    assert_eq!(files.write_at(node, 0, b"more", NOW), Err(errno::EIO));
    assert_eq!(device.writes(), before);
    let mut files = device.mount();
    let node = file(&mut files, "new");
    assert_eq!(files.synchronise(Some(node)), Ok(()));
}

#[test]
fn the_first_failure_is_told_once() {
    static TOLD: AtomicU64 = AtomicU64::new(0);
    let device = Memory::new();
    fn tell(_: &DiskError) {
        TOLD.fetch_add(1, Ordering::Relaxed);
    }
    let mut files = DiskFiles::mount(Box::new(device.clone()), NOW, tell).unwrap();
    let node = file(&mut files, "file");
    assert_eq!(files.lookup(node, "below"), Err(errno::ENOTDIR));
    assert_eq!(TOLD.load(Ordering::Relaxed), 0);
    device.refuse(true);
    for _ in 0..2 {
        assert_eq!(files.synchronise(None), Err(errno::EIO));
        assert_eq!(files.truncate(node, 100, NOW), Err(errno::EIO));
    }
    assert_eq!(TOLD.load(Ordering::Relaxed), 1);
}

#[test]
fn a_device_with_something_else_is_refused() {
    let device = Memory::new();
    device.0.lock().unwrap().content[510] = 0x55;
    let error = DiskFiles::mount(Box::new(device.clone()), NOW, |_| {}).err().unwrap();
    assert_eq!(
        MountError::from(error).to_string(),
        "the block device `storage`: the device holds something else than this file system, and is left alone"
    );
    assert_eq!(device.writes(), 0);
}

#[test]
fn a_listing_goes_on_where_it_was_whatever_comes_and_goes() {
    let mut files = Memory::new().mount();
    let many = directory(&mut files, "many");
    // More than a block holds: the directory gets an index meanwhile, which changes the order on the device.
    let name = |index| alloc::format!("a name of some length, number {index}");
    let create = |files: &mut DiskFiles, index| files.create(many, &name(index), &New::File, 0o644, NOW).unwrap();
    for index in 0..50 {
        create(&mut files, index);
    }
    files.open(many);
    let first = names(&files, many, 0, 20);
    for index in 50..500 {
        create(&mut files, index);
    }
    files.remove(many, &first[5].0, NOW).unwrap();
    let rest = names(&files, many, first[19].1, usize::MAX);
    let mut seen: Vec<_> = first.iter().chain(&rest).map(|(name, _)| name.clone()).collect();
    assert!(rest.windows(2).all(|pair| pair[0].1 < pair[1].1));
    seen.sort();
    let mut expected: Vec<_> = (0..500).map(name).collect();
    expected.sort();
    assert_eq!(seen, expected);
    assert_eq!(names(&files, many, rest.last().unwrap().1, 1), []);
    files.close(many);
    assert!(files.listings.borrow().is_empty());
    assert_eq!(names(&files, many, 0, usize::MAX).len(), 499);
    assert!(files.listings.borrow().is_empty());
}

#[test]
fn what_is_open_stays_without_its_name() {
    let mut files = Memory::new().mount();
    let root = files.root();
    let (node, below) = (file(&mut files, "file"), directory(&mut files, "directory"));
    assert_eq!(files.parent(below), Ok(root));
    for node in [node, below] {
        files.open(node);
    }
    files.remove(root, "file", NOW).unwrap();
    files.remove(root, "directory", NOW).unwrap();
    assert_eq!(files.write_at(node, 0, b"still here", NOW), Ok(10));
    assert_eq!(content(&files, node), b"still here");
    assert_eq!((files.attributes(node).unwrap().links, files.attributes(below).unwrap().links), (0, 0));
    // Nothing can be put into a directory that has gone.
    assert_eq!(files.create(below, "new", &New::File, 0o644, NOW), Err(errno::ENOENT));
    assert_eq!(files.link(node, root, "again", NOW), Err(errno::ENOENT));
    assert_eq!(files.list(below, 0, &mut |_| true), Err(errno::ENOENT));
    assert_eq!(files.parent(below), Err(errno::ENOENT));
    assert_eq!(files.lookup(below, "any"), Ok(None));
    for node in [node, below] {
        files.close(node);
        assert!(files.attributes(node).is_err());
    }
}

#[test]
fn links_lead_and_files_have_many_names() {
    let mut files = Memory::new().mount();
    let root = files.root();
    let node = file(&mut files, "file");
    files.link(node, root, "other", NOW).unwrap();
    assert_eq!(files.attributes(node).unwrap().links, 2);
    let link = files.create(root, "link", &New::Link("other"), 0o777, NOW).unwrap();
    assert_eq!(files.read_link(link), Ok("other".to_string()));
    assert_eq!(files.attributes(link).unwrap().size, 5);
    assert_eq!(files.read_link(node), Err(errno::EINVAL));
    let socket = files.create(root, "socket", &New::Socket, 0o755, NOW).unwrap();
    let kinds = [node, link, socket, root].map(|node| files.attributes(node).unwrap().kind.mode());
    use linux_raw_sys::general::{S_IFDIR, S_IFLNK, S_IFREG, S_IFSOCK};
    assert_eq!(kinds, [S_IFREG, S_IFLNK, S_IFSOCK, S_IFDIR]);
    assert_eq!(files.name_of(root, socket), Ok("socket".to_string()));
    files.rename((root, "file"), (root, "link"), NOW).unwrap();
    assert_eq!(files.lookup(root, "link"), Ok(Some(node)));
    assert_eq!(files.lookup(root, "file"), Ok(None));
}

#[test]
fn attributes_change_as_they_are_told_to() {
    let mut files = Memory::new().mount();
    let node = file(&mut files, "file");
    let change = Change { permissions: Some(0o6755), group: Some(7), ..Change::default() };
    files.change(node, &change, NOW + 2 * NANOSECONDS).unwrap();
    let attributes = files.attributes(node).unwrap();
    assert_eq!((attributes.permissions, attributes.owner, attributes.group), (0o6755, 0, 7));
    assert_eq!((attributes.modified, attributes.changed), (NOW, NOW + 2 * NANOSECONDS));
    let times = Change { accessed: Some(5 * NANOSECONDS + 1), modified: Some(u64::MAX), ..Change::default() };
    files.change(node, &times, NOW).unwrap();
    let attributes = files.attributes(node).unwrap();
    assert_eq!(attributes.accessed, 5 * NANOSECONDS);
    assert_eq!(attributes.modified, u64::from(u32::MAX) * NANOSECONDS);
    // A file that is read has not been read.
    files.write_at(node, 0, &[1; 5000], NOW).unwrap();
    files.read_at(node, 0, &mut [0; 10]).unwrap();
    let attributes = files.attributes(node).unwrap();
    assert_eq!((attributes.accessed, attributes.modified, attributes.size), (5 * NANOSECONDS, NOW, 5000));
    assert_eq!(attributes.allocated, 8192);
}

#[test]
fn a_directory_with_setgid_passes_its_group_on() {
    let mut files = Memory::new().mount();
    let shared = directory(&mut files, "shared");
    let change = Change { permissions: Some(0o2775), group: Some(50), ..Change::default() };
    files.change(shared, &change, NOW).unwrap();
    let inner = files.create(shared, "inner", &New::Directory, 0o755, NOW).unwrap();
    let node = files.create(inner, "file", &New::File, 0o644, NOW).unwrap();
    let of = |node| files.attributes(node).map(|attributes| (attributes.permissions, attributes.group));
    assert_eq!((of(inner), of(node)), (Ok((0o2755, 50)), Ok((0o644, 50))));
}

#[test]
fn a_full_device_takes_what_fits_and_says_how_much() {
    let mut files = Memory::new().mount();
    let node = file(&mut files, "large");
    let part = vec![1; 300_000];
    let mut written = 0;
    let error = loop {
        match files.write_at(node, written, &part, NOW) {
            Ok(count) => written += count as u64,
            Err(error) => break error,
        }
    };
    assert_eq!(error, errno::ENOSPC);
    assert_eq!(files.attributes(node).unwrap().size, written);
    let space = files.space();
    assert!(space.free_blocks < 10 && space.blocks == CAPACITY as u64 / BLOCK_BYTES);
    files.truncate(node, 0, NOW).unwrap();
    assert!(files.space().free_blocks * BLOCK_BYTES >= written);
    files.synchronise(None).unwrap();
}

#[test]
fn what_nobody_synchronises_is_brought_to_the_device_after_a_while() {
    let device = Memory::new();
    let ram = Ram::new(1 << 20);
    let mut tree = Tree::with_root(Box::new(ram), Vec::<Rc<_>>::new());
    tree.mount("/", DEVICE, Box::new(device.mount())).unwrap();
    assert_eq!(tree.write_back_time(), None);
    let walk = tree.walk(Node { mount: 1, number: 2 }, "file", Last::Name, &|_| None).unwrap();
    let node = tree.create(&walk, &New::File, 0o644, NOW).unwrap();
    tree.write_at(node, 0, b"content", NOW + NANOSECONDS).unwrap();
    let due = NOW + 5 * NANOSECONDS;
    assert_eq!(tree.write_back_time(), Some(due));
    let before = device.writes();
    tree.write_back(due - 1);
    assert_eq!(device.writes(), before);
    tree.write_back(due);
    assert!(device.writes() > before);
    assert_eq!(tree.write_back_time(), None);
    let files = device.mount();
    let node = files.lookup(files.root(), "file").unwrap().unwrap();
    assert_eq!(content(&files, node), b"content");
}

#[test]
fn it_is_a_part_of_the_tree() {
    let mut ram = Ram::new(1 << 20);
    ram.put(ram.root(), "data", Ram::directory(), 0o755, NOW).unwrap();
    let mut tree = Tree::with_root(Box::new(ram), Vec::<Rc<_>>::new());
    tree.mount(PATH, DEVICE, Box::new(Memory::new().mount())).unwrap();
    let walk = |tree: &Tree, path: &str| tree.walk(tree.root(), path, Last::Name, &|_| None).unwrap();
    let inner: Node = tree.create(&walk(&tree, "/data/inner"), &New::Directory, 0o755, NOW).unwrap();
    let node = tree.create(&walk(&tree, "/data/inner/file"), &New::File, 0o644, NOW).unwrap();
    assert_eq!(tree.path_of(inner), Ok("/data/inner".to_string()));
    tree.rename(&walk(&tree, "/data/inner/file"), &walk(&tree, "/data/file"), false, NOW).unwrap();
    assert_eq!(walk(&tree, "/data/inner/../file").node(), Ok(node));
    assert_eq!(tree.rename(&walk(&tree, "/data/file"), &walk(&tree, "/file"), false, NOW), Err(errno::EXDEV));
    assert_eq!(tree.remove_directory(&walk(&tree, "/data/inner"), NOW), Ok(()));
    let mounts: Vec<_> = tree.mounts().skip(1).collect();
    assert_eq!(mounts, [("storage", "/data", "ext4")]);
    tree.synchronise(None).unwrap();
}
