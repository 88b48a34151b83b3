//! What differs between hosts and has to be tried out: which TSS type lets a CPL-3 `out` pass, and where RIP is then;
//! whether KVM takes the guest's own CPUID, and CR4.UMIP.

use std::sync::OnceLock;

use kvm_bindings::KVM_API_VERSION;
use kvm_ioctls::{Cap, Kvm};

use super::cpuid::HostFeatures;
use super::host_kind::HostKind;
use super::memory::{Access, GuestMemory, PAGE_BYTES};
use super::vcpu::{Exit, Start, Vcpu, VcpuSetup};
use super::{CpuidTable, Feature, MachineError};
use crate::determinism::{SITE_PORT, SITE_TRAP_BYTES};

/// VT-x demands a busy TSS; QEMU's emulated SVM passes the I/O bitmap of an available one only.
const TASK_TYPES: [u8; 2] = [11, 9];
/// What the VMM would have beside, and does without where KVM does not take it: the guest's own CPUID, and CR4.UMIP. Both only
/// stop what the determinism pass did not see. Tried in this order.
const EXTRAS: [(bool, bool); 4] = [(true, true), (true, false), (false, true), (false, false)];
const CODE_ADDRESS: u64 = 0x1_0000;

/// What was found out about this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostTraits {
    /// What works here.
    pub setup: VcpuSetup,
    /// Whether RIP, read after the exit for an `out`, is already past it.
    pub rip_past_out: bool,
}

impl HostTraits {
    /// Tries this host out, once in the life of the process.
    pub fn get(kvm: &Kvm) -> Result<HostTraits, MachineError> {
        static TRAITS: OnceLock<HostTraits> = OnceLock::new();
        match TRAITS.get() {
            Some(traits) => Ok(*traits),
            None => Ok(*TRAITS.get_or_init({
                let traits = HostTraits::find_out(kvm)?;
                move || traits
            })),
        }
    }

    fn find_out(kvm: &Kvm) -> Result<HostTraits, MachineError> {
        let mut seen = Vec::new();
        for (guest_cpuid, umip) in EXTRAS {
            seen.clear();
            for task_type in TASK_TYPES {
                let setup = VcpuSetup { task_type, guest_cpuid, umip };
                match try_setup(kvm, setup) {
                    Ok(rip_past_out) => return Ok(HostTraits { setup, rip_past_out }),
                    Err(reason) => seen.push(format!("type {task_type}: {reason}")),
                }
            }
        }
        Err(MachineError::Host { reason: format!("port I/O from CPL 3 does not pass ({})", seen.join("; ")) })
    }
}

/// Runs `out SITE_PORT, al` and says whether RIP is past it.
fn try_setup(kvm: &Kvm, setup: VcpuSetup) -> Result<bool, String> {
    let mut memory = GuestMemory::new(CODE_ADDRESS + PAGE_BYTES).map_err(|error| error.to_string())?;
    memory.allow(CODE_ADDRESS, CODE_ADDRESS + PAGE_BYTES, Access::EXECUTE);
    // The second `out` is there so that a processor that skips the first does not run on into nothing.
    memory.all_mut()[CODE_ADDRESS as usize..][..4].copy_from_slice(&[0xe6, SITE_PORT, 0xe6, SITE_PORT]);
    let start = Start { rip: CODE_ADDRESS, rsp: CODE_ADDRESS, rdi: 0, sets_fs_base: false };
    let mut vcpu = Vcpu::new(kvm, &memory, start, setup, &CpuidTable::default()).map_err(|error| error.to_string())?;
    loop {
        match vcpu.enter().map_err(|error| error.to_string())? {
            Exit::Out { port, .. } if port == u16::from(SITE_PORT) => {
                return match vcpu.registers().rip {
                    CODE_ADDRESS => Ok(false),
                    rip if rip == CODE_ADDRESS + SITE_TRAP_BYTES => Ok(true),
                    rip => Err(format!("RIP was {rip:#x} after the out")),
                };
            }
            Exit::Out { port, .. } | Exit::In { port } => {
                return Err(format!("the guest trapped through port {port:#x}"));
            }
            Exit::Interrupted => continue,
            Exit::Unforeseen(reason) => return Err(reason),
        }
    }
}

/// Opens KVM and checks that it has what the machine needs.
pub(super) fn open_kvm() -> Result<Kvm, MachineError> {
    let kvm = Kvm::new().map_err(|error| MachineError::Host {
        reason: format!("/dev/kvm cannot be opened: {}", std::io::Error::from_raw_os_error(error.errno())),
    })?;
    if kvm.get_api_version() != KVM_API_VERSION as i32 {
        return Err(MachineError::Host { reason: "its KVM has another API version".into() });
    }
    for (capability, name) in NEEDED {
        if !kvm.check_extension(capability) {
            return Err(MachineError::Host { reason: format!("its KVM lacks {name}") });
        }
    }
    Ok(kvm)
}

/// Checks that the host's processor has what the guest is shown, and what its image uses.
pub(super) fn check_processor(shown: &CpuidTable, sets_fs_base: bool) -> Result<(), MachineError> {
    let host = HostFeatures::read();
    let mut missing = shown.missing_on(host);
    if sets_fs_base && !host.has_fs_base() {
        missing.push("RDFSBASE and WRFSBASE, which the image uses".into());
    }
    match missing.is_empty() {
        true => Ok(()),
        false => Err(MachineError::Host { reason: format!("its processor lacks {}", missing.join(", ")) }),
    }
}

const NEEDED: [(Cap, &str); 3] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::SyncRegs, "KVM_CAP_SYNC_REGS"),
];

/// What `ftvmm doctor` prints about KVM.
#[derive(Clone, Debug)]
pub struct HostReport {
    pub traits: HostTraits,
    pub kind: HostKind,
    /// Capabilities by name, and whether they are there.
    pub capabilities: Vec<(&'static str, bool)>,
    /// What a guest may be shown beyond x86-64-v2, and whether the processor has it.
    pub features: Vec<(&'static str, bool)>,
}

/// Tries this host out.
///
/// # Errors
/// [`MachineError::Host`] or [`MachineError::Kvm`] where it cannot run guests.
pub fn examine_host() -> Result<HostReport, MachineError> {
    let kvm = open_kvm()?;
    let traits = HostTraits::get(&kvm)?;
    let capabilities = NEEDED.iter().map(|(capability, name)| (*name, kvm.check_extension(*capability))).collect();
    let own = Feature::of_host();
    let features = Feature::ALL.iter().map(|(feature, name)| (*name, own.contains(feature))).collect();
    Ok(HostReport { traits, kind: HostKind::of_this_host(), capabilities, features })
}
