//! select and pselect6.

use alloc::vec;
use alloc::vec::Vec;

use linux_raw_sys::general::{
    __kernel_old_timeval, EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDBAND, EPOLLRDNORM, EPOLLWRBAND,
    EPOLLWRNORM,
};

use crate::clock::{MICROSECOND_NANOSECONDS, NANOSECONDS, optional_duration};
use crate::kernel::Kernel;
use crate::readiness::{earlier, mask_for_call, nothing_or_signal, open_file};
use crate::readiness::{ready, with_mask, with_rest_left};
use crate::system_calls::{Call, Errno, Outcome, errno};

/// The events for which a descriptor stays in the first, second and third set: POLLIN_SET, POLLOUT_SET and POLLEX_SET of
/// Linux's `fs/select.c`.
const EVENTS: [u32; 3] = [
    EPOLLRDNORM | EPOLLRDBAND | EPOLLIN | EPOLLHUP | EPOLLERR,
    EPOLLWRBAND | EPOLLWRNORM | EPOLLOUT | EPOLLERR,
    EPOLLPRI,
];
const WORD_BITS: usize = u64::BITS as usize;

/// A set of descriptors, in words as the ABI has it. Those of a null pointer are empty.
type Words = Vec<u64>;

fn read_set(kernel: &Kernel, address: u64, words: usize) -> Result<Words, Errno> {
    if address == 0 {
        return Ok(vec![0; words]);
    }
    let bytes = kernel.memory.bytes(address, (words * 8) as u64)?;
    Ok(bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect())
}

fn write_set(kernel: &Kernel, address: u64, set: &[u64]) -> Result<(), Errno> {
    if address == 0 {
        return Ok(());
    }
    let bytes = kernel.memory.bytes_mut(address, (set.len() * 8) as u64)?;
    for (to, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(set) {
        *to = word.to_le_bytes();
    }
    Ok(())
}

/// The bits of a word that stand for descriptors below `count`.
fn bits_below(count: usize, word: usize) -> u64 {
    match count.saturating_sub(word * WORD_BITS) {
        bits if bits >= WORD_BITS => u64::MAX,
        bits => (1 << bits) - 1,
    }
}

/// What a look at the descriptors has found.
struct Found {
    sets: [Words; 3],
    count: u64,
    /// when one becomes ready by itself
    next: Option<u64>,
}

/// Looks at the descriptors below `count` that are in one of the sets.
fn look(kernel: &Kernel, count: usize, wanted: &[Words; 3]) -> Result<Found, Errno> {
    let mut found = Found { sets: wanted.each_ref().map(|set| vec![0; set.len()]), count: 0, next: None };
    for word in 0..count.div_ceil(WORD_BITS) {
        let asked = wanted.each_ref().map(|set| set.get(word).copied().unwrap_or(0) & bits_below(count, word));
        let mut rest = asked[0] | asked[1] | asked[2];
        while rest != 0 {
            let bit = rest & rest.wrapping_neg();
            rest &= !bit;
            let file = open_file(kernel, (word * WORD_BITS + bit.trailing_zeros() as usize) as i32)?;
            let ready = ready(kernel, &*file.object, u32::MAX);
            found.next = earlier(found.next, file.object.next_deadline(kernel));
            for ((set, asked), events) in found.sets.iter_mut().zip(asked).zip(EVENTS) {
                if asked & bit != 0
                    && ready & events != 0
                    && let Some(set) = set.get_mut(word)
                {
                    *set |= bit;
                    found.count += 1;
                }
            }
        }
    }
    Ok(found)
}

fn select_for(kernel: &mut Kernel, call: Call, timeout: Option<u64>) -> Outcome {
    let count = usize::try_from(call.int(0)).map_err(|_| errno::EINVAL)?;
    // As in Linux, what lies behind the table of descriptors is not looked at.
    let count = count.min(kernel.files.table_size());
    let words = count.div_ceil(WORD_BITS);
    let addresses = [call.word(1), call.word(2), call.word(3)];
    let [first, second, third] = addresses.map(|address| read_set(kernel, address, words));
    let found = look(kernel, count, &[first?, second?, third?])?;
    let outcome = match found.count {
        0 => nothing_or_signal(kernel, timeout, found.next)?,
        count => count,
    };
    for (address, set) in addresses.into_iter().zip(&found.sets) {
        write_set(kernel, address, set)?;
    }
    Ok(outcome)
}

/// select(one more than the highest descriptor, to read, to write, exceptions, timeout)
///
/// # Errors
/// EBADF, EINVAL, EFAULT, EINTR.
pub fn select(kernel: &mut Kernel, call: Call) -> Outcome {
    let mut timeout = None;
    if call.word(4) != 0 {
        let time: __kernel_old_timeval = kernel.memory.get(call.word(4))?;
        timeout = Some(nanoseconds(&time)?);
    }
    let outcome = select_for(kernel, call, timeout);
    with_rest_left(kernel, call, outcome)
}

/// More microseconds than a second has are fine, here only.
fn nanoseconds(time: &__kernel_old_timeval) -> Result<u64, Errno> {
    let (Ok(seconds), Ok(microseconds)) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_usec)) else {
        return Err(errno::EINVAL);
    };
    Ok(seconds.saturating_mul(NANOSECONDS).saturating_add(microseconds.saturating_mul(MICROSECOND_NANOSECONDS)))
}

/// pselect6(one more than the highest descriptor, to read, to write, exceptions, timeout, mask with its size)
///
/// # Errors
/// As select.
pub fn pselect6(kernel: &mut Kernel, call: Call) -> Outcome {
    let [mask, mask_bytes]: [u64; 2] = if call.word(5) == 0 { [0, 0] } else { kernel.memory.get(call.word(5))? };
    let timeout = optional_duration(kernel, call.word(4))?;
    let mask = mask_for_call(kernel, mask, mask_bytes)?;
    let outcome = with_mask(kernel, mask, |kernel| select_for(kernel, call, timeout));
    with_rest_left(kernel, call, outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_behind_the_count_are_not_looked_at() {
        assert_eq!(bits_below(0, 0), 0);
        assert_eq!(bits_below(3, 0), 0b111);
        assert_eq!(bits_below(64, 0), u64::MAX);
        assert_eq!(bits_below(65, 1), 1);
        assert_eq!(bits_below(64, 1), 0);
    }

    #[test]
    fn a_timeout_may_have_more_microseconds_than_a_second_has() {
        let time = |tv_sec, tv_usec| __kernel_old_timeval { tv_sec, tv_usec };
        assert_eq!(nanoseconds(&time(1, 1_500_000)), Ok(2_500_000_000));
        assert_eq!(nanoseconds(&time(-1, 0)), Err(errno::EINVAL));
        assert_eq!(nanoseconds(&time(0, -1)), Err(errno::EINVAL));
        assert_eq!(nanoseconds(&time(i64::MAX, i64::MAX)), Ok(u64::MAX));
    }
}
