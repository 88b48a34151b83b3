//! What the host says at boot (`struct hvt_boot_info`).

use core::ffi::{CStr, c_char};

use crate::manifest::Manifest;

/// Kept free at the top of memory for the stack, in bytes.
const STACK_BYTES: u64 = 1 << 20;

/// The host's structure, at its address in guest memory; read-only for the guest.
#[repr(C)]
pub struct BootInfo {
    /// size of guest memory in bytes
    pub memory_bytes: u64,
    /// address of the first byte behind the image
    pub image_end: u64,
    /// frequency of the time stamp counter in Hz
    pub cycle_frequency: u64,
    command_line: *const c_char,
    manifest: *const Manifest,
    host_features: u32,
    guest_features: u32,
    network_ring: u64,
}

impl BootInfo {
    /// Where the memory between the image and the stack ends, as a guest address.
    pub fn free_end(&self) -> u64 {
        self.memory_bytes.saturating_sub(STACK_BYTES).max(self.image_end)
    }

    /// Where the heap ends that gets one part in so many of the memory between image and stack, as a guest address on a
    /// whole page.
    pub fn heap_end(&self, parts: u64) -> u64 {
        let bytes = (self.free_end() - self.image_end) / parts.max(1);
        self.image_end + bytes / 4096 * 4096
    }

    /// The command line: the arguments, separated by spaces. Empty where it is not text.
    pub fn command_line(&self) -> &str {
        if self.command_line.is_null() {
            return "";
        }
        // SAFETY: the ABI promises a string that ends with a zero byte and stays as it is.
        unsafe { CStr::from_ptr(self.command_line) }.to_str().unwrap_or("")
    }

    /// The manifest with what the host filled in, or None where there is none.
    pub fn manifest(&self) -> Option<&Manifest> {
        // SAFETY: the ABI promises null or a manifest that stays as it is.
        unsafe { self.manifest.as_ref() }
    }
}
