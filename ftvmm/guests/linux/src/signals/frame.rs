//! The frame on a thread's stack in which its registers lie while a handler runs.
//!
//! A thread goes on by `ret`: where it shall run lies at its stack pointer, in memory that is free to the program.

use core::mem::offset_of;

use linux_raw_sys::general::{MINSIGSTKSZ, SA_NODEFER, SA_ONSTACK, SA_RESTART, SA_RESTORER, SIGSEGV};
use linux_raw_sys::general::{SS_AUTODISARM, SS_DISABLE, SS_ONSTACK};

use crate::entry::{Frame, RED_ZONE_BYTES};
use crate::kernel::Kernel;
use crate::memory::Memory;
use crate::signals::queue::INFORMATION_WORDS;
use crate::signals::{Action, Information, SignalSet, ThreadSignals};
use crate::system_calls::{Call, Errno, Outcome, Stop, errno};

/// The call of the entry in a stub: E8 and four bytes of distance.
const CALL_BYTES: u64 = 5;
/// UC_SIGCONTEXT_SS and UC_STRICT_RESTORE_SS of `asm/ucontext.h`: the stack segment is there. UC_FP_XSTATE is not set, as
/// the processor has no XSAVE.
const CONTEXT_FLAGS: u64 = 0x2 | 0x4;
/// The user's segments as Linux has them: CS 0x33, no GS and FS, SS 0x2b.
const SEGMENTS: u64 = 0x33 | 0x2b << 48;
/// Interrupts on, zero and parity: what a program mostly has. A stub does not keep the flags.
const CONTEXT_RFLAGS: u64 = 0x246;
/// The bits of MXCSR that every processor with SSE2 has. FXRSTOR traps where others are set.
const MXCSR_MASK: u32 = 0xffbf;

/// The stack for handlers that ask for it, as sigaltstack has it (`stack_t`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AlternateStack {
    /// guest address of the lowest byte
    pub address: u64,
    /// SS_DISABLE, SS_AUTODISARM
    pub flags: u32,
    padding: u32,
    /// its size in bytes; 0 where there is none
    pub size: u64,
}

impl AlternateStack {
    const NONE: AlternateStack = AlternateStack { address: 0, flags: SS_DISABLE, padding: 0, size: 0 };

    fn covers(&self, stack: u64) -> bool {
        stack > self.address && stack - self.address <= self.size
    }

    /// Whether a thread with that stack pointer is on it.
    fn is_in_use(&self, stack: u64) -> bool {
        self.flags & SS_AUTODISARM == 0 && self.covers(stack)
    }

    /// As sigaltstack tells of it.
    pub(super) fn seen_from(&self, stack: u64) -> AlternateStack {
        let state = match (self.size, self.is_in_use(stack)) {
            (0, _) => SS_DISABLE,
            (_, true) => SS_ONSTACK,
            (_, false) => 0,
        };
        AlternateStack { flags: state | self.flags & SS_AUTODISARM, padding: 0, ..*self }
    }

    /// Takes another one, for a thread with that stack pointer.
    pub(super) fn replace(&mut self, new: AlternateStack, stack: u64) -> Result<(), Errno> {
        if self.is_in_use(stack) {
            return Err(errno::EPERM);
        }
        match new.flags & !SS_AUTODISARM {
            SS_DISABLE => *self = AlternateStack { flags: new.flags, ..AlternateStack::NONE },
            SS_ONSTACK | 0 if new.size < u64::from(MINSIGSTKSZ) => return Err(errno::ENOMEM),
            SS_ONSTACK | 0 => *self = AlternateStack { padding: 0, ..new },
            _ => return Err(errno::EINVAL),
        }
        Ok(())
    }
}

