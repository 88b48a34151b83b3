//! The privileged instructions that the stock bindings execute at start-up, and that trap at CPL 3.
//!
//! The VMM keeps its own descriptor tables: loading others is stepped over. Only two have an effect that the guest
//! relies on: WRMSR of FS_BASE (thread-local storage) and the far return into its code segment.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic};
use kvm_bindings::kvm_regs;

use super::memory::GuestMemory;
use super::monitor::Frame;
use crate::image::IMAGE_ADDRESS_END;

const FS_BASE_REGISTER: u32 = 0xc000_0100;
/// The selector that the stock bindings return to.
const BINDINGS_CODE_SELECTOR: u64 = 0x08;
/// The longest instruction that there is.
const INSTRUCTION_BYTES_MAX: u64 = 15;
/// User addresses end here, with four-level paging.
const USER_ADDRESS_END: u64 = 1 << 47;

/// What a general protection fault came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Emulated {
    /// The guest goes on at the changed frame.
    Continue,
    /// The same, after its FS base has been set.
    SetFsBase(u64),
    /// The fault stands.
    Fault,
}

/// Emulates a far return that page-faulted.
///
/// Processors read the stack pointer and segment that a return to another privilege takes, two words above the ones
/// that this return takes, before they find the privilege wrong: near the top of the stack that is a page fault.
pub(super) fn emulate_after_page_fault(memory: &GuestMemory, frame: &mut Frame) -> Emulated {
    match decode(memory, frame.rip).code() {
        Code::Retfq => far_return(memory, frame),
        _ => Emulated::Fault,
    }
}

fn decode(memory: &GuestMemory, rip: u64) -> Instruction {
    Decoder::with_ip(64, memory.code(rip, INSTRUCTION_BYTES_MAX), rip, DecoderOptions::NONE).decode()
}

/// Emulates the instruction that `frame` points to.
pub(super) fn emulate(memory: &GuestMemory, registers: &kvm_regs, frame: &mut Frame) -> Emulated {
    let instruction = decode(memory, frame.rip);
    let next = frame.rip + instruction.len() as u64;
    match (instruction.mnemonic(), instruction.code()) {
        (Mnemonic::Wrmsr, _) if registers.rcx as u32 == FS_BASE_REGISTER => {
            let base = registers.rdx << 32 | registers.rax & u64::from(u32::MAX);
            if base >= USER_ADDRESS_END {
                return Emulated::Fault;
            }
            frame.rip = next;
            Emulated::SetFsBase(base)
        }
        (Mnemonic::Lgdt | Mnemonic::Lidt | Mnemonic::Ltr | Mnemonic::Cli | Mnemonic::Sti, _)
        | (_, Code::Mov_Sreg_rm16 | Code::Mov_Sreg_r32m16 | Code::Mov_Sreg_r64m16) => {
            frame.rip = next;
            Emulated::Continue
        }
        (_, Code::Retfq) => far_return(memory, frame),
        _ => Emulated::Fault,
    }
}

fn far_return(memory: &GuestMemory, frame: &mut Frame) -> Emulated {
    let Some(Ok(words)) = memory.read(frame.rsp, 16).map(<[u8; 16]>::try_from) else {
        return Emulated::Fault;
    };
    let both = u128::from_le_bytes(words);
    let (rip, selector) = (both as u64, (both >> 64) as u64);
    if rip >= IMAGE_ADDRESS_END || selector & 0xffff != BINDINGS_CODE_SELECTOR {
        return Emulated::Fault;
    }
    frame.rip = rip;
    frame.rsp += 16;
    Emulated::Continue
}
