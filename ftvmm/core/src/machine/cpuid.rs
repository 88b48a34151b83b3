//! The processor that the guest sees: a fixed table, so that both hosts of a VM show it the same one.

use std::arch::x86_64::{__cpuid, __cpuid_count};

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
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

/// Instructions beyond x86-64-v2 that depend on nothing but their operands, and that some hosts lack.
///
/// A guest is shown them where its configuration says so, which is the same on both hosts of a pair: Hello compares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Feature {
    Aes,
    Pclmul,
    Movbe,
    Bmi1,
    Bmi2,
    Adx,
    Sha,
}

impl Feature {
    /// All of them, with their names.
    pub const ALL: [(Feature, &str); 7] = [
        (Feature::Aes, "aes"),
        (Feature::Pclmul, "pclmul"),
        (Feature::Movbe, "movbe"),
        (Feature::Bmi1, "bmi1"),
        (Feature::Bmi2, "bmi2"),
        (Feature::Adx, "adx"),
        (Feature::Sha, "sha"),
    ];

    /// Bits of leaf 1's ECX and of leaf 7's EBX: Intel SDM volume 2, CPUID.
    fn bits(self) -> (u32, u32) {
        match self {
            Feature::Pclmul => (1 << 1, 0),
            Feature::Movbe => (1 << 22, 0),
            Feature::Aes => (1 << 25, 0),
            Feature::Bmi1 => (0, 1 << 3),
            Feature::Bmi2 => (0, 1 << 8),
            Feature::Adx => (0, 1 << 19),
            Feature::Sha => (0, 1 << 29),
        }
    }

    /// Those that this host's processor has.
    pub fn of_host() -> Vec<Feature> {
        let host = HostFeatures::read();
        Feature::ALL.iter().map(|(feature, _)| *feature).filter(|feature| host.has(*feature)).collect()
    }
}

/// What a processor says of itself: leaf 1's ECX and EDX, leaf 7's EBX.
#[derive(Clone, Copy, Debug)]
pub(super) struct HostFeatures {
    pub ecx: u32,
    pub edx: u32,
    pub extended_ebx: u32,
}

impl HostFeatures {
    /// The processor itself is asked: the guest's code runs on it natively, and KVM-PVM lists far less than that.
    pub fn read() -> HostFeatures {
        let (basic, extended) = (__cpuid(1), __cpuid_count(7, 0));
        HostFeatures { ecx: basic.ecx, edx: basic.edx, extended_ebx: extended.ebx }
    }

    /// Whether it has the instructions of a feature.
    pub fn has(self, feature: Feature) -> bool {
        let (ecx, ebx) = feature.bits();
        self.ecx & ecx == ecx && self.extended_ebx & ebx == ebx
    }

    /// Whether it has RDFSBASE and WRFSBASE.
    pub fn has_fs_base(self) -> bool {
        self.extended_ebx & FSGSBASE_EBX != 0
    }
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
/// RDSEED, in leaf 7: emulated as well.
const EXTENDED_FEATURES_EBX: u32 = 1 << 18;
/// NX, RDTSCP and long mode, in leaf 0x80000001.
const LONG_MODE_EDX: u32 = 1 << 20 | 1 << 27 | 1 << 29;
/// The counter runs at one rate in all power states.
const INVARIANT_TSC_EDX: u32 = 1 << 8;
/// RDFSBASE and WRFSBASE, in leaf 7. Not shown: programs of Linux ask the kernel, which is the personality.
const FSGSBASE_EBX: u32 = 1;
/// RDTSCP, in leaf 0x80000001: the machine answers it.
const RDTSCP_EDX: u32 = 1 << 27;
/// CR4.UMIP, in leaf 7's ECX. Not shown: it is the VMM's.
const UMIP_ECX: u32 = 1 << 2;
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

    /// The same table, these features shown as well.
    pub fn with(mut self, features: &[Feature]) -> CpuidTable {
        for (ecx, ebx) in features.iter().map(|feature| feature.bits()) {
            for leaf in self.leaves.iter_mut().filter(|entry| entry.subleaf == 0) {
                match leaf.leaf {
                    1 => leaf.ecx |= ecx,
                    7 => leaf.ebx |= ebx,
                    _ => {}
                }
            }
        }
        self
    }

