//! The way in and out: where a stub calls in place of SYSCALL, and how a thread goes on.

use core::arch::{asm, global_asm};
use core::mem::offset_of;
use core::sync::atomic::{Ordering, compiler_fence};

use package::ThreadRecord;

use crate::kernel;

/// The registers of a thread that is inside of a system call. System V ABI for AMD64, appendix A.2: RAX has the number
/// and takes the result; all others but RCX and R11 are preserved.
///
/// The instruction pointer is no part of it: it lies on the thread's stack at `rsp`, as for any call.
#[repr(C, align(16))]
#[derive(Clone)]
#[expect(missing_docs, reason = "the registers' names")]
pub struct Frame {
    /// x87 and SSE state, as FXSAVE stores it
    pub floating_point: [u64; 64],
    pub rax: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
}

/// All x87 exceptions masked, extended precision; all SSE exceptions masked. System V ABI for AMD64, section 3.4.1.
const FIRST_CONTROL_WORD: u64 = 0x037f;
const FIRST_MXCSR: u64 = 0x1f80;

/// What a stub leaves of its caller's red zone: it steps over these bytes before it calls.
pub const RED_ZONE_BYTES: u64 = 128;

impl Default for Frame {
    fn default() -> Frame {
        let mut floating_point = [0; 64];
        // FXSAVE image: the control word is in the first two bytes, MXCSR in bytes 24 to 27.
        floating_point[0] = FIRST_CONTROL_WORD;
        floating_point[3] = FIRST_MXCSR;
        Frame {
            floating_point,
            rax: 0,
            rbx: 0,
            rdx: 0,
            rsi: 0,
            rdi: 0,
            rbp: 0,
            rsp: 0,
            r8: 0,
            r9: 0,
            r10: 0,
            r12: 0,
            r13: 0,
            r14: 0,
            r15: 0,
        }
    }
}

/// Where the packer says that the package lies: it finds this by its symbol and fills it in, for which it has to have bytes
/// in the file.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data")]
#[used]
static mut PACKAGE_PLACE: package::Place = package::Place { address: 0, length_bytes: 0 };

/// What the VMM reads of the threads; it finds this by what the packer says.
#[unsafe(no_mangle)]
#[used]
static mut THREAD_RECORD: ThreadRecord = ThreadRecord::EMPTY;

/// The frame of the running thread, into which the entry saves.
#[unsafe(no_mangle)]
static mut LINUX_FRAME: *mut Frame = core::ptr::null_mut();
/// The top of the stack on which system calls are served: one for all threads, as no call waits on the inside.
#[unsafe(no_mangle)]
static mut LINUX_STACK: u64 = 0;

global_asm!(
    ".globl linux_system_call",
    ".type linux_system_call, @function",
    "linux_system_call:",
    "mov r11, [rip + LINUX_FRAME]",
    "mov [r11 + {rax}], rax",
    "mov [r11 + {rbx}], rbx",
    "mov [r11 + {rdx}], rdx",
    "mov [r11 + {rsi}], rsi",
    "mov [r11 + {rdi}], rdi",
    "mov [r11 + {rbp}], rbp",
    "mov [r11 + {rsp}], rsp",
    "mov [r11 + {r8}], r8",
    "mov [r11 + {r9}], r9",
    "mov [r11 + {r10}], r10",
    "mov [r11 + {r12}], r12",
    "mov [r11 + {r13}], r13",
    "mov [r11 + {r14}], r14",
    "mov [r11 + {r15}], r15",
    "fxsave64 [r11]",
    "cld",
    "mov rsp, [rip + LINUX_STACK]",
    "mov rdi, r11",
    "call {serve}",
    // RAX: the frame of the thread that goes on.
    "linux_resume:",
    "mov [rip + LINUX_FRAME], rax",
    "mov r11, rax",
    "fxrstor64 [r11]",
    "mov rbx, [r11 + {rbx}]",
    "mov rdx, [r11 + {rdx}]",
    "mov rsi, [r11 + {rsi}]",
    "mov rdi, [r11 + {rdi}]",
    "mov rbp, [r11 + {rbp}]",
    "mov r8, [r11 + {r8}]",
    "mov r9, [r11 + {r9}]",
    "mov r10, [r11 + {r10}]",
    "mov r12, [r11 + {r12}]",
    "mov r13, [r11 + {r13}]",
    "mov r14, [r11 + {r14}]",
    "mov r15, [r11 + {r15}]",
    "mov rsp, [r11 + {rsp}]",
    "mov rax, [r11 + {rax}]",
    "ret",
    ".size linux_system_call, . - linux_system_call",
    ".globl linux_first_resume",
    ".type linux_first_resume, @function",
    "linux_first_resume:",
    "mov [rip + LINUX_STACK], rsp",
    "mov rax, rdi",
    "jmp linux_resume",
    ".size linux_first_resume, . - linux_first_resume",
    rax = const offset_of!(Frame, rax),
    rbx = const offset_of!(Frame, rbx),
    rdx = const offset_of!(Frame, rdx),
    rsi = const offset_of!(Frame, rsi),
    rdi = const offset_of!(Frame, rdi),
    rbp = const offset_of!(Frame, rbp),
    rsp = const offset_of!(Frame, rsp),
    r8 = const offset_of!(Frame, r8),
    r9 = const offset_of!(Frame, r9),
    r10 = const offset_of!(Frame, r10),
    r12 = const offset_of!(Frame, r12),
    r13 = const offset_of!(Frame, r13),
    r14 = const offset_of!(Frame, r14),
    r15 = const offset_of!(Frame, r15),
    serve = sym serve,
);

