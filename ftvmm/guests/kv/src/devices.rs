//! The guest's devices, as the engine wants them.

use alloc::rc::Rc;
use core::cell::Cell;

use engine::command::WallClock;
use engine::storage::disk::{Disk, DiskError};
use sdk::block::BlockDevice;

/// The block device that holds the log, or the first part of it.
pub(crate) struct StorageDisk {
    device: BlockDevice,
    bytes: u64,
}

impl StorageDisk {
    /// The first `mib` MiB of the device, without that all of it; `None` where it has fewer.
    pub(crate) fn of(device: BlockDevice, mib: Option<u64>) -> Option<StorageDisk> {
        let bytes = mib.map_or(Some(device.capacity()), |mib| mib.checked_mul(1 << 20))?;
        (bytes <= device.capacity()).then_some(StorageDisk { device, bytes })
    }
}

impl Disk for StorageDisk {
    fn capacity(&self) -> u64 {
        self.bytes
    }

    fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), DiskError> {
        self.device.read(offset, data).map_err(|_| DiskError::Read { offset })
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.device.write(offset, data).map_err(|_| DiskError::Write { offset })
    }
}

/// The wall clock, looked at once a round at most and only if asked, because each look is an exit.
#[derive(Default, Clone)]
pub(crate) struct RoundClock {
    /// milliseconds since 1970, 0 where it has not been asked in this round
    current: Rc<Cell<u64>>,
    latest: Rc<Cell<u64>>,
}

impl RoundClock {
    /// The time may move on.
    pub(crate) fn begin_round(&self) {
        self.current.set(0);
    }
}

impl WallClock for RoundClock {
    fn milliseconds(&mut self) -> u64 {
        if self.current.get() == 0 {
            let now = (sdk::hypercall::walltime() / 1_000_000).max(self.latest.get());
            self.current.set(now);
            self.latest.set(now);
        }
        self.current.get()
    }
}
