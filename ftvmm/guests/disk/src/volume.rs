//! The device as the ext4 crate writes to it.
//!
//! **Fewer writes.** Neighbouring blocks that are written one after another go to the device as one write; the order of
//! writes stays as it is, and `flush` brings down what waits. So a commit takes one write for the descriptor and its
//! blocks and one for the commit record.
//!
//! **Torn writes.** ext4 mends what a cut off write leaves from its journal, but reads two kinds of block before it can.
//! Their writes are taken apart so that a tear leaves the old or the new content:
//!
//! - *The superblock* has its checksum in another sector than its fields. A copy is written to the boot area first
//!   ([`superblock`](crate::superblock)), and taken when the superblock is found torn.
//! - *A journal descriptor* of more than some 30 blocks goes over more than one sector; half of an old one behind half of a
//!   new one would be read as damage. The sector with its sequence number is written last; without it the journal ends
//!   before it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use rsext4::{BlockIo, DeviceCapabilities, DeviceGeometry, Ext4Error, Ext4Result, SectorId, WriteFlags};

use crate::device::{BLOCK_BYTES, BlockDevice, DeviceError};
use crate::superblock::{COPY, FirstBlock, SUPERBLOCK, formatting};

/// The most that is read or written in one go, in bytes.
const TRANSFER_BYTES_MAX: usize = 64 * 1024;
/// The smallest sector of a device, in bytes.
const SECTOR_BYTES_MIN: usize = 512;

/// Tells whether the device ever refused a write.
#[derive(Debug, Clone, Default)]
pub(crate) struct Health(Arc<AtomicBool>);

impl Health {
    pub(crate) fn has_failed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A device, and the writes that wait for their neighbours.
pub(crate) struct Volume {
    device: Box<dyn BlockDevice>,
    health: Health,
    /// one run of blocks, and its offset
    pending: Vec<u8>,
    pending_offset: u64,
    /// as it is on the device
    first_block: Box<FirstBlock>,
    /// as it is to be when formatting ends
    unpublished: Option<Box<FirstBlock>>,
}

impl Volume {
    pub(crate) fn new(mut device: Box<dyn BlockDevice>) -> Result<Volume, DeviceError> {
        let mut first_block = Box::new([0; BLOCK_BYTES]);
        device.read(0, first_block.as_mut_slice())?;
        Ok(Volume {
            device,
            health: Health::default(),
            pending: Vec::new(),
            pending_offset: 0,
            first_block,
            unpublished: None,
        })
    }

    pub(crate) fn capacity_bytes(&self) -> u64 {
        self.device.capacity_bytes()
    }

    pub(crate) fn first_block(&self) -> &FirstBlock {
        &self.first_block
    }

    pub(crate) fn health(&self) -> Health {
        self.health.clone()
    }

    /// Puts the copy of the superblock in its place.
    pub(crate) fn restore_superblock(&mut self) -> Result<(), DeviceError> {
        let mut block = self.first_block.clone();
        block.copy_within(COPY, SUPERBLOCK.start);
        self.put_first_block(&block)
    }

    /// From here on the first block stays in memory, and the device says that it is being formatted.
    pub(crate) fn begin_formatting(&mut self) -> Result<(), DeviceError> {
        self.put_first_block(&formatting())?;
        self.unpublished = Some(Box::new([0; BLOCK_BYTES]));
        Ok(())
    }

    /// The rest is down: makes a file system of it.
    pub(crate) fn end_formatting(&mut self) -> Result<(), DeviceError> {
        self.drain()?;
        let Some(mut block) = self.unpublished.take() else { return Ok(()) };
        block[COPY].copy_from_slice(&formatting()[COPY]);
        self.put_first_block(&block)?;
        block.copy_within(SUPERBLOCK, COPY.start);
        self.put_first_block(&block)
    }

    /// Brings down what waits.
    fn drain(&mut self) -> Result<(), DeviceError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        // Kept when it fails, for readers.
        let pending = core::mem::take(&mut self.pending);
        let result = self.put(self.pending_offset, &pending);
        self.pending = pending;
        if result.is_ok() {
            self.pending.clear();
        }
        result
    }

    fn put(&mut self, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        if self.health.has_failed() {
            return Err(DeviceError::Write { offset });
        }
        let result = self.device.write(offset, data);
        if result.is_err() {
            self.health.0.store(true, Ordering::Relaxed);
        }
        result
    }

    fn put_first_block(&mut self, block: &FirstBlock) -> Result<(), DeviceError> {
        self.put(0, block)?;
        *self.first_block = *block;
        Ok(())
    }

    fn write_block(&mut self, offset: u64, block: &[u8]) -> Result<(), DeviceError> {
        if offset == 0 {
            self.write_first_block(block)
        } else if is_long_descriptor(block) {
            self.drain()?;
            let mut without_header = block.to_vec();
            without_header[..SECTOR_BYTES_MIN].fill(0);
            self.put(offset, &without_header)?;
            self.put(offset, block)
        } else {
            let end = self.pending_offset + self.pending.len() as u64;
            if offset != end || self.pending.len() >= TRANSFER_BYTES_MAX {
                self.drain()?;
            }
            if self.pending.is_empty() {
                self.pending_offset = offset;
            }
            self.pending.extend_from_slice(block);
            Ok(())
        }
    }

    fn write_first_block(&mut self, block: &[u8]) -> Result<(), DeviceError> {
        if let Some(unpublished) = &mut self.unpublished {
            unpublished.copy_from_slice(block);
            return Ok(());
        }
        self.drain()?;
        let mut next = self.first_block.clone();
        next[COPY].copy_from_slice(&block[SUPERBLOCK]);
        if next != self.first_block {
            self.put_first_block(&next)?;
        }
        next[COPY.end..].copy_from_slice(&block[COPY.end..]);
        if next != self.first_block {
            self.put_first_block(&next)?;
        }
        Ok(())
    }
}