unsafe extern "C" {
    fn linux_first_resume(frame: *mut Frame) -> !;
    fn linux_system_call();
}

/// The program calls it, which no linker sees.
#[used]
static ENTRY: unsafe extern "C" fn() = linux_system_call;

/// Serves the system call whose registers are in the frame of the running thread; returns the frame that goes on.
extern "C" fn serve(frame: *mut Frame) -> *mut Frame {
    let record = &raw mut THREAD_RECORD;
    // SAFETY: this function, the only one that uses the record, runs once at a time. The VMM reads it while the guest
    // does not run.
    let record = unsafe { &mut *record };
    count_turn(record);
    kernel::with(|kernel| {
        let frame = kernel.serve(frame);
        kernel.tell(record);
        count_turn(record);
        frame
    })
}

/// Counts a way in or out, for whoever looks from outside of the guest. What was written to the record before the turn is
/// there before it, and what comes later is not: the fences keep the compiler from moving plain writes over it, and whoever
/// looks does so while the guest does not run.
fn count_turn(record: &mut ThreadRecord) {
    compiler_fence(Ordering::SeqCst);
    // SAFETY: the place is a valid one, borrowed here alone.
    unsafe { (&raw mut record.turn).write_volatile(record.turn + 1) };
    compiler_fence(Ordering::SeqCst);
}

/// Starts the first thread with that frame. The stack in use is where system calls are served from now on.
///
/// # Safety
/// The frame has to live as long as its thread, and its stack pointer to point at the address where it starts.
pub unsafe fn start(frame: *mut Frame) -> ! {
    // SAFETY: the assembly above; the caller answers for the frame. Where the entry calls `serve`, the stack pointer has
    // to be a multiple of 16.
    unsafe {
        asm!("and rsp, -16", "jmp {resume}", resume = sym linux_first_resume, in("rdi") frame, options(noreturn));
    }
}

/// Sets the base of FS, where the running thread keeps its thread-local storage.
pub fn set_fs_base(address: u64) {
    #[cfg(not(test))]
    // SAFETY: no code of the personality uses FS; the VMM turns FSGSBASE on for images that hold this instruction.
    unsafe {
        asm!("wrfsbase {}", in(reg) address, options(nomem, nostack, preserves_flags));
    }
    #[cfg(test)]
    let _ = address;
}

/// The package's bytes, or None where nobody packed this image.
pub fn package_bytes() -> Option<&'static [u8]> {
    // SAFETY: only the packer writes it, before the guest starts; read as volatile, as the compiler knows only zeros.
    let place = unsafe { core::ptr::addr_of!(PACKAGE_PLACE).read_volatile() };
    if place.length_bytes == 0 {
        return None;
    }
    let address = core::ptr::with_exposed_provenance(place.address as usize);
    // SAFETY: the packer has laid so many bytes there, in a segment that is never written.
    Some(unsafe { core::slice::from_raw_parts(address, place.length_bytes as usize) })
}
