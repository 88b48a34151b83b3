//! What each operation answers, and what it costs.

use super::memory::MemoryDevice;
use super::{clock, inode, mount};
use crate::format::CAPACITY_BYTES_MIN;
use crate::{Change, Disk, DiskError, Kind, Timestamp};

fn disk() -> (MemoryDevice, Disk) {
    let device = MemoryDevice::new(CAPACITY_BYTES_MIN as usize);
    let disk = mount(&device).unwrap();
    (device, disk)
}

#[test]
fn errors_are_those_of_linux() {
    let (_device, mut disk) = disk();
    let root = disk.root();
    let directory = disk.create_directory(root, b"directory", 0o755).unwrap().inode;
    let file = disk.create(directory, b"file", 0o644).unwrap().inode;
    disk.create(root, b"other", 0o644).unwrap();
    disk.create_directory(root, b"empty", 0o755).unwrap();
    let long = [b'x'; 256];
    let answers: [(&str, Result<(), DiskError>, i32); 22] = [
        ("lookup", disk.lookup(root, b"none").map(drop), 2),
        ("lookup in a file", disk.lookup(file, b"none").map(drop), 20),
        ("lookup of a long name", disk.lookup(root, &long).map(drop), 36),
        ("create a long name", disk.create(root, &long, 0o644).map(drop), 36),
        ("create a path", disk.create(root, b"a/b", 0o644).map(drop), 22),
        ("create what is there", disk.create(root, b"other", 0o644).map(drop), 17),
        ("create a directory that is there", disk.create_directory(root, b"directory", 0o755).map(drop), 17),
        ("create .", disk.create(root, b".", 0o644).map(drop), 17),
        ("remove a directory as a file", disk.remove(root, b"directory"), 21),
        ("remove a file as a directory", disk.remove_directory(root, b"other"), 20),
        ("remove what holds a file", disk.remove_directory(root, b"directory"), 39),
        ("remove nothing", disk.remove(root, b"none"), 2),
        ("rename nothing", disk.rename(root, b"none", root, b"other"), 2),
        ("rename a file over a directory", disk.rename(root, b"other", root, b"empty"), 21),
        ("rename a directory over a file", disk.rename(root, b"empty", root, b"other"), 20),
        ("rename over what holds a file", disk.rename(root, b"empty", root, b"directory"), 39),
        ("rename into itself", disk.rename(root, b"directory", directory, b"below"), 22),
        ("rename into itself, over what is there", disk.rename(root, b"directory", directory, b"file"), 22),
        ("rename over what it lies in", disk.rename(directory, b"file", root, b"directory"), 39),
        ("list a file", disk.list(file).map(drop), 20),
        ("write to a directory", disk.write_at(root, 0, b"x").map(drop), 21),
        ("write far beyond", disk.write_at(file, 1 << 60, b"x").map(drop), 27),
    ];
    for (what, answer, errno) in answers {
        assert_eq!(answer.map_err(|error| error.errno()), Err(errno), "{what}");
    }
    assert_eq!(disk.lookup(directory, b"..").unwrap().inode, root);
    disk.rename(root, b"other", root, b"other").unwrap();
}

#[test]
fn attributes_are_kept() {
    let (device, mut disk) = disk();
    let root = disk.root();
    let file = disk.create(root, b"file", 0o640).unwrap().inode;
    disk.write_at(file, 0, &[1; 5000]).unwrap();
    let modified = Some(Timestamp { seconds: 1_000_000_000, nanoseconds: 5 });
    let change = Change { permissions: Some(0o1600), owner: Some((70_000, 3)), modified, ..Change::default() };
    disk.set_attributes(file, &change).unwrap();
    disk.sync().unwrap();
    drop(disk);
    let mut disk = mount(&device).unwrap();
    let attributes = disk.lookup(root, b"file").unwrap();
    assert_eq!(attributes.kind, Kind::File);
    assert_eq!((attributes.permissions, attributes.user, attributes.group), (0o1600, 70_000, 3));
    assert_eq!((attributes.size_bytes, attributes.sectors, attributes.links), (5000, 16, 1));
    assert_eq!(attributes.modified_seconds, 1_000_000_000);
    assert_eq!(i64::from(attributes.changed_seconds), clock().seconds);
    assert_eq!(disk.attributes(root).unwrap().kind, Kind::Directory);
}

