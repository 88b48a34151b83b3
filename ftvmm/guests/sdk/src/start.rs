//! Start-up: the entry point that the image names, and the macro that declares a guest.

use crate::boot::BootInfo;

/// Declares a guest: its devices and its main function, `fn(&'static BootInfo) -> i32`, whose result is the exit status.
///
/// ```text
/// sdk::guest!(main, [network "service", block "storage"]);
/// ```
///
/// A guest that keeps memory for itself says which part of it the heap gets: `heap_parts: 4` for a quarter.
#[macro_export]
macro_rules! guest {
    ($main:path, [$($kind:ident $name:literal),*]) => {
        $crate::guest!($main, [$($kind $name),*], heap_parts: 1);
    };
    ($main:path, [$($kind:ident $name:literal),*], heap_parts: $parts:expr) => {
        #[used]
        #[unsafe(link_section = ".interp")]
        static INTERPRETER: [u8; 24] = *b"/nonexistent/solo5/\0\0\0\0\0";

        #[used]
        #[unsafe(link_section = ".note.solo5.abi")]
        static ABI_NOTE: $crate::manifest::AbiNote = $crate::manifest::AbiNote::HVT_2;

        #[used]
        #[unsafe(link_section = ".note.solo5.manifest")]
        static MANIFEST_NOTE: $crate::manifest::ManifestNote<{ 1 $(+ { let _ = $name; 1 })* }> =
            $crate::manifest::ManifestNote::new([
                $crate::manifest::Entry::reserved_first(),
                $($crate::manifest::Entry::$kind($name)),*
            ]);

        /// Where the host enters, on the top of the stack and with the address of the boot information.
        #[unsafe(no_mangle)]
        pub extern "C" fn _start(boot_info: &'static $crate::boot::BootInfo) -> ! {
            $crate::start::run(boot_info, $main, $parts)
        }
    };
}

/// Brings the heap up, which gets one part of memory in `heap_parts`, runs the guest and halts with its exit status.
pub fn run(boot_info: &'static BootInfo, main: fn(&'static BootInfo) -> i32, heap_parts: u64) -> ! {
    let heap_end = boot_info.heap_end(heap_parts);
    #[cfg(feature = "bare")]
    crate::heap::claim(boot_info.image_end, heap_end);
    #[cfg(not(feature = "bare"))]
    let _ = heap_end;
    let exit_status = main(boot_info);
    crate::hypercall::halt(exit_status)
}
