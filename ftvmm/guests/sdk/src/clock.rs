//! The monotonic clock: the time stamp counter, scaled by the frequency that the host states.

use core::arch::x86_64::_rdtsc;

/// A clock that starts with the guest. Each look at it is an exit (the host rewrites RDTSC), so look once and pass the
/// time on.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    frequency: u64,
    start: u64,
}

impl Clock {
    /// Starts the clock; the frequency of the counter is in Hz.
    pub fn start(frequency: u64) -> Clock {
        Clock { frequency: frequency.max(1), start: read_counter() }
    }

    /// Nanoseconds since the start.
    pub fn nanoseconds(&self) -> u64 {
        scale(read_counter().wrapping_sub(self.start), self.frequency)
    }

    /// A seed that differs from boot to boot, from what is logged anyway: the wall clock and the counter at the start.
    pub fn seed(&self) -> u64 {
        // Multiplicative hashing by the golden ratio: neighbouring boots get seeds far apart.
        (crate::hypercall::walltime() ^ self.start.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

fn read_counter() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and the ABI promises it to guests.
    unsafe { _rdtsc() }
}

fn scale(cycles: u64, frequency: u64) -> u64 {
    (u128::from(cycles) * 1_000_000_000 / u128::from(frequency)) as u64
}

#[cfg(test)]
mod tests {
    use super::scale;

    #[test]
    fn cycles_scale_to_nanoseconds_without_overflow() {
        assert_eq!(scale(3_000_000_000, 3_000_000_000), 1_000_000_000);
        assert_eq!(scale(u64::MAX, 1_000_000_000), u64::MAX);
        assert_eq!(scale(1, 2_000_000_000), 0);
    }
}
