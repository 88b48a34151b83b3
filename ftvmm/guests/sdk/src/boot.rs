//! What the host says at boot (`struct hvt_boot_info`).

use core::ffi::{CStr, c_char};

use crate::manifest::Manifest;

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
