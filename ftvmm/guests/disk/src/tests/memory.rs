//! A device in memory that records its writes, and can be put back to any of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::device::{BLOCK_BYTES, BlockDevice, DeviceError};

pub(crate) const SECTOR_BYTES: usize = 512;

/// A write: offset in bytes, and what was written.
pub(crate) type Write = (u64, Vec<u8>);

pub(crate) struct State {
    pub(crate) image: Vec<u8>,
    /// while there is one, writes go here, sector by sector, and the image stays as it is
    overlay: Option<HashMap<u64, [u8; SECTOR_BYTES]>>,
    pub(crate) writes: Vec<Write>,
    /// how many more writes succeed
    pub(crate) writes_left: usize,
}

#[derive(Clone)]
pub(crate) struct MemoryDevice(Arc<Mutex<State>>);

impl MemoryDevice {
    pub(crate) fn new(capacity: usize) -> MemoryDevice {
        MemoryDevice::of_image(vec![0; capacity])
    }

    pub(crate) fn of_image(image: Vec<u8>) -> MemoryDevice {
        MemoryDevice(Arc::new(Mutex::new(State { image, overlay: None, writes: Vec::new(), writes_left: usize::MAX })))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// How many writes there were.
    pub(crate) fn write_count(&self) -> usize {
        self.state().writes.len()
    }

    pub(crate) fn take_writes(&self) -> Vec<Write> {
        core::mem::take(&mut self.state().writes)
    }

    /// Puts a write into the image itself.
    pub(crate) fn apply(&self, (offset, data): &Write) {
        let mut state = self.state();
        state.overlay = None;
        state.image[*offset as usize..][..data.len()].copy_from_slice(data);
    }

    /// From here on the image is left alone, and looks as if of a write only the sectors for which `reached` holds had
    /// been written.
    pub(crate) fn tear(&self, (offset, data): &Write, reached: impl Fn(usize) -> bool) {
        let first = offset / SECTOR_BYTES as u64;
        let sectors = (first..).zip(data.chunks(SECTOR_BYTES)).enumerate().filter(|(index, _)| reached(*index));
        let overlay = sectors.map(|(_, (sector, bytes))| (sector, bytes.try_into().unwrap())).collect();
        let mut state = self.state();
        state.overlay = Some(overlay);
        state.writes.clear();
    }
}

impl BlockDevice for MemoryDevice {
    fn capacity_bytes(&self) -> u64 {
        self.state().image.len() as u64
    }

    fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        assert!((offset as usize).is_multiple_of(BLOCK_BYTES) && data.len().is_multiple_of(BLOCK_BYTES));
        let state = self.state();
        data.copy_from_slice(&state.image[offset as usize..][..data.len()]);
        if let Some(overlay) = &state.overlay {
            for (index, target) in data.chunks_mut(SECTOR_BYTES).enumerate() {
                if let Some(sector) = overlay.get(&(offset / SECTOR_BYTES as u64 + index as u64)) {
                    target.copy_from_slice(sector);
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        assert!((offset as usize).is_multiple_of(BLOCK_BYTES) && data.len().is_multiple_of(BLOCK_BYTES));
        let mut state = self.state();
        if state.writes_left == 0 {
            return Err(DeviceError::Write { offset });
        }
        state.writes_left -= 1;
        match &mut state.overlay {
            Some(overlay) => {
                for (index, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                    overlay.insert(offset / SECTOR_BYTES as u64 + index as u64, sector.try_into().unwrap());
                }
            }
            None => state.image[offset as usize..][..data.len()].copy_from_slice(data),
        }
        state.writes.push((offset, data.to_vec()));
        Ok(())
    }
}
