//! Time: the counter is read once a round of events, as every read is an exit and an entry in the log.

use linux_raw_sys::general::{__kernel_old_timeval, __kernel_timespec};
use sdk::clock::Clock as Hardware;

use crate::kernel::Kernel;
use crate::system_calls::{Errno, errno};

/// A second, in nanoseconds.
pub const NANOSECONDS: u64 = 1_000_000_000;
/// A microsecond, in nanoseconds.
pub const MICROSECOND_NANOSECONDS: u64 = 1000;

/// What a look at the clock adds to the cached time, in nanoseconds: a program that waits in a loop sees time pass.
const LOOK_NANOSECONDS: u64 = 50;
/// After so many looks the counter is read: a program that computes between two looks must see how long that took.
const LOOKS_MAX: u32 = 2000;

/// The monotonic clock and the wall clock.
pub struct Clock {
    hardware: Hardware,
    /// what the wall clock is ahead of the monotonic one, in nanoseconds
    wall_offset: u64,
    now: u64,
    looks: u32,
    is_exact: bool,
}

impl Clock {
    /// Starts both; an exact clock reads the counter at every look. The counter's frequency is in Hz.
    pub fn start(frequency: u64, is_exact: bool) -> Clock {
        let hardware = Hardware::start(frequency);
        let wall = sdk::hypercall::walltime();
        let now = hardware.nanoseconds();
        Clock { hardware, wall_offset: wall.saturating_sub(now), now, looks: 0, is_exact }
    }

    /// A seed that differs from boot to boot.
    pub fn seed(&self) -> u64 {
        self.hardware.seed()
    }

    /// The time of this round, in nanoseconds since the start.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Reads the counter. Time never goes back: looks may have run ahead of it.
    pub fn refresh(&mut self) {
        self.looks = 0;
        self.now = self.now.max(self.hardware.nanoseconds());
    }

    /// The time as the program asks for it, in nanoseconds since the start.
    pub fn look(&mut self) -> u64 {
        self.looks += 1;
        if self.is_exact || self.looks > LOOKS_MAX {
            self.refresh();
        }
        self.now += LOOK_NANOSECONDS;
        self.now
    }

    /// The wall clock's time, in nanoseconds since 1970, for a time of the monotonic one.
    pub fn wall(&self, monotonic: u64) -> u64 {
        monotonic + self.wall_offset
    }

    /// The monotonic time for a time of the wall clock, both in nanoseconds; 0 for a time before the start.
    pub fn monotonic(&self, wall: u64) -> u64 {
        wall.saturating_sub(self.wall_offset)
    }
}

/// Nanoseconds as Linux's structure of seconds and nanoseconds.
pub fn timespec(nanoseconds: u64) -> __kernel_timespec {
    __kernel_timespec { tv_sec: (nanoseconds / NANOSECONDS) as i64, tv_nsec: (nanoseconds % NANOSECONDS) as i64 }
}

/// What such a structure says, in nanoseconds.
///
/// # Errors
/// EINVAL where it is negative or its nanoseconds are no part of a second.
pub fn of_timespec(time: &__kernel_timespec) -> Result<u64, Errno> {
    let is_valid = time.tv_sec >= 0 && (0..NANOSECONDS as i64).contains(&time.tv_nsec);
    let whole = (time.tv_sec as u64).saturating_mul(NANOSECONDS).saturating_add(time.tv_nsec as u64);
    if is_valid { Ok(whole) } else { Err(errno::EINVAL) }
}

/// Nanoseconds as Linux's structure of seconds and microseconds.
pub fn timeval(nanoseconds: u64) -> __kernel_old_timeval {
    __kernel_old_timeval {
        tv_sec: (nanoseconds / NANOSECONDS) as i64,
        tv_usec: (nanoseconds % NANOSECONDS / MICROSECOND_NANOSECONDS) as i64,
    }
}

/// A duration or time of Linux's ABI in nanoseconds.
///
/// # Errors
/// EFAULT; EINVAL where it is negative or its nanoseconds are no part of a second.
pub fn duration(kernel: &Kernel, address: u64) -> Result<u64, Errno> {
    of_timespec(&kernel.memory.get(address)?)
}

/// The same, where a null pointer says that there is none.
///
/// # Errors
/// As [`duration`].
pub fn optional_duration(kernel: &Kernel, address: u64) -> Result<Option<u64>, Errno> {
    if address == 0 { Ok(None) } else { duration(kernel, address).map(Some) }
}
