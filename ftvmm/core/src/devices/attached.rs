//! The network and block devices of a VM, by manifest index.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::{BlockFile, DeviceError, Readiness, Tap, wait};

/// Open devices. Dropping the last copy lets go of the NIC and the disk.
#[derive(Clone, Debug, Default)]
pub struct Devices {
    taps: BTreeMap<u8, Arc<Tap>>,
    blocks: BTreeMap<u8, Arc<BlockFile>>,
}

impl Devices {
    /// Adds a network device.
    pub fn add_tap(&mut self, device: u8, tap: Arc<Tap>) {
        self.taps.insert(device, tap);
    }

    /// Adds a block device.
    pub fn add_block(&mut self, device: u8, block: Arc<BlockFile>) {
        self.blocks.insert(device, block);
    }

    /// The interface of a network device, if it is open.
    pub fn tap(&self, device: u8) -> Option<&Arc<Tap>> {
        self.taps.get(&device)
    }

    /// Whether this device is open.
    pub fn has(&self, device: u8) -> bool {
        self.taps.contains_key(&device) || self.blocks.contains_key(&device)
    }

    /// The VM comes to these devices: what came before is not its own.
    pub fn take_over(&self) {
        for tap in self.taps.values() {
            tap.discard_waiting();
        }
    }

    /// Puts a frame on the wire.
    ///
    /// # Errors
    /// What the interface says, or that there is none: the frame has not left.
    pub fn send_frame(&self, device: u8, frame: &[u8]) -> Result<(), DeviceError> {
        self.taps.get(&device).ok_or(DeviceError::Missing { device })?.write(frame)
    }

    /// The next frame; `None` when there is none of at most `capacity` bytes now.
    pub fn receive_frame(&self, device: u8, capacity: u32) -> Option<Vec<u8>> {
        // A TAP that fails is a cable that is unplugged.
        self.taps.get(&device)?.read(capacity).ok()?
    }

    /// Waits until a network device is readable, for at most `timeout_nanoseconds`: one bit a readable device. `None`: nothing is known
    /// of them, as the wait was interrupted (by a signal, or because `wake` is readable) or failed.
    pub fn poll(&self, timeout_nanoseconds: u64, wake: Option<BorrowedFd<'_>>) -> Option<u64> {
        let descriptors: Vec<_> = self.taps.iter().map(|(device, tap)| (*device, tap.as_fd())).collect();
        match wait(&descriptors, wake, timeout_nanoseconds) {
            Ok(Readiness::Ready { set }) => Some(set),
            Ok(Readiness::Interrupted) | Err(_) => None,
        }
    }

    /// The network devices that are readable now, one bit each.
    pub fn readable(&self) -> u64 {
        self.poll(0, None).unwrap_or(0)
    }

    /// Writes to a disk; the bytes are durable when this returns.
    ///
    /// # Errors
    /// What the disk says, or that there is none.
    pub fn write_block(&self, device: u8, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        self.block(device)?.write(offset, bytes)
    }

    /// Reads from a disk.
    ///
    /// # Errors
    /// What the disk says, or that there is none.
    pub fn read_block(&self, device: u8, offset: u64, length: u32) -> Result<Vec<u8>, DeviceError> {
        self.block(device)?.read(offset, length)
    }

    /// The bytes of a unit in which a disk is written; `None`: this is no disk, or is not open.
    pub fn unit_bytes(&self, device: u8) -> Option<u64> {
        self.blocks.get(&device).map(|block| block.unit_bytes())
    }

    fn block(&self, device: u8) -> Result<&BlockFile, DeviceError> {
        self.blocks.get(&device).map(Arc::as_ref).ok_or(DeviceError::Missing { device })
    }
}
