//! The stubs: for each patched place the code that a jump there leads to.
//!
//! A stub holds the instructions that the jump displaced, with a call of the personality in place of each SYSCALL, and
//! jumps back. The personality finds the registers as the system call has them; RCX and R11 may be clobbered, as by
//! SYSCALL itself. The 128 bytes below the stack pointer are the program's (the red zone of the System V ABI), so that the
//! return address goes below them.

use iced_x86::{
    BlockEncoder, BlockEncoderOptions, Code, IcedError, Instruction, InstructionBlock, MemoryOperand, Mnemonic,
    Register,
};

use crate::determinism::{Class, classify};
use crate::image::Segment;

const BITNESS: u32 = 64;
const RED_ZONE_BYTES: i64 = 128;
const STUB_ALIGNMENT: usize = 16;
const INT3: u8 = 0xcc;

/// The segment of all stubs.
pub(super) struct Stubs {
    address: u64,
    /// The personality's entry point for system calls.
    entry: u64,
    bytes: Vec<u8>,
    named: Vec<Stub>,
}

/// Where a stub lies, and for which place it is.
pub(super) struct Stub {
    pub address: u64,
    pub length_bytes: u64,
    pub place: String,
}

impl Stubs {
    /// An empty segment at `address`, whose stubs call `entry`.
    pub fn new(address: u64, entry: u64) -> Stubs {
        Stubs { address, entry, bytes: Vec::new(), named: Vec::new() }
    }

    /// Adds a stub, and comes back with its address.
    ///
    /// `displaced` are the instructions that the jump took the room of, in order; `back` is where the program goes on,
    /// `None` where the last of them does not.
    ///
    /// # Errors
    /// What the encoder says of an instruction that cannot stand here, or cannot reach what it refers to.
    pub fn add(&mut self, displaced: &[Instruction], back: Option<u64>, place: String) -> Result<u64, IcedError> {
        let mut code = Vec::with_capacity(displaced.len() + 3);
        for instruction in displaced {
            match classify(instruction) {
                Class::Refuse(_) if instruction.mnemonic() == Mnemonic::Syscall => {
                    code.extend(system_call(self.entry, instruction.ip())?);
                }
                Class::Refuse(_) => {
                    let mut undefined = Instruction::with(Code::Ud2);
                    undefined.set_ip(instruction.ip());
                    code.push(undefined);
                }
                // Where it is to be rewritten, the VMM does so here as it would have there.
                Class::Deterministic | Class::IfShown | Class::Depends(_) | Class::Rewrite(_) => {
                    code.push(*instruction);
                }
            }
        }
        if let Some(back) = back {
            code.push(Instruction::with_branch(Code::Jmp_rel32_64, back)?);
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.resize(bytes.len().next_multiple_of(STUB_ALIGNMENT), INT3);
        let address = self.address + bytes.len() as u64;
        let block = InstructionBlock::new(&code, address);
        let encoded = BlockEncoder::encode(BITNESS, block, BlockEncoderOptions::NONE).map(|result| result.code_buffer);
        if let Ok(encoded) = &encoded {
            bytes.extend(encoded);
            self.named.push(Stub { address, length_bytes: encoded.len() as u64, place });
        }
        self.bytes = bytes;
        encoded.map(|_| address)
    }

    /// The first address behind all stubs.
    pub fn end(&self) -> u64 {
        self.address + self.bytes.len() as u64
    }

    /// The segment, `None` where there is no stub, and the stubs in it.
    pub fn finish(self) -> (Option<Segment>, Vec<Stub>) {
        let memory_bytes = self.bytes.len() as u64;
        let segment =
            Segment { address: self.address, memory_bytes, data: self.bytes, writable: false, executable: true };
        ((memory_bytes > 0).then_some(segment), self.named)
    }
}

/// The call of the personality; the first instruction stands for the SYSCALL where a displaced jump leads to it.
fn system_call(entry: u64, address: u64) -> Result<[Instruction; 3], IcedError> {
    let move_stack = |bytes: i64| {
        let operand = MemoryOperand::with_base_displ(Register::RSP, bytes);
        Instruction::with2(Code::Lea_r64_m, Register::RSP, operand)
    };
    let mut first = move_stack(-RED_ZONE_BYTES)?;
    first.set_ip(address);
    Ok([first, Instruction::with_branch(Code::Call_rel32_64, entry)?, move_stack(RED_ZONE_BYTES)?])
}