/// `struct rt_sigframe` of Linux's `arch/x86`, with `struct ucontext` and `struct sigcontext_64` of its ABI in it.
#[repr(C)]
#[derive(Clone, Copy)]
struct SignalFrame {
    /// the handler returns to it
    restorer: u64,
    /// from here to the mask: `ucontext`
    flags: u64,
    link: u64,
    alternate: AlternateStack,
    r8: u64,
    r9: u64,
    r10: u64,
    r11: u64,
    r12: u64,
    r13: u64,
    r14: u64,
    r15: u64,
    rdi: u64,
    rsi: u64,
    rbp: u64,
    rbx: u64,
    rdx: u64,
    rax: u64,
    rcx: u64,
    rsp: u64,
    rip: u64,
    rflags: u64,
    segments: u64,
    /// error code, trap number, the mask again, faulting address
    trap: [u64; 4],
    /// guest address of what FXSAVE stores
    floating_point: u64,
    reserved: [u64; 8],
    mask: SignalSet,
    information: [u64; INFORMATION_WORDS],
}

/// Lets a thread run the handler of an action: its registers go to its stack.
///
/// # Errors
/// EFAULT where the stack is none.
pub(super) fn enter(
    memory: &Memory,
    registers: &mut Frame,
    signals: &mut ThreadSignals,
    information: Information,
    action: &Action,
) -> Result<(), Errno> {
    if !action.has(SA_RESTORER) {
        return Err(errno::EFAULT);
    }
    let (mut rip, mut rax): (u64, u64) = (memory.get(registers.rsp)?, registers.rax);
    if let Some(interrupted) = signals.interrupted.take()
        && interrupted.restarts
        && action.has(SA_RESTART)
    {
        (rip, rax) = (rip.wrapping_sub(CALL_BYTES), interrupted.number);
    }
    let rsp = registers.rsp.wrapping_add(8);
    let address = place(rsp, &signals.alternate, action)?;
    let floating_point = floating_point_of(address);
    let mask = signals.saved_mask.take().unwrap_or(signals.mask);
    let frame = SignalFrame {
        restorer: action.restorer,
        flags: CONTEXT_FLAGS,
        link: 0,
        alternate: signals.alternate,
        r8: registers.r8,
        r9: registers.r9,
        r10: registers.r10,
        // SYSCALL leaves the flags and the instruction pointer in these two.
        r11: CONTEXT_RFLAGS,
        r12: registers.r12,
        r13: registers.r13,
        r14: registers.r14,
        r15: registers.r15,
        rdi: registers.rdi,
        rsi: registers.rsi,
        rbp: registers.rbp,
        rbx: registers.rbx,
        rdx: registers.rdx,
        rax,
        rcx: rip,
        rsp,
        rip,
        rflags: CONTEXT_RFLAGS,
        segments: SEGMENTS,
        trap: [0, 0, mask.0, 0],
        floating_point,
        reserved: [0; 8],
        mask,
        information: information.to_abi(),
    };
    memory.put(floating_point, registers.floating_point)?;
    memory.put(address, frame)?;
    registers.rsp = address.wrapping_sub(8);
    memory.put(registers.rsp, action.handler)?;
    registers.rdi = u64::from(information.signal());
    registers.rsi = address.wrapping_add(offset_of!(SignalFrame, information) as u64);
    registers.rdx = address.wrapping_add(offset_of!(SignalFrame, flags) as u64);
    registers.rax = 0;
    registers.floating_point = Frame::default().floating_point;

    let own = if action.has(SA_NODEFER) { SignalSet::EMPTY } else { SignalSet::only(information.signal()) };
    signals.mask = signals.mask.with(action.mask).with(own);
    if signals.alternate.flags & SS_AUTODISARM != 0 {
        signals.alternate = AlternateStack::NONE;
    }
    Ok(())
}

const FLOATING_POINT_BYTES: u64 = 512;
const FLOATING_POINT_ALIGNMENT: u64 = 64;

/// Where the frame goes for a thread with that stack pointer.
fn place(rsp: u64, alternate: &AlternateStack, action: &Action) -> Result<u64, Errno> {
    let mut top = rsp.wrapping_sub(RED_ZONE_BYTES);
    let mut is_on_alternate = alternate.is_in_use(rsp);
    if action.has(SA_ONSTACK) && alternate.size > 0 && !is_on_alternate {
        top = alternate.address.wrapping_add(alternate.size);
        is_on_alternate = true;
    }
    let floating_point = top.wrapping_sub(FLOATING_POINT_BYTES) & !(FLOATING_POINT_ALIGNMENT - 1);
    // Where the handler starts, the stack pointer is a multiple of 16 but for the return address: System V ABI for AMD64,
    // section 3.2.2.
    let address = (floating_point.wrapping_sub(size_of::<SignalFrame>() as u64) & !15).wrapping_sub(8);
    match is_on_alternate && !alternate.covers(address.wrapping_sub(8)) {
        true => Err(errno::EFAULT),
        false => Ok(address),
    }
}

