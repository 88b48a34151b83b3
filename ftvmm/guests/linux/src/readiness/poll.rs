//! poll and ppoll.

use linux_raw_sys::general::{POLLERR, POLLHUP, POLLNVAL, pollfd};

use crate::clock::optional_duration;
use crate::kernel::Kernel;
use crate::readiness::{earlier, mask_for_call, milliseconds, nothing_or_signal, open_file, ready};
use crate::readiness::{with_mask, with_rest_left};
use crate::system_calls::{Call, Errno, Outcome, errno};

const ENTRY_BYTES: u64 = size_of::<pollfd>() as u64;

/// Looks at the entries at that address and writes what has come; returns how many have something, and when one becomes
/// ready by itself.
fn look(kernel: &Kernel, address: u64, count: u64) -> Result<(u64, Option<u64>), Errno> {
    let (mut found, mut next) = (0, None);
    let entries = kernel.memory.bytes_mut(address, count * ENTRY_BYTES)?;
    for entry in entries.as_chunks_mut::<{ ENTRY_BYTES as usize }>().0 {
        let [d0, d1, d2, d3, w0, w1, come0, come1] = entry;
        let descriptor = i32::from_le_bytes([*d0, *d1, *d2, *d3]);
        let wanted = u32::from(u16::from_le_bytes([*w0, *w1])) | POLLERR | POLLHUP;
        let come = match open_file(kernel, descriptor) {
            _ if descriptor < 0 => 0,
            Err(_) => POLLNVAL,
            Ok(file) => {
                next = earlier(next, file.object.next_deadline(kernel));
                ready(kernel, &*file.object, wanted)
            }
        };
        [*come0, *come1] = (come as u16).to_le_bytes();
        found += u64::from(come != 0);
    }
    Ok((found, next))
}

fn poll_for(kernel: &mut Kernel, call: Call, timeout: Option<u64>) -> Outcome {
    let count = u64::from(call.unsigned(1));
    if count > kernel.files.limit() as u64 {
        return Err(errno::EINVAL.into());
    }
    match look(kernel, call.word(0), count)? {
        (0, next) => nothing_or_signal(kernel, timeout, next),
        (found, _) => Ok(found),
    }
}

/// poll(entries, how many, milliseconds)
///
/// # Errors
/// EINVAL for too many entries, EFAULT, EINTR.
pub fn poll(kernel: &mut Kernel, call: Call) -> Outcome {
    poll_for(kernel, call, milliseconds(call.int(2)))
}

/// ppoll(entries, how many, timeout, mask, size of a set)
///
/// # Errors
/// As poll, and EINVAL for a timeout or a set that is none.
pub fn ppoll(kernel: &mut Kernel, call: Call) -> Outcome {
    let timeout = optional_duration(kernel, call.word(2))?;
    let mask = mask_for_call(kernel, call.word(3), call.word(4))?;
    let outcome = with_mask(kernel, mask, |kernel| poll_for(kernel, call, timeout));
    with_rest_left(kernel, call, outcome)
}
