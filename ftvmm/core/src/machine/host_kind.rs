//! What kind of host this is, as far as the results of a guest's instructions may depend on it.

use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::determinism::HostTrait;

/// KVM's implementations by the modules that they are, in the order of [`HostKind::kvm`]. Of all that are there, one is in
/// use; KVM-PVM comes where the others find no hardware.
const KVM_MODULES: [&str; 3] = ["kvm_pvm", "kvm_amd", "kvm_intel"];
/// Family and model without the stepping: Intel SDM volume 2, CPUID, leaf 1.
const FAMILY_AND_MODEL: u32 = 0x0fff_0ff0;
const HAS_LZCNT: u8 = 1;
const LACKS_LZCNT: u8 = 1 << 1;
const HAS_TZCNT: u8 = 1 << 2;
const LACKS_TZCNT: u8 = 1 << 3;

/// A kind of host; what is zero is of no interest. In [`Terms`](crate::protocol::Terms) two nodes compare theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HostKind {
    /// the processor's maker, as CPUID spells it
    pub vendor: [u8; 12],
    /// the processor's family and model: EAX of CPUID's leaf 1 without the stepping
    pub signature: u32,
    /// from 1: `kvm_pvm`, `kvm_amd`, `kvm_intel`, another
    pub kvm: u8,
    /// bits from 0: has LZCNT, lacks it, has TZCNT, lacks it
    pub counts: u8,
}

impl HostKind {
    /// This host.
    pub fn of_this_host() -> HostKind {
        let (names, basic) = (__cpuid(0), __cpuid(1));
        let mut vendor = [0; 12];
        for (slot, word) in vendor.chunks_exact_mut(4).zip([names.ebx, names.edx, names.ecx]) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        let has_tzcnt = __cpuid_count(7, 0).ebx & 1 << 3 != 0;
        let has_lzcnt = __cpuid(0x8000_0001).ecx & 1 << 5 != 0;
        let lzcnt = if has_lzcnt { HAS_LZCNT } else { LACKS_LZCNT };
        let tzcnt = if has_tzcnt { HAS_TZCNT } else { LACKS_TZCNT };
        let is_there = |module: &&str| Path::new("/sys/module").join(module).exists();
        let module = KVM_MODULES.iter().position(is_there).unwrap_or(KVM_MODULES.len());
        HostKind { vendor, signature: basic.eax & FAMILY_AND_MODEL, kvm: module as u8 + 1, counts: lzcnt | tzcnt }
    }

    /// As far as it is one of these traits; the rest is of no interest.
    pub fn restricted_to(self, is_of_interest: impl Fn(HostTrait) -> bool) -> HostKind {
        let mut kind = HostKind::default();
        if is_of_interest(HostTrait::Model) {
            (kind.vendor, kind.signature) = (self.vendor, self.signature);
        }
        if is_of_interest(HostTrait::Kvm) {
            kind.kvm = self.kvm;
        }
        if is_of_interest(HostTrait::Lzcnt) {
            kind.counts |= self.counts & (HAS_LZCNT | LACKS_LZCNT);
        }
        if is_of_interest(HostTrait::Tzcnt) {
            kind.counts |= self.counts & (HAS_TZCNT | LACKS_TZCNT);
        }
        kind
    }

    /// The name of KVM's module; empty where it is of no interest.
    pub fn kvm_name(&self) -> &'static str {
        match self.kvm {
            0 => "",
            number => KVM_MODULES.get(usize::from(number) - 1).copied().unwrap_or("another KVM"),
        }
    }

    /// Maker, family and model; empty where they are of no interest.
    pub fn processor_name(&self) -> String {
        if self.vendor == [0; 12] && self.signature == 0 {
            return String::new();
        }
        let base = self.signature >> 8 & 0xf;
        let family = base + if base == 0xf { self.signature >> 20 & 0xff } else { 0 };
        let extended = if matches!(base, 6 | 0xf) { self.signature >> 16 & 0xf } else { 0 };
        let model = extended << 4 | self.signature >> 4 & 0xf;
        format!("{} family {family} model {model}", String::from_utf8_lossy(&self.vendor).escape_default())
    }
}

/// In words for a message: all that is of interest.
impl fmt::Display for HostKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [(HAS_LZCNT, "LZCNT"), (LACKS_LZCNT, "no LZCNT"), (HAS_TZCNT, "TZCNT"), (LACKS_TZCNT, "no TZCNT")];
        let mut parts = vec![self.processor_name(), self.kvm_name().to_owned()];
        parts.extend(counts.iter().filter(|(bit, _)| self.counts & bit != 0).map(|(_, name)| (*name).to_owned()));
        parts.retain(|part| !part.is_empty());
        match parts.is_empty() {
            true => formatter.write_str("any"),
            false => formatter.write_str(&parts.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const XEON: HostKind =
        HostKind { vendor: *b"GenuineIntel", signature: 0x000c_06f0, kvm: 1, counts: HAS_LZCNT | LACKS_TZCNT };

    #[test]
    fn a_kind_of_host_is_told_in_words() {
        assert_eq!(XEON.to_string(), "GenuineIntel family 6 model 207, kvm_pvm, LZCNT, no TZCNT");
        let epyc = HostKind { vendor: *b"AuthenticAMD", signature: 0x00a0_0f10, kvm: 2, counts: 0 };
        assert_eq!(epyc.to_string(), "AuthenticAMD family 25 model 1, kvm_amd");
        assert_eq!(HostKind { kvm: 9, ..HostKind::default() }.to_string(), "another KVM");
        assert_eq!(HostKind::default().to_string(), "any");
    }

    #[test]
    fn only_what_is_of_interest_is_compared() {
        let only = |of: HostTrait| XEON.restricted_to(|host| host == of);
        assert_eq!(only(HostTrait::Model), HostKind { kvm: 0, counts: 0, ..XEON });
        assert_eq!(only(HostTrait::Kvm), HostKind { kvm: 1, ..HostKind::default() });
        assert_eq!(only(HostTrait::Lzcnt), HostKind { counts: HAS_LZCNT, ..HostKind::default() });
        assert_eq!(only(HostTrait::Tzcnt), HostKind { counts: LACKS_TZCNT, ..HostKind::default() });
        assert_eq!(XEON.restricted_to(|_| true), XEON);
        assert_eq!(only(HostTrait::ErrorPointers), HostKind::default());
    }

    #[test]
    fn this_host_is_of_one_kind() {
        let kind = HostKind::of_this_host();
        assert_eq!(kind, HostKind::of_this_host());
        assert!(kind.signature & !FAMILY_AND_MODEL == 0 && kind.kvm > 0 && kind.counts.count_ones() == 2, "{kind}");
    }
}
