//! The file system on a device in memory: what was synced is there after a loss at any write, and what a device or a
//! program may do wrong has an answer.

mod crash;
mod faults;
mod memory;
mod model;
mod operations;

pub(crate) use memory::MemoryDevice;

use crate::{Disk, DiskError, Inode, Timestamp};

/// Time stands still.
fn clock() -> Timestamp {
    Timestamp { seconds: 1_700_000_000, nanoseconds: 0 }
}

fn mount(device: &MemoryDevice) -> Result<Disk, DiskError> {
    Disk::mount(Box::new(device.clone()), clock)
}

/// The inode of a name in the root directory.
fn inode(disk: &mut Disk, name: &str) -> Inode {
    let root = disk.root();
    disk.lookup(root, name.as_bytes()).unwrap().inode
}

/// All that a file holds.
fn content(disk: &mut Disk, file: Inode) -> Result<Vec<u8>, DiskError> {
    let mut data = vec![0; disk.attributes(file)?.size_bytes as usize];
    let count = disk.read_at(file, 0, &mut data)?;
    assert_eq!(count, data.len());
    Ok(data)
}

/// Numbers that look random (xorshift64), the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Bytes of which none is zero.
    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| (self.next() >> 24) as u8 | 1).collect()
    }
}
