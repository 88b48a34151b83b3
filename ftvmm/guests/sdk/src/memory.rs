//! The memory routines that compiled code calls by name. They are written in assembly where a loop could be compiled
//! into a call of itself.

use core::arch::asm;

/// # Safety
/// As C's: both regions are valid for `length` bytes and do not overlap.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    // SAFETY: the caller vouches for both regions; the direction flag is clear by the calling convention.
    unsafe {
        asm!("rep movsb", inout("rcx") length => _, inout("rdi") to => _, inout("rsi") from => _,
             options(nostack, preserves_flags));
    }
    to
}

/// # Safety
/// As C's: both regions are valid for `length` bytes; they may overlap.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    if to.addr().wrapping_sub(from.addr()) >= length {
        // SAFETY: `to` does not begin within the source, so copying upwards reads each byte before it is overwritten.
        return unsafe { memcpy(to, from, length) };
    }
    // SAFETY: `to` begins within the source, so this copies downwards; the direction flag is cleared again.
    unsafe {
        asm!("std", "rep movsb", "cld", inout("rcx") length => _,
             inout("rdi") to.wrapping_add(length).wrapping_sub(1) => _,
             inout("rsi") from.wrapping_add(length).wrapping_sub(1) => _, options(nostack));
    }
    to
}

/// # Safety
/// As C's: the region is valid for `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, length: usize) -> *mut u8 {
    // SAFETY: the caller vouches for the region; the direction flag is clear by the calling convention.
    unsafe {
        asm!("rep stosb", inout("rcx") length => _, inout("rdi") to => _, in("al") value as u8,
             options(nostack, preserves_flags));
    }
    to
}

/// # Safety
/// As C's: both regions are valid for `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, length: usize) -> i32 {
    let mut offset = 0;
    while offset + 8 <= length {
        // SAFETY: eight bytes from `offset` lie within both regions.
        let (a, b) = unsafe {
            (left.add(offset).cast::<u64>().read_unaligned(), right.add(offset).cast::<u64>().read_unaligned())
        };
        if a != b {
            return if a.swap_bytes() < b.swap_bytes() { -1 } else { 1 };
        }
        offset += 8;
    }
    while offset < length {
        // SAFETY: `offset` lies within both regions.
        let (a, b) = unsafe { (left.add(offset).read_volatile(), right.add(offset).read_volatile()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
        offset += 1;
    }
    0
}

/// # Safety
/// As C's: both regions are valid for `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, length: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(left, right, length) }
}

/// # Safety
/// As C's: the string ends with a zero byte.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(string: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: the caller vouches for every byte up to the zero.
    while unsafe { string.add(length).read_volatile() } != 0 {
        length += 1;
    }
    length
}

/// The precompiled core library names it in its unwind tables; nothing unwinds, so nothing calls it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As above.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    crate::hypercall::halt(255)
}
