//! One guest exit: a hypercall, a rewritten instruction, or a trap.

use iced_x86::{Decoder, DecoderOptions};
use kvm_bindings::kvm_regs;

use super::emulation::{Emulated, emulate, emulate_after_page_fault};
use super::hypercall::{self, Decoded, Place};
use super::memory::{Access, GUEST_ADDRESS_MIN};
use super::monitor::{CODE_SELECTOR, Frame, SYSTEM_CALL_ADDRESS, TRAP_PORT};
use super::registers::{canonical, numbered};
use super::vcpu::Exit;
use super::{Instruction, Machine, MachineError, Request, State, TrapReport};
use crate::determinism::{Action, SITE_PORT, SITE_TRAP_BYTES};

const TRAP_PORT_LAST: u16 = TRAP_PORT + 31;
const SITE_PORT_WIDE: u16 = SITE_PORT as u16;
const INVALID_OPCODE: u8 = 6;
const GENERAL_PROTECTION: u8 = 13;
const PAGE_FAULT: u8 = 14;
/// In the error code of a page fault: Intel SDM volume 3, 4.7.
const WROTE: u64 = 1 << 1;
const FETCHED: u64 = 1 << 4;
/// What code at CPL 3 raises, with the VMM's descriptor tables and control registers (4: by INT 4 under KVM-PVM). The
/// others come from the host: an interrupt that cannot be masked, a machine check, a fault within a fault, a
/// hypervisor's own.
const GUESTS_OWN: [u8; 12] = [0, 1, 3, 4, INVALID_OPCODE, 11, 12, GENERAL_PROTECTION, PAGE_FAULT, 16, 17, 19];
/// Set in the frame on some hosts and not on others.
const RESUME_FLAG: u64 = 1 << 16;
const HYPERCALL_WIDTH_BYTES: usize = 4;
const SYSTEM_CALL_BYTES: u64 = 2;

impl Machine {
    /// Runs to the next exit; `None` where the machine dealt with it by itself.
    pub(super) fn run_to_exit(&mut self) -> Result<Option<(Request, Place)>, MachineError> {
        let exit = self.vcpu.enter()?;
        if exit != Exit::Interrupted
            && let Some(watch) = &mut self.watch
        {
            watch.guest_left();
        }
        match exit {
            Exit::Out { port: SITE_PORT_WIDE, width_bytes: 1, .. } => self.site(),
            Exit::Out { port: port @ TRAP_PORT..=TRAP_PORT_LAST, width_bytes: 1, .. } => {
                self.trap((port - TRAP_PORT) as u8).map(|()| None)
            }
            Exit::Out { port, value, width_bytes: HYPERCALL_WIDTH_BYTES } => self.hypercall(port, value),
            Exit::Out { port, width_bytes, .. } => {
                self.rip = self.vcpu.registers().rip;
                self.stop(None, format!("it wrote {width_bytes} bytes to port {port:#x}, which no hypercall does"))
            }
            Exit::In { port } => {
                self.rip = self.vcpu.registers().rip;
                self.stop(None, format!("it read from port {port:#x}, which no hypercall does"))
            }
            Exit::Interrupted => Err(MachineError::Interrupted),
            Exit::Unforeseen(reason) => Err(MachineError::Host { reason }),
        }
    }

    fn hypercall(&mut self, port: u16, structure: u32) -> Result<Option<(Request, Place)>, MachineError> {
        let rip = self.vcpu.registers().rip;
        self.rip = if self.traits.rip_past_out { rip } else { self.behind(rip) };
        let registers = canonical(self.vcpu.registers(), self.rip);
        match hypercall::decode(&mut self.memory, &self.devices, port, structure.into()) {
            Decoded::Request(request, place) => {
                self.chain_request(&request, &registers);
                Ok(Some((request, place)))
            }
            Decoded::Refused => {
                self.chain.link(&[b"refused", &port.to_le_bytes(), &registers]);
                Ok(None)
            }
            Decoded::Fatal(reason) => self.stop(None, reason),
        }
    }

