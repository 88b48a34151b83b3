//! Devices that fail, that are full, and that hold something else.

use super::memory::MemoryDevice;
use super::{content, inode, mount};
use crate::device::BLOCK_BYTES;
use crate::format::CAPACITY_BYTES_MIN;
use crate::{Disk, DiskError};

fn device() -> MemoryDevice {
    MemoryDevice::new(CAPACITY_BYTES_MIN as usize)
}

fn formatted_image() -> Vec<u8> {
    let device = device();
    mount(&device).unwrap().unmount().unwrap();
    device.state().image.clone()
}

/// Appends and syncs until something fails; tells how much was synced, and what failed.
fn append_until_it_fails(disk: &mut Disk) -> (usize, DiskError) {
    let root = disk.root();
    let mut synced = 0;
    let mut append = |count: usize| {
        if count == 0 {
            disk.create(root, b"log", 0o644)?;
        }
        let file = disk.lookup(root, b"log")?.inode;
        disk.write_at(file, count as u64 * 1000, &[count as u8; 1000])?;
        disk.sync()?;
        synced = count + 1;
        Ok(())
    };
    let error = (0..).find_map(|count| append(count).err()).unwrap();
    (synced, error)
}

#[test]
fn when_a_write_is_refused_no_other_follows_and_what_was_synced_stays() {
    let image = formatted_image();
    for writes in 0..40 {
        let device = MemoryDevice::of_image(image.clone());
        let mut disk = mount(&device).unwrap();
        device.state().writes_left = writes;
        let (synced, error) = append_until_it_fails(&mut disk);
        assert_eq!(error.errno(), 5);

        // The device is well again, but the program was told so.
        device.state().writes_left = usize::MAX;
        let root = disk.root();
        let before = device.write_count();
        assert_eq!(disk.sync(), Err(DiskError::Stopped));
        assert_eq!(disk.create(root, b"other", 0o644), Err(DiskError::Stopped));
        assert_eq!(disk.unmount(), Err(DiskError::Stopped));
        assert_eq!(device.write_count(), before);

        let mut disk = mount(&device).unwrap();
        let found = disk.lookup(root, b"log").map(|attributes| attributes.inode);
        let found = found.map(|file| content(&mut disk, file).unwrap()).unwrap_or_default();
        let expected = (0..synced).flat_map(|count| [count as u8; 1000]).collect::<Vec<_>>();
        assert!(found.starts_with(&expected), "{} of {} after {writes} writes", found.len(), expected.len());
        disk.create(root, b"other", 0o644).unwrap();
        disk.unmount().unwrap();
    }
}

#[test]
fn a_mount_that_fails_can_be_tried_again() {
    let device = device();
    let mut disk = mount(&device).unwrap();
    let root = disk.root();
    disk.create(root, b"file", 0o644).unwrap();
    disk.sync().unwrap();
    drop(disk);
    for writes in 0.. {
        device.state().writes_left = writes;
        let result = mount(&device);
        device.state().writes_left = usize::MAX;
        let Err(error) = result else { break };
        assert_eq!(error.errno(), 5, "{error}");
    }
    mount(&device).unwrap().lookup(root, b"file").unwrap();
}

#[test]
fn formatting_that_was_cut_off_is_begun_anew() {
    let blank = device();
    drop(mount(&blank));
    let writes = blank.take_writes();
    let published = writes.iter().rposition(|(_, data)| data.starts_with(b"ftvmm")).unwrap();
    let device = device();
    for (count, write) in writes.iter().enumerate().take(published + 12) {
        let sectors = write.1.len() / 512;
        // Most writes fill the journal with zeros.
        if count < 20 || count + 20 > published {
            let reached = 1 + count % sectors.min(8);
            device.tear(write, |sector| sector < reached);
            mount(&device).map(drop).unwrap();
            device.tear(write, |sector| sector % 8 != reached);
            mount(&device).map(drop).unwrap();
            // The first block has the note and the copy in two sectors, and the superblock in two.
            for mask in 0..if write.0 == 0 { 16 } else { 0 } {
                device.tear(write, |sector| sector > 3 || mask >> sector & 1 == 1);
                mount(&device).map(drop).unwrap();
            }
        }
        device.apply(write);
    }
}

