//! The processor that the guest sees: a fixed table, so that both hosts of a VM show it the same one.

use serde::{Deserialize, Serialize};

/// One leaf of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuidLeaf {
    pub leaf: u32,
    pub subleaf: u32,
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// What CPUID answers; leaves that are not listed are all zero.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuidTable {
    pub leaves: Vec<CpuidLeaf>,
}

/// FPU, TSC, MSR, CX8, CMOV, CLFLUSH, MMX, FXSR, SSE, SSE2.
const FEATURES_EDX: u32 = 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 15 | 1 << 19 | 1 << 23 | 1 << 24 | 1 << 25 | 1 << 26;
/// SSE3, SSSE3, CX16, SSE4.1, SSE4.2, POPCNT: x86-64-v2. And RDRAND, which the machine answers itself.
const FEATURES_ECX: u32 = 1 | 1 << 9 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 23 | 1 << 30;
/// RDRAND is emulated and need not be there.
const EMULATED_ECX: u32 = 1 << 30;
/// RDSEED, in leaf 7.
const EXTENDED_FEATURES_EBX: u32 = 1 << 18;
/// NX, RDTSCP and long mode, in leaf 0x80000001.
const LONG_MODE_EDX: u32 = 1 << 20 | 1 << 27 | 1 << 29;
/// The counter runs at one rate in all power states.
const INVARIANT_TSC_EDX: u32 = 1 << 8;
/// RDFSBASE and WRFSBASE, in leaf 7. Not shown: programs of Linux ask the kernel, which is the personality.
pub(super) const FSGSBASE_EBX: u32 = 1;
/// 32 KiB in eight ways of 64-byte lines, for instructions and for data: AMD APM volume 3, Fn8000_0005.
const FIRST_CACHE: u32 = 32 << 24 | 8 << 16 | 1 << 8 | 64;
/// 512 KiB in eight ways, Fn8000_0006.
const SECOND_CACHE: u32 = 512 << 16 | 6 << 12 | 1 << 8 | 64;
/// 32 units of 512 KiB in sixteen ways, Fn8000_0006.
const THIRD_CACHE: u32 = 32 << 18 | 8 << 12 | 1 << 8 | 64;

/// Leaves that ECX chooses a part of. The others do not look at it: programs leave in it what they have.
const WITH_SUBLEAVES: [u32; 17] =
    [4, 7, 0xb, 0xd, 0xf, 0x10, 0x12, 0x14, 0x17, 0x18, 0x1a, 0x1b, 0x1d, 0x1e, 0x1f, 0x8000_001d, 0x8000_0020];

impl Default for CpuidTable {
    /// x86-64-v2 without XSAVE: what every host with KVM has, so that a VM can move between any two.
    ///
    /// By a maker that programs know: the C library asks no other one for its features.
    fn default() -> CpuidTable {
        let word = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes);
        let leaf = |leaf, eax, ebx, ecx, edx| CpuidLeaf { leaf, subleaf: 0, eax, ebx, ecx, edx };
        CpuidTable {
            leaves: vec![
                leaf(0, 7, word(b"Auth"), word(b"cAMD"), word(b"enti")),
                leaf(1, 0x0006_00f0, 8 << 8 | 1 << 16, FEATURES_ECX, FEATURES_EDX),
                leaf(7, 0, EXTENDED_FEATURES_EBX, 0, 0),
                leaf(0x8000_0000, 0x8000_0008, 0, 0, 0),
                leaf(0x8000_0001, 0, 0, 1, LONG_MODE_EDX),
                leaf(0x8000_0005, 0, 0, FIRST_CACHE, FIRST_CACHE),
                leaf(0x8000_0006, 0, 0, SECOND_CACHE, THIRD_CACHE),
                leaf(0x8000_0007, 0, 0, 0, INVARIANT_TSC_EDX),
                leaf(0x8000_0008, 0x3028, 0, 0, 0),
            ],
        }
    }
}

impl CpuidTable {
    /// EAX, EBX, ECX and EDX for a leaf and, where the leaf has any, a subleaf.
    pub fn look_up(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let subleaf = if WITH_SUBLEAVES.contains(&leaf) { subleaf } else { 0 };
        self.leaves
            .iter()
            .find(|entry| entry.leaf == leaf && entry.subleaf == subleaf)
            .map_or([0; 4], |entry| [entry.eax, entry.ebx, entry.ecx, entry.edx])
    }

    /// The features of leaf 1 (ECX and EDX) that the table shows and a host with these features does not have.
    pub(super) fn missing_on(&self, host_ecx: u32, host_edx: u32) -> (u32, u32) {
        let [_, _, ecx, edx] = self.look_up(1, 0);
        (ecx & !EMULATED_ECX & !host_ecx, edx & !host_edx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_no_xsave_and_no_avx() {
        let [_, _, ecx, _] = CpuidTable::default().look_up(1, 0);
        assert_eq!(ecx & (1 << 26 | 1 << 27 | 1 << 28), 0);
    }

    #[test]
    fn a_leaf_without_subleaves_does_not_look_at_ecx() {
        let table = CpuidTable::default();
        for leaf in [0, 1, 0x8000_0000, 0x8000_0001, 0x8000_0008] {
            assert_eq!(table.look_up(leaf, 0xdead_beef), table.look_up(leaf, 0), "{leaf:#x}");
        }
        assert_eq!(table.look_up(7, 1), [0; 4]);
    }

    #[test]
    fn an_unlisted_leaf_is_zero() {
        assert_eq!(CpuidTable::default().look_up(0x4000_0000, 0), [0; 4]);
    }
}