/// Where the floating-point state lies, for a frame at that address: the first fit above it.
fn floating_point_of(address: u64) -> u64 {
    let end = address.wrapping_add(size_of::<SignalFrame>() as u64);
    end.wrapping_add(FLOATING_POINT_ALIGNMENT - 1) & !(FLOATING_POINT_ALIGNMENT - 1)
}

/// Takes registers, mask and alternate stack back from the frame at that address, as the handler has left them.
fn leave(
    memory: &Memory,
    registers: &mut Frame,
    signals: &mut ThreadSignals,
    address: u64,
) -> Result<SignalSet, Errno> {
    let frame: SignalFrame = memory.get(address)?;
    let mut floating_point = Frame::default().floating_point;
    if frame.floating_point != 0 {
        // The mask of MXCSR, as the entry's FXSAVE has just stored it, is in bytes 28 to 31.
        let mask = match (registers.floating_point[3] >> 32) as u32 {
            0 => MXCSR_MASK,
            mask => mask,
        };
        floating_point = memory.get::<[u64; 64]>(frame.floating_point)?;
        floating_point[3] &= u64::from(u32::MAX) << 32 | u64::from(mask);
    }
    let rsp = frame.rsp.wrapping_sub(8);
    memory.put(rsp, frame.rip)?;
    *registers = Frame {
        floating_point,
        rax: frame.rax,
        rbx: frame.rbx,
        rdx: frame.rdx,
        rsi: frame.rsi,
        rdi: frame.rdi,
        rbp: frame.rbp,
        rsp,
        r8: frame.r8,
        r9: frame.r9,
        r10: frame.r10,
        r12: frame.r12,
        r13: frame.r13,
        r14: frame.r14,
        r15: frame.r15,
    };
    // As in Linux, what is wrong with it is not worth a fault.
    let _ = signals.alternate.replace(frame.alternate, frame.rsp);
    Ok(frame.mask)
}

/// Lets an interrupted call start again: where no handler runs after all.
pub(super) fn restart(memory: &Memory, registers: &mut Frame, number: u64) -> Result<(), Errno> {
    let rip: u64 = memory.get(registers.rsp)?;
    memory.put(registers.rsp, rip.wrapping_sub(CALL_BYTES))?;
    registers.rax = number;
    Ok(())
}

