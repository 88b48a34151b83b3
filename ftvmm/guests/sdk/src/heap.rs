//! The heap: all memory between the image and the stack.

use spinning_top::RawSpinlock;
use talc::{TalcLock, source::Manual};

/// Kept free at the top of memory for the stack, in bytes.
const STACK_BYTES: u64 = 1 << 20;

#[global_allocator]
static HEAP: TalcLock<RawSpinlock, Manual> = TalcLock::new(Manual);

/// Takes the memory from the end of the image to the stack, addresses in bytes. A guest with too little memory gets no
/// heap, and its first allocation panics.
pub(crate) fn claim(image_end: u64, memory_bytes: u64) {
    let end = memory_bytes.saturating_sub(STACK_BYTES);
    let length = end.saturating_sub(image_end) as usize;
    let base = core::ptr::with_exposed_provenance_mut::<u8>(image_end as usize);
    // SAFETY: by the ABI, memory from the end of the image up to the stack belongs to the guest and nobody else uses it;
    // this runs once, before the first allocation.
    let _ = unsafe { HEAP.lock().claim(base, length) };
}
