//! The world of a VM that runs live on this host, by manifest index.

use std::collections::BTreeMap;
use std::io;

use crate::devices::{BlockFile, Tap, wait_readable};

/// The attached devices. Dropping them lets go of the NIC and the disk.
#[derive(Debug, Default)]
pub struct Devices {
    taps: BTreeMap<u8, Tap>,
    blocks: BTreeMap<u8, BlockFile>,
}

impl Devices {
    /// Adds a network device.
    pub fn with_tap(mut self, device: u8, tap: Tap) -> Devices {
        self.taps.insert(device, tap);
        self
    }

    /// Adds a block device.
    pub fn with_block(mut self, device: u8, block: BlockFile) -> Devices {
        self.blocks.insert(device, block);
        self
    }

    /// Puts a frame on the wire. A frame that the host refuses is a frame that the network loses.
    pub fn send_frame(&self, device: u8, frame: &[u8]) {
        if let Some(tap) = self.taps.get(&device) {
            let _ = tap.write(frame);
        }
    }

    /// Puts a frame on every wire.
    pub fn send_frame_everywhere(&self, frame: &[u8]) {
        for tap in self.taps.values() {
            let _ = tap.write(frame);
        }
    }

    /// The next frame, cut to `capacity` bytes; `None` when there is none now.
    pub fn receive_frame(&self, device: u8, capacity: u32) -> Option<Vec<u8>> {
        let mut buffer = vec![0u8; capacity as usize];
        let length = self.taps.get(&device)?.read(&mut buffer).ok()??;
        buffer.truncate(length);
        Some(buffer)
    }

    /// Waits until a network device is readable, for at most `timeout_nanoseconds`. One bit a readable device.
    pub fn poll(&self, timeout_nanoseconds: u64) -> u64 {
        wait_readable(self.taps.iter().map(|(device, tap)| (*device, tap)), timeout_nanoseconds)
    }

    /// Writes to a disk; the bytes are durable when this returns.
    ///
    /// # Errors
    /// The operating system's.
    pub fn write_block(&self, device: u8, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.block(device)?.write_at(offset, bytes)
    }

    /// Reads from a disk.
    ///
    /// # Errors
    /// The operating system's.
    pub fn read_block(&self, device: u8, offset: u64, length: u32) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0u8; length as usize];
        self.block(device)?.read_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    fn block(&self, device: u8) -> io::Result<&BlockFile> {
        self.blocks.get(&device).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no disk {device}")))
    }
}