/// rt_sigreturn(): the end of a handler.
///
/// # Errors
/// None: SIGSEGV where there is no frame.
pub fn rt_sigreturn(kernel: &mut Kernel, _: Call) -> Outcome {
    let Kernel { threads, memory, .. } = kernel;
    let thread = threads.current_mut();
    // The restorer's stub has stepped over the red zone and called; the handler's return has taken the first word.
    let address = thread.frame.rsp.wrapping_add(RED_ZONE_BYTES);
    match leave(memory, &mut thread.frame, &mut thread.signals, address) {
        Ok(mask) => kernel.set_mask(mask),
        Err(_) => kernel.force(SIGSEGV, false),
    }
    Err(Stop::Resume)
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use linux_raw_sys::general::{SIGUSR1, SIGUSR2};
    use package::{Package, Program};

    use super::*;
    use crate::signals::delivery::Interrupted;

    const RESTORER: u64 = 0x1000;
    const HANDLER: u64 = 0x2000;
    const STUB: u64 = 0x3005;

    /// Memory of the test itself, and the top of a stack of 16 KiB in it.
    fn memory() -> (Memory, u64) {
        let bytes = 64 * 4096;
        let start = vec![0u8; bytes].leak().as_mut_ptr().expose_provenance() as u64;
        let program = Program { path: "/p", headers: 0, header_count: 0, entry: 0, loader: 0, start: 0 };
        let package = Package {
            arguments: vec![],
            environment: vec![],
            program,
            objects: (0, 0),
            files: vec![],
            has_exact_clock: false,
        };
        let start = start.next_multiple_of(4096);
        let mut memory = Memory::new(start, start + bytes as u64 - 4096, &package);
        let stack = memory.take(4 * 4096).unwrap();
        (memory, stack + 4 * 4096 - 64)
    }

    /// A thread in a stub: the return address lies at its stack pointer.
    fn registers(memory: &Memory, rsp: u64) -> Frame {
        memory.put(rsp, STUB).unwrap();
        let mut registers = Frame { rsp, rax: 7, rbx: 8, rdi: 9, rsi: 10, rdx: 11, r15: 12, ..Frame::default() };
        registers.floating_point[20] = 42;
        registers
    }

    fn action(flags: u32) -> Action {
        let flags = u64::from(flags | SA_RESTORER);
        Action { handler: HANDLER, flags, restorer: RESTORER, mask: SignalSet::only(SIGUSR2) }
    }

    fn by_program() -> Information {
        Information::by_program(SIGUSR1, false)
    }

    #[test]
    fn the_frame_is_laid_out_as_the_abi_says() {
        // glibc's <sys/ucontext.h>: uc_mcontext at 40, of 256 bytes, and the mask behind it.
        assert_eq!(size_of::<AlternateStack>(), 24);
        assert_eq!(offset_of!(SignalFrame, r8) - 8, 40);
        assert_eq!(offset_of!(SignalFrame, rip) - 8, 168);
        assert_eq!(offset_of!(SignalFrame, mask) - 8, 296);
        assert_eq!(size_of::<SignalFrame>(), 440);
    }

    #[test]
    fn a_handler_runs_and_returns() {
        let (memory, rsp) = memory();
        let mut thread = registers(&memory, rsp);
        let before = thread.clone();
        let mut signals = ThreadSignals::default();
        enter(&memory, &mut thread, &mut signals, by_program(), &action(0)).unwrap();
        assert_eq!(memory.get::<u64>(thread.rsp), Ok(HANDLER));
        let stack = thread.rsp + 8;
        assert_eq!(memory.get::<u64>(stack), Ok(RESTORER));
        assert_eq!((stack + 8) % 16, 0);
        assert!(stack < rsp + 8 - RED_ZONE_BYTES);
        assert_eq!((thread.rdi, thread.rbx), (u64::from(SIGUSR1), 8));
        assert_eq!(memory.get::<u32>(thread.rsi), Ok(SIGUSR1));
        assert_eq!(memory.get::<u64>(thread.rdx + 168), Ok(STUB));
        assert_eq!(memory.get::<u64>(thread.rdx + 160), Ok(rsp + 8));
        assert_eq!(thread.floating_point[20], 0);
        assert_eq!(signals.mask, SignalSet::of(&[SIGUSR1, SIGUSR2]));

        // The restorer's stub: the handler's `ret`, the red zone, the call.
        thread.rsp = stack + 8 - RED_ZONE_BYTES - 8;
        memory.put(rsp, 0u64).unwrap();
        let address = thread.rsp + RED_ZONE_BYTES;
        assert_eq!(leave(&memory, &mut thread, &mut signals, address), Ok(SignalSet::EMPTY));
        assert_eq!(memory.get::<u64>(thread.rsp), Ok(STUB));
        assert_eq!((thread.rsp, thread.rax, thread.rdx, thread.r15), (rsp, before.rax, before.rdx, before.r15));
        assert_eq!(thread.floating_point, before.floating_point);
    }

    #[test]
    fn an_interrupted_call_restarts_where_the_handler_asks_for_it() {
        let (memory, rsp) = memory();
        for (flags, restarts, expected) in
            [(SA_RESTART, true, (STUB - 5, 202)), (SA_RESTART, false, (STUB, 7)), (0, true, (STUB, 7))]
        {
            let mut thread = registers(&memory, rsp);
            let interrupted = Some(Interrupted { number: 202, restarts });
            let mut signals = ThreadSignals { interrupted, ..ThreadSignals::default() };
            enter(&memory, &mut thread, &mut signals, by_program(), &action(flags)).unwrap();
            let found = (memory.get::<u64>(thread.rdx + 168).unwrap(), memory.get::<u64>(thread.rdx + 144).unwrap());
            assert_eq!(found, expected);
            assert!(signals.is_settled());
        }
    }

    #[test]
    fn the_mask_of_a_call_ends_with_the_handler() {
        let (memory, rsp) = memory();
        let mut thread = registers(&memory, rsp);
        let saved_mask = Some(SignalSet::only(SIGUSR1));
        let mut signals = ThreadSignals { saved_mask, ..ThreadSignals::default() };
        enter(&memory, &mut thread, &mut signals, by_program(), &action(SA_NODEFER)).unwrap();
        assert_eq!(signals.mask, SignalSet::only(SIGUSR2));
        assert_eq!(memory.get::<u64>(thread.rdx + 296), Ok(SignalSet::only(SIGUSR1).0));
    }

    #[test]
    fn a_handler_may_run_on_the_alternate_stack() {
        let (mut memory, rsp) = memory();
        let address = memory.take(8192).unwrap();
        let alternate = AlternateStack { address, flags: 0, padding: 0, size: 8192 };
        let mut signals = ThreadSignals { alternate, ..ThreadSignals::default() };
        let mut thread = registers(&memory, rsp);
        enter(&memory, &mut thread, &mut signals, by_program(), &action(SA_ONSTACK)).unwrap();
        assert!(thread.rsp > address && thread.rsp < address + 8192);
        assert_eq!(alternate.seen_from(thread.rsp).flags, SS_ONSTACK);
        assert_eq!(signals.alternate.replace(AlternateStack::NONE, thread.rsp), Err(errno::EPERM));
        // A second one stays there, below the first, as long as there is room.
        let mut count = 0;
        while enter(&memory, &mut thread, &mut signals, by_program(), &action(SA_ONSTACK)).is_ok() {
            assert!(thread.rsp > address);
            count += 1;
        }
        assert!(count >= 3);
    }

    #[test]
    fn an_alternate_stack_has_a_size() {
        let mut alternate = AlternateStack::default();
        assert_eq!(alternate.seen_from(0).flags, SS_DISABLE);
        let small = AlternateStack { address: 4096, flags: 0, padding: 0, size: u64::from(MINSIGSTKSZ) - 1 };
        assert_eq!(alternate.replace(small, 0), Err(errno::ENOMEM));
        assert_eq!(alternate.replace(AlternateStack { flags: 8, ..small }, 0), Err(errno::EINVAL));
        let enough = AlternateStack { size: 4096, flags: SS_AUTODISARM, ..small };
        assert_eq!(alternate.replace(enough, 0), Ok(()));
        assert_eq!(alternate.seen_from(5000).flags, SS_AUTODISARM);
        assert_eq!(alternate.replace(AlternateStack { flags: SS_DISABLE, ..small }, 5000), Ok(()));
        assert_eq!(alternate, AlternateStack::NONE);
    }

    #[test]
    fn a_stack_that_is_none_and_a_frame_that_is_none_are_faults() {
        let (memory, rsp) = memory();
        let mut signals = ThreadSignals::default();
        let mut thread = Frame { rsp: 64, ..registers(&memory, rsp) };
        assert!(enter(&memory, &mut thread, &mut signals, by_program(), &action(0)).is_err());
        let without = Action { flags: 0, ..action(0) };
        let mut thread = registers(&memory, rsp);
        assert!(enter(&memory, &mut thread, &mut signals, by_program(), &without).is_err());
        assert!(leave(&memory, &mut thread, &mut signals, 64).is_err());
    }

    #[test]
    fn bits_of_mxcsr_that_would_trap_are_cleared() {
        let (memory, rsp) = memory();
        let mut thread = registers(&memory, rsp);
        let mut signals = ThreadSignals::default();
        enter(&memory, &mut thread, &mut signals, by_program(), &action(0)).unwrap();
        let address = thread.rsp + 8;
        let floating_point: u64 = memory.get(address + offset_of!(SignalFrame, floating_point) as u64).unwrap();
        assert_eq!(floating_point % 16, 0);
        memory.put(floating_point + 24, u32::MAX).unwrap();
        leave(&memory, &mut thread, &mut signals, address).unwrap();
        assert_eq!(thread.floating_point[3] as u32, MXCSR_MASK);
    }
}