#[test]
fn a_device_that_holds_something_else_is_left_alone() {
    let mut with_partitions = vec![0; CAPACITY_BYTES_MIN as usize];
    with_partitions[510..512].copy_from_slice(&[0x55, 0xaa]);
    let mut damaged = formatted_image();
    damaged[1024 + 100] ^= 1;
    damaged[100] ^= 1;
    for (image, is_damaged) in [(with_partitions, false), (damaged, true)] {
        let device = MemoryDevice::of_image(image);
        match mount(&device).err() {
            Some(DiskError::Damaged(_)) => assert!(is_damaged),
            other => assert_eq!((other, is_damaged), (Some(DiskError::Foreign), false)),
        }
        assert_eq!(device.write_count(), 0);
    }
    let small = MemoryDevice::new(1024 * 1024);
    assert_eq!(mount(&small).err().map(|error| error.errno()), Some(28));
    assert_eq!(small.write_count(), 0);
}

#[test]
fn a_superblock_is_taken_from_its_copy() {
    let device = device();
    let mut disk = mount(&device).unwrap();
    let root = disk.root();
    disk.create(root, b"file", 0o644).unwrap();
    disk.unmount().unwrap();
    device.state().image[1024..BLOCK_BYTES].fill(7);
    mount(&device).unwrap().lookup(root, b"file").unwrap();
}

#[test]
fn a_full_device_refuses_and_takes_again_what_was_freed() {
    let device = device();
    let mut disk = mount(&device).unwrap();
    let root = disk.root();
    let kept = disk.create(root, b"kept", 0o644).unwrap().inode;
    disk.write_at(kept, 0, &[1; 100_000]).unwrap();
    disk.sync().unwrap();
    let free = disk.usage().free_bytes;
    let large = disk.create(root, b"large", 0o644).unwrap().inode;
    let part = vec![2; 300_000];
    let mut offset = 0;
    let error = loop {
        match disk.write_at(large, offset, &part) {
            Ok(count) => offset += count as u64,
            Err(error) => break error,
        }
    };
    assert_eq!(error, DiskError::NoSpace);
    assert!(offset > free / 10 * 8, "{offset} of {free} bytes");
    disk.sync().unwrap();
    assert_eq!(content(&mut disk, kept).unwrap(), [1; 100_000]);
    disk.remove(root, b"large").unwrap();
    assert_eq!(disk.usage().free_bytes, free);
    let again = disk.create(root, b"again", 0o644).unwrap().inode;
    disk.write_at(again, 0, &[3; 1_000_000]).unwrap();
    disk.sync().unwrap();
    drop(disk);
    let mut disk = mount(&device).unwrap();
    let again = inode(&mut disk, "again");
    assert_eq!(content(&mut disk, again).unwrap(), [3; 1_000_000]);
}

#[test]
fn a_file_without_a_name_stays_until_it_is_closed_or_the_machine_is_lost() {
    let device = device();
    for is_lost in [false, true] {
        let mut disk = mount(&device).unwrap();
        let root = disk.root();
        disk.sync().unwrap();
        let free = disk.usage().free_bytes;
        for name in [b"removed", b"renamed"] {
            let file = disk.create(root, name, 0o600).unwrap().inode;
            disk.open(file);
            disk.open(file);
            disk.write_at(file, 0, name).unwrap();
        }
        let files = ["removed", "renamed"].map(|name| inode(&mut disk, name));
        disk.remove(root, b"removed").unwrap();
        disk.create(root, b"new", 0o600).unwrap();
        disk.rename(root, b"new", root, b"renamed").unwrap();
        disk.close(files[0]).unwrap();
        disk.write_at(files[0], 7, b", written").unwrap();
        disk.sync().unwrap();
        assert_eq!(content(&mut disk, files[0]).unwrap(), b"removed, written");
        assert_eq!(content(&mut disk, files[1]).unwrap(), b"renamed");
        if is_lost {
            drop(disk);
            disk = mount(&device).unwrap();
        } else {
            disk.close(files[0]).unwrap();
            disk.close(files[1]).unwrap();
            disk.close(files[1]).unwrap();
            assert_eq!(disk.attributes(files[0]), Err(DiskError::NotFound));
        }
        disk.remove(root, b"renamed").unwrap();
        assert_eq!(disk.usage().free_bytes, free);
        disk.unmount().unwrap();
    }
}