/// Whether a block may be a journal descriptor that says something in its later sectors. That a file's block looks like one
/// does no harm.
fn is_long_descriptor(block: &[u8]) -> bool {
    // Magic and block type 1 (Linux, `include/linux/jbd2.h`); its last four bytes are a checksum.
    block[..8] == [0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 1]
        && block[SECTOR_BYTES_MIN..BLOCK_BYTES - 4].iter().any(|byte| *byte != 0)
}

/// Copies of `source`, which is at `source_offset`, what `target` at `target_offset` has of it.
fn overlay(target: &mut [u8], target_offset: u64, source: &[u8], source_offset: u64) {
    let start = target_offset.max(source_offset);
    let end = (target_offset + target.len() as u64).min(source_offset + source.len() as u64);
    if start < end {
        let length = (end - start) as usize;
        let (to, from) = ((start - target_offset) as usize, (start - source_offset) as usize);
        target[to..to + length].copy_from_slice(&source[from..from + length]);
    }
}

fn io_error(_: DeviceError) -> Ext4Error {
    Ext4Error::io()
}

impl BlockIo for Volume {
    fn write(&mut self, buffer: &[u8], sector: SectorId, _count: u32) -> Ext4Result<()> {
        let offset = sector.raw() * BLOCK_BYTES as u64;
        let offsets = (offset..).step_by(BLOCK_BYTES);
        let mut blocks = offsets.zip(buffer.chunks(BLOCK_BYTES));
        blocks.try_for_each(|(offset, block)| self.write_block(offset, block)).map_err(io_error)
    }

    fn read(&mut self, buffer: &mut [u8], sector: SectorId, _count: u32) -> Ext4Result<()> {
        let offset = sector.raw() * BLOCK_BYTES as u64;
        let offsets = (offset..).step_by(TRANSFER_BYTES_MAX);
        for (offset, part) in offsets.zip(buffer.chunks_mut(TRANSFER_BYTES_MAX)) {
            self.device.read(offset, part).map_err(io_error)?;
        }
        overlay(buffer, offset, &self.pending, self.pending_offset);
        if let Some(block) = &self.unpublished {
            overlay(buffer, offset, block.as_slice(), 0);
        }
        Ok(())
    }

    fn write_with_flags(&mut self, buffer: &[u8], sector: SectorId, count: u32, flags: WriteFlags) -> Ext4Result<()> {
        self.write(buffer, sector, count)?;
        if flags.contains(WriteFlags::FUA) { self.flush() } else { Ok(()) }
    }

    fn geometry(&self) -> DeviceGeometry {
        DeviceGeometry::new(BLOCK_BYTES as u32, self.device.capacity_bytes() / BLOCK_BYTES as u64)
    }

    fn capabilities(&self) -> DeviceCapabilities {
        DeviceCapabilities { flush: true, fua: true, ..DeviceCapabilities::default() }
    }

    fn flush(&mut self) -> Ext4Result<()> {
        self.drain().map_err(io_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::MemoryDevice;

    #[test]
    fn a_torn_descriptor_says_nothing_new_or_all_of_it() {
        let (place, length) = (3 * BLOCK_BYTES, BLOCK_BYTES);
        let old = vec![7; length];
        let mut new = vec![9; length];
        new[..8].copy_from_slice(&[0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 1]);
        let mut image = vec![0; 8 * BLOCK_BYTES];
        image[place..place + length].copy_from_slice(&old);
        let device = MemoryDevice::of_image(image.clone());
        let mut volume = Volume::new(Box::new(device.clone())).unwrap();
        volume.write(&new, SectorId::new(3), 1).unwrap();
        volume.flush().unwrap();
        for write in device.take_writes() {
            for reached in 0..1u32 << (length / SECTOR_BYTES_MIN) {
                let torn = MemoryDevice::of_image(image.clone());
                torn.tear(&write, |sector| reached >> sector & 1 == 1);
                let mut block = vec![0; length];
                torn.clone().read(place as u64, &mut block).unwrap();
                assert!(block == new || block[..4] != new[..4], "sectors {reached:#b}");
            }
            image[place..place + length].copy_from_slice(&write.1);
        }
        assert!(image[place..place + length] == new);
    }

    #[test]
    fn neighbours_are_written_together_and_read_before_they_are_down() {
        let device = MemoryDevice::new(64 * BLOCK_BYTES);
        let mut volume = Volume::new(Box::new(device.clone())).unwrap();
        for number in 10..40u8 {
            volume.write(&[number; BLOCK_BYTES], SectorId::new(number.into()), 1).unwrap();
        }
        volume.write(&[1; BLOCK_BYTES], SectorId::new(5), 1).unwrap();
        let mut blocks = vec![0; 64 * BLOCK_BYTES];
        BlockIo::read(&mut volume, &mut blocks, SectorId::new(0), 64).unwrap();
        let first_bytes: Vec<_> = blocks.chunks(BLOCK_BYTES).map(|block| block[0]).collect();
        assert_eq!(first_bytes[10..40], (10..40).collect::<Vec<u8>>());
        assert_eq!(first_bytes[5], 1);
        assert_eq!(device.write_count(), 2);
        volume.write_with_flags(&[2; BLOCK_BYTES], SectorId::new(6), 1, WriteFlags::FUA).unwrap();
        let lengths: Vec<_> = device.take_writes().iter().map(|(_, data)| data.len() / BLOCK_BYTES).collect();
        assert_eq!(lengths, [16, 14, 2]);
    }
}
