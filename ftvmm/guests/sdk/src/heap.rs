//! The heap: the memory between the image and the stack, or a part of it.

use spinning_top::RawSpinlock;
use talc::{TalcLock, source::Manual};

#[global_allocator]
static HEAP: TalcLock<RawSpinlock, Manual> = TalcLock::new(Manual);

/// The size of the heap, and how much of it is free, in bytes.
pub fn size() -> (usize, usize) {
    let heap = HEAP.lock();
    let counters = heap.counters();
    (counters.claimed_bytes, counters.available_bytes)
}

/// Takes the memory from the end of the image to `end`, addresses in bytes. A guest with too little memory gets no heap,
/// and its first allocation panics.
pub(crate) fn claim(image_end: u64, end: u64) {
    let length = end.saturating_sub(image_end) as usize;
    let base = core::ptr::with_exposed_provenance_mut::<u8>(image_end as usize);
    // SAFETY: by the ABI, memory from the end of the image up to the stack belongs to the guest and nobody else uses it;
    // this runs once, before the first allocation.
    let _ = unsafe { HEAP.lock().claim(base, length) };
}
