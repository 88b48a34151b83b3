//! A panic is printed, and ends the guest with status 255, as the stock Solo5 bindings end on a trap.

use core::panic::PanicInfo;

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    crate::println!("{info}");
    crate::hypercall::halt(255)
}