    fn chain_request(&mut self, request: &Request, registers: &[u8]) {
        let words = |kind: u8, words: [u64; 3]| {
            let mut bytes = [kind; 25];
            for (slot, word) in bytes[1..].chunks_exact_mut(8).zip(words) {
                slot.copy_from_slice(&word.to_le_bytes());
            }
            bytes
        };
        let (fixed, data): ([u8; 25], &[u8]) = match request {
            Request::Walltime => (words(1, [0; 3]), &[]),
            Request::Poll { timeout_nanoseconds } => (words(2, [*timeout_nanoseconds, 0, 0]), &[]),
            Request::BlockRead { device, offset, length } => {
                (words(3, [u64::from(*device), *offset, u64::from(*length)]), &[])
            }
            Request::NetworkRead { device, capacity } => (words(4, [u64::from(*device), u64::from(*capacity), 0]), &[]),
            Request::Instruction(Instruction::Rdtsc) => (words(5, [0; 3]), &[]),
            Request::Instruction(Instruction::Rdtscp) => (words(6, [0; 3]), &[]),
            Request::Instruction(Instruction::Rdrand { register, width_bytes }) => {
                (words(7, [u64::from(*register), u64::from(*width_bytes), 0]), &[])
            }
            Request::Instruction(Instruction::Rdseed { register, width_bytes }) => {
                (words(8, [u64::from(*register), u64::from(*width_bytes), 0]), &[])
            }
            Request::Console { data } => (words(9, [0; 3]), data),
            Request::BlockWrite { device, offset, data } => (words(10, [u64::from(*device), *offset, 0]), data),
            Request::NetworkWrite { device, frame } => (words(11, [u64::from(*device), 0, 0]), frame),
            Request::Halt { exit_status } => (words(12, [*exit_status as u32 as u64, 0, 0]), &[]),
        };
        self.chain.link(&[b"request", &fixed, registers, data]);
    }

    /// The address behind the `out` at `rip`, on a host where RIP is not past it yet.
    fn behind(&self, rip: u64) -> u64 {
        let code = self.memory.code(rip, 15);
        rip + Decoder::with_ip(64, code, rip, DecoderOptions::NONE).decode().len() as u64
    }

    fn site(&mut self) -> Result<Option<(Request, Place)>, MachineError> {
        let rip = self.vcpu.registers().rip;
        let address = if self.traits.rip_past_out { rip.wrapping_sub(SITE_TRAP_BYTES) } else { rip };
        self.rip = address;
        let Some(site) = self.sites.get(&address).copied() else {
            return self.stop(None, format!("it wrote to port {SITE_PORT:#x}, which the VMM keeps for itself"));
        };
        match site.action {
            Action::Ask(instruction) => {
                self.rip = address + SITE_TRAP_BYTES;
                let request = Request::Instruction(instruction);
                let registers = canonical(self.vcpu.registers(), self.rip);
                self.chain_request(&request, &registers);
                return Ok(Some((request, Place::default())));
            }
            Action::Cpuid => {
                let registers = self.vcpu.registers_mut();
                let values = self.cpuid.look_up(registers.rax as u32, registers.rcx as u32);
                write_cpuid(registers, values);
            }
            Action::ProcessorIdentifier { register } => *numbered(self.vcpu.registers_mut(), register) = 0,
            Action::Undefined => return self.stop(Some((INVALID_OPCODE, 0)), name_of(INVALID_OPCODE).into()),
            Action::GeneralProtection => {
                return self.stop(Some((GENERAL_PROTECTION, 0)), name_of(GENERAL_PROTECTION).into());
            }
        }
        let registers = canonical(self.vcpu.registers(), self.rip);
        self.chain.link(&[b"instruction", &registers]);
        Ok(None)
    }

    fn trap(&mut self, vector: u8) -> Result<(), MachineError> {
        if !GUESTS_OWN.contains(&vector) {
            // Another host would not raise it there, so it is no input of the guest's, and no end of its own.
            let reason = format!("{} (vector {vector}), which no guest raises", name_of(vector));
            return Err(MachineError::Host { reason });
        }
        let mut frame = Frame::read(self.vcpu.monitor());
        if vector == INVALID_OPCODE && frame.rip == SYSTEM_CALL_ADDRESS {
            // A SYSCALL that nobody saw in the image, reached by a jump into the middle of an instruction. It left
            // in RCX and R11 where it stood and with which flags; a processor that refuses it raises #UD there.
            let registers = self.vcpu.registers();
            (frame.rip, frame.rflags) = (registers.rcx.wrapping_sub(SYSTEM_CALL_BYTES), registers.r11);
        }
        self.rip = frame.rip;
        let is_from_guest = frame.code_selector == u64::from(CODE_SELECTOR);
        let emulated = match vector {
            GENERAL_PROTECTION if is_from_guest => emulate(&self.memory, self.vcpu.registers(), &mut frame),
            PAGE_FAULT if is_from_guest => emulate_after_page_fault(&self.memory, &mut frame),
            _ => Emulated::Fault,
        };
        match emulated {
            Emulated::Continue => {}
            Emulated::SetFsBase(base) => self.vcpu.set_fs_base(base)?,
            Emulated::Fault => return self.stop_at(vector, &frame),
        }
        frame.rflags &= !RESUME_FLAG;
        frame.write(self.vcpu.monitor());
        let guest = kvm_regs { rsp: frame.rsp, rflags: frame.rflags, ..*self.vcpu.registers() };
        // Without the vector: which of two faults an emulated instruction raises is up to the processor.
        self.chain.link(&[b"trap", &canonical(&guest, frame.rip)]);
        Ok(())
    }