#[test]
fn a_large_directory_is_listed_whole() {
    let (device, mut disk) = disk();
    let root = disk.root();
    let directory = disk.create_directory(root, b"many", 0o755).unwrap().inode;
    let mut names: Vec<_> = (0..1500).map(|number| format!("a name of some length {number}").into_bytes()).collect();
    for name in &names {
        disk.create(directory, name, 0o644).unwrap();
    }
    disk.sync().unwrap();
    drop(disk);
    let mut disk = mount(&device).unwrap();
    names.sort();
    let mut listed: Vec<_> = disk.list(directory).unwrap().into_iter().map(|entry| entry.name).collect();
    listed.sort();
    assert_eq!(listed, names);
    for name in &names {
        disk.remove(directory, name).unwrap();
    }
    assert_eq!(disk.list(directory), Ok(Vec::new()));
    disk.remove_directory(root, b"many").unwrap();
}

#[test]
fn holes_take_no_room_and_read_as_zeros() {
    let (_device, mut disk) = disk();
    let root = disk.root();
    let file = disk.create(root, b"sparse", 0o644).unwrap().inode;
    disk.write_at(file, 1 << 40, b"far").unwrap();
    assert_eq!(disk.attributes(file).unwrap().sectors, 8);
    let mut data = [1; 10];
    assert_eq!(disk.read_at(file, (1 << 40) - 5, &mut data), Ok(8));
    assert_eq!(&data[..8], b"\0\0\0\0\0far");
    // What was cut off does not come back.
    disk.truncate(file, (1 << 40) + 1).unwrap();
    disk.truncate(file, (1 << 40) + 3).unwrap();
    assert_eq!(disk.read_at(file, 1 << 40, &mut data), Ok(3));
    assert_eq!(&data[..3], b"f\0\0");
}

#[test]
fn files_in_many_pieces_are_cut_off() {
    let mut disk = mount(&MemoryDevice::new(2 * CAPACITY_BYTES_MIN as usize)).unwrap();
    let root = disk.root();
    let files = [&b"one"[..], b"other"].map(|name| disk.create(root, name, 0o644).unwrap().inode);
    let free = disk.usage().free_bytes;
    for number in 0..760 {
        for file in files {
            disk.write_at(file, number * 4096, &[number as u8; 4096]).unwrap();
        }
    }
    for (size_bytes, expected) in [(700 * 4096, 700), (1000, 1), (0, 0)] {
        disk.truncate(files[0], size_bytes).unwrap();
        let attributes = disk.attributes(files[0]).unwrap();
        assert_eq!((attributes.size_bytes, attributes.sectors >= expected * 8), (size_bytes, true));
        let mut block = [1; 4096];
        let length = disk.read_at(files[0], 0, &mut block).unwrap();
        assert!(block[..length].iter().all(|byte| *byte == 0));
    }
    disk.truncate(files[1], 0).unwrap();
    assert_eq!(disk.usage().free_bytes, free);
    disk.unmount().unwrap();
}

#[test]
fn a_rename_may_need_room_in_the_directory() {
    let (device, mut disk) = disk();
    let root = disk.root();
    let directory = disk.create_directory(root, b"directory", 0o755).unwrap().inode;
    let inodes_before = disk.usage().free_inodes;
    for number in 0..150 {
        let short = format!("{number}");
        let long = format!("{number} with a name that does not fit where the other was");
        let file = if number % 10 == 0 {
            disk.create_directory(directory, short.as_bytes(), 0o755).unwrap().inode
        } else {
            disk.create(directory, short.as_bytes(), 0o644).unwrap().inode
        };
        disk.rename(directory, short.as_bytes(), directory, long.as_bytes()).unwrap();
        assert_eq!(disk.lookup(directory, long.as_bytes()).unwrap().inode, file);
    }
    disk.sync().unwrap();
    drop(disk);
    let mut disk = mount(&device).unwrap();
    assert_eq!(disk.list(directory).unwrap().len(), 150);
    assert_eq!(inodes_before - disk.usage().free_inodes, 150);
}

