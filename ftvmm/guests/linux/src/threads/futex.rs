//! Futexes: threads that wait until another one says that a word of memory has changed, and those that it wakes.

use alloc::vec::Vec;

use linux_raw_sys::general::{
    FUTEX_CLOCK_REALTIME, FUTEX_CMP_REQUEUE, FUTEX_PRIVATE_FLAG, FUTEX_REQUEUE, FUTEX_WAIT, FUTEX_WAIT_BITSET,
    FUTEX_WAKE, FUTEX_WAKE_BITSET, FUTEX_WAKE_OP,
};

use super::{Thread, Threads};
use crate::clock::duration;
use crate::kernel::Kernel;
use crate::system_calls::{Call, Outcome, Stop, Wait, WaitFor, errno};

/// Who waits for a futex or wakes it without naming bits names all of them.
pub(super) const ANY_BITS: u32 = u32::MAX;

impl Threads {
    /// Wakes threads that wait for a futex, those first that have waited longest; returns how many.
    pub(super) fn wake(&mut self, address: u64, bits: u32, count: usize) -> usize {
        let mut waiting = self.waiting_for(address, bits);
        waiting.truncate(count);
        self.is_untold |= !waiting.is_empty();
        for index in &waiting {
            let thread = &mut self.threads[*index];
            thread.wait = None;
            thread.pending.is_woken = true;
        }
        waiting.len()
    }

    /// The indices of the threads that wait for a futex, in the order in which they began to.
    fn waiting_for(&self, address: u64, bits: u32) -> Vec<usize> {
        let order = |thread: &Thread| {
            let waiting = thread.wait.filter(|_| !thread.has_ended)?;
            match waiting.wait.on {
                WaitFor::Futex { address: other, bits: mask } if other == address && mask & bits != 0 => {
                    Some(waiting.order)
                }
                _ => None,
            }
        };
        let found = self.threads.iter().enumerate().filter_map(|(index, thread)| Some((order(thread)?, index)));
        let mut found: Vec<(u64, usize)> = found.collect();
        found.sort_unstable();
        found.into_iter().map(|(_, index)| index).collect()
    }

    /// Lets threads that wait for one futex wait for another.
    fn requeue(&mut self, from: u64, to: u64, count: usize) -> usize {
        let mut waiting = self.waiting_for(from, ANY_BITS);
        waiting.truncate(count);
        for index in &waiting {
            if let Some(waiting) = &mut self.threads[*index].wait
                && let WaitFor::Futex { address, .. } = &mut waiting.wait.on
            {
                *address = to;
            }
        }
        waiting.len()
    }
}

/// futex(address, operation, value, timeout or second value, second address, third value)
///
/// # Errors
/// As futex(2); ENOSYS for priority inheritance.
pub fn futex(kernel: &mut Kernel, call: Call) -> Outcome {
    let (address, operation, value) = (call.word(0), call.unsigned(1), call.unsigned(2));
    let is_wall_clock = operation & FUTEX_CLOCK_REALTIME != 0;
    let operation = operation & !(FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME);
    if address % 4 != 0 {
        return Err(errno::EINVAL.into());
    }
    match operation {
        FUTEX_WAIT | FUTEX_WAIT_BITSET => {
            let bits = if operation == FUTEX_WAIT { ANY_BITS } else { call.unsigned(5) };
            if bits == 0 {
                return Err(errno::EINVAL.into());
            }
            wait_for_futex(kernel, call, operation == FUTEX_WAIT, is_wall_clock, bits)
        }
        FUTEX_WAKE => Ok(kernel.threads.wake(address, ANY_BITS, value as usize) as u64),
        FUTEX_WAKE_BITSET => match call.unsigned(5) {
            0 => Err(errno::EINVAL.into()),
            bits => Ok(kernel.threads.wake(address, bits, value as usize) as u64),
        },
        FUTEX_REQUEUE | FUTEX_CMP_REQUEUE => {
            let (limit, to) = (call.unsigned(3), call.word(4));
            if to % 4 != 0 || (value as i32) < 0 || (limit as i32) < 0 {
                return Err(errno::EINVAL.into());
            }
            if operation == FUTEX_CMP_REQUEUE && kernel.memory.get::<u32>(address)? != call.unsigned(5) {
                return Err(errno::EAGAIN.into());
            }
            let woken = kernel.threads.wake(address, ANY_BITS, value as usize);
            let moved = kernel.threads.requeue(address, to, limit as usize);
            // Both count those that were moved, whatever futex(2) says of FUTEX_REQUEUE.
            Ok((woken + moved) as u64)
        }
        FUTEX_WAKE_OP => wake_and_change(kernel, call),
        _ => Err(errno::ENOSYS.into()),
    }
}

fn wait_for_futex(kernel: &mut Kernel, call: Call, is_relative: bool, is_wall_clock: bool, bits: u32) -> Outcome {
    let pending = kernel.threads.current().pending;
    let now = kernel.clock.now();
    if pending.is_woken {
        return Ok(0);
    }
    if !pending.has_waited {
        if call.word(3) != 0 {
            let time = duration(kernel, call.word(3))?;
            let deadline = match (is_relative, is_wall_clock) {
                (true, _) => now.saturating_add(time),
                (false, true) => kernel.clock.monotonic(time),
                (false, false) => time,
            };
            kernel.threads.current_mut().pending.deadline = Some(deadline);
        }
        if kernel.memory.get::<u32>(call.word(0))? != call.unsigned(2) {
            return Err(errno::EAGAIN.into());
        }
    }
    let until = kernel.threads.current().pending.deadline;
    if until.is_some_and(|deadline| deadline <= now) {
        return Err(errno::ETIMEDOUT.into());
    }
    Err(Stop::Wait(Wait { on: WaitFor::Futex { address: call.word(0), bits }, until }))
}

/// FUTEX_WAKE_OP: changes the second futex, wakes the first, and the second where its old value compares so.
fn wake_and_change(kernel: &mut Kernel, call: Call) -> Outcome {
    let (first, second, encoded) = (call.word(0), call.word(4), call.unsigned(5));
    if second % 4 != 0 {
        return Err(errno::EINVAL.into());
    }
    // linux/futex.h: 4 bits operation, 4 bits comparison, twice 12 bits of signed argument.
    let signed = |bits: u32| ((bits << 20) as i32) >> 20;
    let (operation, comparison) = (encoded >> 28 & 7, encoded >> 24 & 15);
    let (mut argument, compared) = (signed(encoded >> 12 & 0xfff) as u32, signed(encoded & 0xfff));
    if encoded >> 31 != 0 {
        argument = 1u32.checked_shl(argument).unwrap_or(0);
    }
    let old: u32 = kernel.memory.get(second)?;
    let new = match operation {
        0 => argument,
        1 => old.wrapping_add(argument),
        2 => old | argument,
        3 => old & !argument,
        4 => old ^ argument,
        _ => return Err(errno::ENOSYS.into()),
    };
    let holds = match (comparison, old as i32) {
        (0, old) => old == compared,
        (1, old) => old != compared,
        (2, old) => old < compared,
        (3, old) => old <= compared,
        (4, old) => old > compared,
        (5, old) => old >= compared,
        _ => return Err(errno::ENOSYS.into()),
    };
    kernel.memory.put(second, new)?;
    let mut woken = kernel.threads.wake(first, ANY_BITS, call.unsigned(2) as usize);
    if holds {
        woken += kernel.threads.wake(second, ANY_BITS, call.unsigned(3) as usize);
    }
    Ok(woken as u64)
}