    /// Ends the guest where it raised this exception.
    fn stop_at(&mut self, vector: u8, raised: &Frame) -> Result<(), MachineError> {
        let guest = kvm_regs { rsp: raised.rsp, rflags: raised.rflags, ..*self.vcpu.registers() };
        *self.vcpu.registers_mut() = guest;
        let reason = match vector {
            PAGE_FAULT => self.about_page_fault(raised.error_code, self.vcpu.fault_address()?),
            _ => name_of(vector).into(),
        };
        self.stop(Some((vector, raised.error_code)), reason)
    }

    /// What a guest did to raise a page fault.
    fn about_page_fault(&self, error_code: u64, address: u64) -> String {
        let deed = match error_code {
            code if code & FETCHED != 0 => "jumped to",
            code if code & WROTE != 0 => "wrote to",
            _ => "read from",
        };
        let place = match self.memory.access(address) {
            _ if address < GUEST_ADDRESS_MIN => "where a null pointer leads",
            Some(Access { executable: true, .. }) => "which is code",
            Some(Access { mapped: true, writable: true, .. }) => "which is data",
            Some(Access { mapped: true, writable: false, .. }) => "which is constant data",
            Some(Access { mapped: false, .. }) | None => "where it has no memory",
        };
        format!("page fault: it {deed} {address:#x}, {place}")
    }

    /// Ends the guest with a report, which every replica comes to at the same point.
    fn stop<T>(&mut self, vector: Option<(u8, u64)>, reason: String) -> Result<T, MachineError> {
        self.state = State::Stopped;
        let registers = canonical(self.vcpu.registers(), self.rip);
        let is_page_fault = vector.is_some_and(|(vector, _)| vector == PAGE_FAULT);
        let cr2 = if is_page_fault { self.vcpu.fault_address()? } else { 0 };
        let error_code = vector.map_or(0, |(_, error_code)| error_code);
        let kind = [vector.map_or(u8::MAX, |(vector, _)| vector)];
        self.chain.link(&[b"stop", &kind, &error_code.to_le_bytes(), &cr2.to_le_bytes(), &registers]);
        Err(MachineError::Trap(Box::new(TrapReport {
            vector: vector.map(|(vector, _)| vector),
            error_code,
            rip: self.rip,
            rsp: self.vcpu.registers().rsp,
            cr2,
            reason,
        })))
    }
}

fn write_cpuid(registers: &mut kvm_regs, [eax, ebx, ecx, edx]: [u32; 4]) {
    registers.rax = eax.into();
    registers.rbx = ebx.into();
    registers.rcx = ecx.into();
    registers.rdx = edx.into();
}

fn name_of(vector: u8) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug exception",
        2 => "non-maskable interrupt",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bound range exceeded",
        INVALID_OPCODE => "invalid opcode",
        7 => "no floating-point unit",
        8 => "double fault",
        10 => "invalid task state segment",
        11 => "segment not present",
        12 => "stack segment fault",
        GENERAL_PROTECTION => "general protection fault",
        PAGE_FAULT => "page fault",
        16 => "floating-point error",
        17 => "alignment check",
        18 => "machine check",
        19 => "SIMD floating-point error",
        _ => "reserved exception",
    }
}

#[cfg(test)]
mod tests {
    use super::super::MachineConfig;
    use super::super::monitor::IDT_ADDRESS;
    use super::*;
    use crate::guest;
    use crate::image::Image;
    use crate::machine::monitor::MONITOR_ADDRESS;

    /// Runs a guest that does what is undefined, on a host that has done this to the table of the vectors.
    fn run_undefined(damage: impl FnOnce(&mut [u8])) -> MachineError {
        let image = Image::parse(&guest::image(&[], |a| a.ud2().unwrap())).unwrap();
        let mut machine = Machine::new(&image, &MachineConfig::new(4 << 20)).unwrap();
        damage(&mut machine.vcpu.monitor()[(IDT_ADDRESS - MONITOR_ADDRESS) as usize..][..512]);
        machine.run().unwrap_err()
    }

    #[test]
    fn what_no_guest_brings_about_is_the_hosts_failure_and_no_trap() {
        assert!(matches!(run_undefined(|_| {}), MachineError::Trap(_)));
        let gate = |vector: u8| usize::from(vector) * 16..usize::from(vector + 1) * 16;
        for (vector, name) in [(2, "non-maskable interrupt"), (8, "double fault"), (18, "machine check")] {
            let error = run_undefined(|table| table.copy_within(gate(vector), gate(INVALID_OPCODE).start));
            assert!(matches!(&error, MachineError::Host { reason } if reason.contains(name)), "{error}");
        }
        // Without a gate for anything, KVM gives the guest up.
        let error = run_undefined(|table| table.fill(0));
        assert!(matches!(&error, MachineError::Host { .. }), "{error}");
    }
}