#[test]
fn an_append_that_is_synced_takes_four_writes() {
    let (device, mut disk) = disk();
    let root = disk.root();
    let file = disk.create(root, b"log", 0o644).unwrap().inode;
    disk.sync().unwrap();
    device.take_writes();
    let mut all_writes = 0;
    for count in 0..2000 {
        disk.write_at(file, count * 137, &[7; 137]).unwrap();
        disk.sync().unwrap();
        // Data, descriptor with metadata, commit, and once the journal went round its tail; then also, now and then, a
        // block that leaves it.
        let writes = device.take_writes().len();
        assert!(writes <= 8, "{writes} writes for append {count}");
        all_writes += writes;
    }
    assert!(all_writes <= 4 * 2000, "{all_writes} writes");
    // Nothing to do, nothing to write.
    disk.sync().unwrap();
    assert_eq!(device.write_count(), 0);
    let log = inode(&mut disk, "log");
    assert_eq!(disk.attributes(log).unwrap().size_bytes, 2000 * 137);
    disk.unmount().unwrap();
}

#[test]
fn links_and_sockets_are_kept() {
    let (device, mut disk) = disk();
    let root = disk.root();
    let directory = disk.create_directory(root, b"directory", 0o755).unwrap().inode;
    let file = disk.create(root, b"file", 0o644).unwrap().inode;
    disk.link(file, directory, b"other").unwrap();
    assert_eq!(disk.link(directory, root, b"again"), Err(DiskError::NotPermitted));
    assert_eq!(disk.link(file, root, b"directory"), Err(DiskError::AlreadyExists));
    // Short targets lie in the inode, long ones in a block.
    for length in [1, 59, 60, 255, 4095] {
        let name = length.to_string().into_bytes();
        let link = disk.create_symbolic_link(root, &name, &vec![b'x'; length]).unwrap();
        assert_eq!((link.kind, link.size_bytes), (Kind::SymbolicLink, length as u64));
    }
    assert_eq!(disk.create_symbolic_link(root, b"long", &[b'x'; 4096]), Err(DiskError::NameTooLong));
    assert_eq!(disk.create_symbolic_link(root, b"empty", b""), Err(DiskError::Invalid));
    assert_eq!(disk.create_socket(root, b"socket", 0o755).unwrap().kind, Kind::Socket);
    disk.sync().unwrap();
    drop(disk);
    let mut disk = mount(&device).unwrap();
    for length in [1, 59, 60, 255, 4095] {
        let link = inode(&mut disk, &length.to_string());
        assert_eq!(disk.read_link(link).unwrap(), vec![b'x'; length]);
    }
    let socket = disk.lookup(root, b"socket").unwrap();
    assert_eq!((socket.kind, socket.permissions), (Kind::Socket, 0o755));
    assert_eq!(disk.read_link(socket.inode), Err(DiskError::Invalid));
    assert_eq!(disk.lookup(directory, b"other").unwrap().inode, file);
    disk.remove(root, b"file").unwrap();
    assert_eq!(disk.attributes(file).unwrap().links, 1);
    disk.remove(directory, b"other").unwrap();
    assert_eq!(disk.attributes(file), Err(DiskError::NotFound));
}

#[test]
fn reading_changes_nothing() {
    let (device, mut disk) = disk();
    let root = disk.root();
    let directory = disk.create_directory(root, b"directory", 0o755).unwrap().inode;
    let file = disk.create(directory, b"file", 0o644).unwrap().inode;
    disk.write_at(file, 0, b"content").unwrap();
    disk.sync().unwrap();
    device.take_writes();
    disk.read_at(file, 0, &mut [0; 7]).unwrap();
    disk.list(directory).unwrap();
    disk.sync().unwrap();
    assert_eq!(device.write_count(), 0);
}
