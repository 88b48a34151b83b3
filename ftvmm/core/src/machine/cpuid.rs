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

impl Default for CpuidTable {
    /// x86-64-v2 without XSAVE: what every host with KVM has, so that a VM can move between any two.
    fn default() -> CpuidTable {
        let word = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes);
        let leaf = |leaf, eax, ebx, ecx, edx| CpuidLeaf { leaf, subleaf: 0, eax, ebx, ecx, edx };
        CpuidTable {
            leaves: vec![
                leaf(0, 7, word(b"FTVM"), word(b"ockc"), word(b"MLst")),
                leaf(1, 0x0006_00f0, 8 << 8 | 1 << 16, FEATURES_ECX, FEATURES_EDX),
                leaf(7, 0, EXTENDED_FEATURES_EBX, 0, 0),
                leaf(0x8000_0000, 0x8000_0008, 0, 0, 0),
                leaf(0x8000_0001, 0, 0, 1, LONG_MODE_EDX),
                leaf(0x8000_0007, 0, 0, 0, INVARIANT_TSC_EDX),
                leaf(0x8000_0008, 0x3028, 0, 0, 0),
            ],
        }
    }
}

impl CpuidTable {
    /// EAX, EBX, ECX and EDX for a leaf and subleaf.
    pub fn look_up(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
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
    fn an_unlisted_leaf_is_zero() {
        assert_eq!(CpuidTable::default().look_up(0x4000_0000, 0), [0; 4]);
    }
}