    /// What KVM is told: that the guest's processor has what the table shows, less what the machine answers itself, so that it
    /// stays #UD where it was not rewritten; and what belongs to the bits that the VMM sets in CR4.
    pub(super) fn for_kvm(&self, sets_fs_base: bool, umip: bool) -> Vec<kvm_cpuid_entry2> {
        let entry = |leaf: &CpuidLeaf| {
            let has_subleaves = WITH_SUBLEAVES.contains(&leaf.leaf);
            let mut entry = kvm_cpuid_entry2 {
                function: leaf.leaf,
                index: leaf.subleaf,
                flags: if has_subleaves { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
                eax: leaf.eax,
                ebx: leaf.ebx,
                ecx: leaf.ecx,
                edx: leaf.edx,
                ..Default::default()
            };
            match (leaf.leaf, leaf.subleaf) {
                (1, 0) => entry.ecx &= !EMULATED_ECX,
                (7, 0) => {
                    entry.ebx &= !EXTENDED_FEATURES_EBX;
                    entry.ebx |= if sets_fs_base { FSGSBASE_EBX } else { 0 };
                    entry.ecx |= if umip { UMIP_ECX } else { 0 };
                }
                (0x8000_0001, 0) => entry.edx &= !RDTSCP_EDX,
                _ => {}
            }
            entry
        };
        self.leaves.iter().map(entry).collect()
    }

    /// What the table shows and a host does not have, in words; empty where it has all of it.
    ///
    /// By name where it has one, and else by its bit: the table may have come with a log from elsewhere.
    pub(super) fn missing_on(&self, host: HostFeatures) -> Vec<String> {
        let shown = self.features();
        let named = Feature::ALL.iter().filter(|(feature, _)| shown.has(*feature) && !host.has(*feature));
        let mut missing: Vec<String> = named.map(|(_, name)| (*name).to_owned()).collect();
        let (named_ecx, named_ebx) = Feature::ALL.iter().fold((0, 0), |(all_ecx, all_ebx), (feature, _)| {
            let (ecx, ebx) = feature.bits();
            (all_ecx | ecx, all_ebx | ebx)
        });
        let (ecx, edx) = (shown.ecx & !host.ecx & !EMULATED_ECX & !named_ecx, shown.edx & !host.edx);
        let ebx = shown.extended_ebx & !host.extended_ebx & !EXTENDED_FEATURES_EBX & !named_ebx;
        if ecx != 0 || edx != 0 {
            missing.push(format!("CPUID 1 ECX {ecx:#x}, EDX {edx:#x}"));
        }
        if ebx != 0 {
            missing.push(format!("CPUID 7 EBX {ebx:#x}"));
        }
        missing
    }

    /// What a processor would say of itself that has what the table shows.
    fn features(&self) -> HostFeatures {
        let [_, _, ecx, edx] = self.look_up(1, 0);
        let [_, extended_ebx, _, _] = self.look_up(7, 0);
        HostFeatures { ecx, edx, extended_ebx }
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
    fn a_feature_is_shown_where_it_is_asked_for_and_missed_by_name() {
        let (table, shown) = (CpuidTable::default(), CpuidTable::default().with(&[Feature::Aes, Feature::Sha]));
        assert_eq!(shown.look_up(1, 0)[2] ^ table.look_up(1, 0)[2], 1 << 25);
        assert_eq!(shown.look_up(7, 0)[1] ^ table.look_up(7, 0)[1], 1 << 29);
        let all = HostFeatures { ecx: u32::MAX, edx: u32::MAX, extended_ebx: u32::MAX };
        assert_eq!(shown.missing_on(all), Vec::<String>::new());
        assert_eq!(shown.missing_on(HostFeatures { ecx: !(1 << 25), extended_ebx: 0, ..all }), ["aes", "sha"]);
        assert_eq!(table.missing_on(HostFeatures { edx: !1, extended_ebx: 0, ..all }), ["CPUID 1 ECX 0x0, EDX 0x1"]);
    }

    #[test]
    fn a_host_has_what_its_bits_say() {
        let none = HostFeatures { ecx: 0, edx: 0, extended_ebx: 0 };
        for (feature, name) in Feature::ALL {
            let (ecx, ebx) = feature.bits();
            let host = HostFeatures { ecx, extended_ebx: ebx, ..none };
            let has: Vec<Feature> = Feature::ALL.iter().map(|(each, _)| *each).filter(|each| host.has(*each)).collect();
            assert_eq!(has, [feature], "{name}");
            assert!(!none.has(feature), "{name}");
        }
    }

    #[test]
    fn what_has_no_name_is_missed_by_its_bit() {
        // A foreign log's table: AVX2 and AES, beside RDSEED and RDRAND, which need not be there.
        let mut table = CpuidTable::default().with(&[Feature::Aes, Feature::Bmi2]);
        table.leaves.iter_mut().find(|entry| entry.leaf == 7).unwrap().ebx |= 1 << 5;
        let all = HostFeatures { ecx: u32::MAX, edx: u32::MAX, extended_ebx: u32::MAX };
        assert_eq!(table.missing_on(all), Vec::<String>::new());
        assert_eq!(table.missing_on(HostFeatures { extended_ebx: !(1 << 5), ..all }), ["CPUID 7 EBX 0x20"]);
        let bare = HostFeatures { ecx: !(1 << 25 | 1 << 30 | 1), extended_ebx: 0, ..all };
        assert_eq!(table.missing_on(bare), ["aes", "bmi2", "CPUID 1 ECX 0x1, EDX 0x0", "CPUID 7 EBX 0x20"]);
    }

    #[test]
    fn kvm_is_told_what_the_guest_is_shown_less_what_is_answered() {
        let table = CpuidTable::default().with(&[Feature::Sha]);
        let told = |sets_fs_base, umip| {
            let entries = table.for_kvm(sets_fs_base, umip);
            assert_eq!(entries.len(), table.leaves.len());
            let of = |leaf: u32| *entries.iter().find(|entry| entry.function == leaf).unwrap();
            (of(1), of(7), of(0x8000_0001))
        };
        let (basic, extended, long_mode) = told(false, false);
        assert_eq!((basic.eax, basic.ecx, basic.edx), (0x0006_00f0, FEATURES_ECX & !(1 << 30), FEATURES_EDX));
        assert_eq!((extended.ebx, extended.ecx), (1 << 29, 0));
        assert_eq!((extended.flags, basic.flags), (KVM_CPUID_FLAG_SIGNIFCANT_INDEX, 0));
        assert_eq!(long_mode.edx, 1 << 20 | 1 << 29);
        let (_, extended, _) = told(true, true);
        assert_eq!((extended.ebx, extended.ecx), (1 << 29 | 1, 1 << 2));
    }

    #[test]
    fn an_unlisted_leaf_is_zero() {
        assert_eq!(CpuidTable::default().look_up(0x4000_0000, 0), [0; 4]);
    }
}
