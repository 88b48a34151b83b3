//! General registers: in the order of their encoding, as bytes for the fingerprint, and as targets of answers.

use kvm_bindings::kvm_regs;

use super::request::{Answer, Instruction};

/// The one flag of a program that every instruction defines. What multiplications, shifts and others leave undefined
/// differs by processor and stays until the next instruction that sets it; a program that uses it comes to other
/// registers.
const DIRECTION: u64 = 1 << 10;
const CARRY: u64 = 1;
/// RDRAND and RDSEED clear these, and set carry on success.
const CLEARED_BY_RANDOM: u64 = 1 << 2 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 11;
const CANONICAL_BYTES: usize = 18 * 8;

/// RIP, flags and the sixteen registers, in a form that does not depend on the host.
pub(super) fn canonical(registers: &kvm_regs, rip: u64) -> [u8; CANONICAL_BYTES] {
    let r = registers;
    let words = [
        rip,
        r.rflags & DIRECTION,
        r.rax,
        r.rcx,
        r.rdx,
        r.rbx,
        r.rsp,
        r.rbp,
        r.rsi,
        r.rdi,
        r.r8,
        r.r9,
        r.r10,
        r.r11,
        r.r12,
        r.r13,
        r.r14,
        r.r15,
    ];
    let mut bytes = [0; CANONICAL_BYTES];
    for (slot, word) in bytes.chunks_exact_mut(8).zip(words) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// The register that an instruction's encoding numbers so.
pub(super) fn numbered(registers: &mut kvm_regs, number: u8) -> &mut u64 {
    match number & 15 {
        0 => &mut registers.rax,
        1 => &mut registers.rcx,
        2 => &mut registers.rdx,
        3 => &mut registers.rbx,
        4 => &mut registers.rsp,
        5 => &mut registers.rbp,
        6 => &mut registers.rsi,
        7 => &mut registers.rdi,
        8 => &mut registers.r8,
        9 => &mut registers.r9,
        10 => &mut registers.r10,
        11 => &mut registers.r11,
        12 => &mut registers.r12,
        13 => &mut registers.r13,
        14 => &mut registers.r14,
        _ => &mut registers.r15,
    }
}

/// Writes the result of an instruction; `false` where the answer is of another kind.
pub(super) fn write_answer(registers: &mut kvm_regs, instruction: Instruction, answer: &Answer) -> bool {
    let low = |value: u64| value & u64::from(u32::MAX);
    match (instruction, answer) {
        (Instruction::Rdtsc, Answer::Counter { value }) => {
            (registers.rax, registers.rdx) = (low(*value), value >> 32);
        }
        (Instruction::Rdtscp, Answer::CounterWithAux { value, aux }) => {
            (registers.rax, registers.rdx, registers.rcx) = (low(*value), value >> 32, u64::from(*aux));
        }
        (
            Instruction::Rdrand { register, width_bytes } | Instruction::Rdseed { register, width_bytes },
            Answer::Random { value },
        ) => {
            registers.rflags = registers.rflags & !CLEARED_BY_RANDOM | CARRY;
            let target = numbered(registers, register);
            *target = match width_bytes {
                2 => *target & !0xffff | value & 0xffff,
                4 => low(*value),
                _ => *value,
            };
        }
        _ => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_values_keep_to_the_width_of_their_register() {
        let answer = Answer::Random { value: 0x1122_3344_5566_7788 };
        for (width_bytes, expected) in [(2, 0xffff_ffff_ffff_7788), (4, 0x5566_7788), (8, 0x1122_3344_5566_7788_u64)] {
            let mut registers = kvm_regs { r9: u64::MAX, rflags: CLEARED_BY_RANDOM, ..Default::default() };
            assert!(write_answer(&mut registers, Instruction::Rdrand { register: 9, width_bytes }, &answer));
            assert_eq!(registers.r9, expected);
            assert_eq!(registers.rflags, CARRY);
        }
    }

    #[test]
    fn counter_is_split_over_two_registers() {
        let mut registers = kvm_regs { rax: u64::MAX, rdx: u64::MAX, ..Default::default() };
        assert!(write_answer(&mut registers, Instruction::Rdtsc, &Answer::Counter { value: 0x1_0000_0002 }));
        assert_eq!((registers.rax, registers.rdx), (2, 1));
    }

    #[test]
    fn only_the_flag_that_is_defined_everywhere_counts() {
        let plain = kvm_regs { rflags: 2, ..Default::default() };
        // Interrupt and resume flag; carry, parity, auxiliary carry, zero, sign and overflow, as DIV leaves them.
        for flags in [1 << 9 | 1 << 16, 1 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 11] {
            let other = kvm_regs { rflags: 2 | flags, ..Default::default() };
            assert_eq!(canonical(&plain, 1), canonical(&other, 1));
        }
        let other = kvm_regs { rflags: 2 | DIRECTION, ..Default::default() };
        assert_ne!(canonical(&plain, 1), canonical(&other, 1));
    }
}
