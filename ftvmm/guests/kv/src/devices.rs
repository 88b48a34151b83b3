//! The guest's devices, as the engine wants them.

use alloc::rc::Rc;
use core::cell::Cell;

use engine::command::WallClock;
use engine::storage::disk::{Disk, DiskError};
use sdk::block::BlockDevice;

/// The block device that holds the log.
pub(crate) struct StorageDisk(pub(crate) BlockDevice);

impl Disk for StorageDisk {
    fn capacity(&self) -> u64 {
        self.0.capacity()
    }

    fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), DiskError> {
        self.0.read(offset, data).map_err(|_| DiskError::Read { offset })
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        self.0.write(offset, data).map_err(|_| DiskError::Write { offset })
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
