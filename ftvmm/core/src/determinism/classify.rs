//! What each instruction means for determinism. Sources: Intel SDM volumes 2 and 3, AMD APM volume 3.

use iced_x86::{Instruction as Decoded, Mnemonic};

use super::rewrite::Action;
use crate::machine::Instruction;

/// The verdict on one instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Same state in, same state out, on every host; or it traps, which is as good.
    Deterministic,
    /// The same, where the processor has RDFSBASE and WRFSBASE.
    DeterministicWithFsBase,
    /// To be rewritten.
    Rewrite(Action),
    /// To be refused, and why.
    Refuse(&'static str),
}

const TRANSACTION: &str = "hardware transactions abort for reasons that no log can reproduce";
const WAITING: &str = "it waits for a time that no log can reproduce";
const EXTENDED_STATE: &str = "the layout of what it saves depends on the host's processor";
const SYSTEM_CALL: &str = "it leaves the guest for a kernel that is not there";
const DESCRIPTORS: &str = "it reveals descriptor tables or segments of the host or of the VMM";
const GS_BASE: &str = "the base of GS stays as it is";
const HYPERVISOR: &str = "it calls a hypervisor, an enclave or an accelerator of the host";
const USER_INTERRUPTS: &str = "user interrupts arrive at no reproducible point";

/// What an instruction means for determinism.
pub(crate) fn classify(instruction: &Decoded) -> Class {
    use Mnemonic as M;
    let register = || {
        let register = instruction.op0_register();
        (register.full_register().number() as u8, register.size() as u8)
    };
    match instruction.mnemonic() {
        M::Rdtsc => Class::Rewrite(Action::Ask(Instruction::Rdtsc)),
        M::Rdtscp => Class::Rewrite(Action::Ask(Instruction::Rdtscp)),
        M::Rdrand => {
            let (register, width_bytes) = register();
            Class::Rewrite(Action::Ask(Instruction::Rdrand { register, width_bytes }))
        }
        M::Rdseed => {
            let (register, width_bytes) = register();
            Class::Rewrite(Action::Ask(Instruction::Rdseed { register, width_bytes }))
        }
        M::Cpuid => Class::Rewrite(Action::Cpuid),
        M::Rdpid => Class::Rewrite(Action::ProcessorIdentifier { register: register().0 }),
        M::Rdpmc => Class::Rewrite(Action::GeneralProtection),
        // As on a processor that has no such instruction or has it turned off.
        M::Rdpru | M::Xgetbv => Class::Rewrite(Action::Undefined),
        M::Xbegin | M::Xabort | M::Xend | M::Xtest => Class::Refuse(TRANSACTION),
        M::Umwait | M::Tpause | M::Umonitor | M::Monitorx | M::Mwaitx | M::Monitor | M::Mwait => Class::Refuse(WAITING),
        M::Xsave
        | M::Xsave64
        | M::Xsaveopt
        | M::Xsaveopt64
        | M::Xsavec
        | M::Xsavec64
        | M::Xsaves
        | M::Xsaves64
        | M::Xrstor
        | M::Xrstor64
        | M::Xrstors
        | M::Xrstors64 => Class::Refuse(EXTENDED_STATE),
        M::Syscall | M::Sysenter | M::Int | M::Int1 => Class::Refuse(SYSTEM_CALL),
        M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw | M::Lar | M::Lsl | M::Verr | M::Verw => {
            Class::Refuse(DESCRIPTORS)
        }
        M::Rdfsbase | M::Wrfsbase => Class::DeterministicWithFsBase,
        M::Rdgsbase | M::Wrgsbase => Class::Refuse(GS_BASE),
        M::Vmcall
        | M::Vmmcall
        | M::Vmfunc
        | M::Enclu
        | M::Getsec
        | M::Enqcmd
        | M::Llwpcb
        | M::Slwpcb
        | M::Lwpins
        | M::Lwpval
        | M::Rdpkru
        | M::Wrpkru => Class::Refuse(HYPERVISOR),
        M::Clui | M::Stui | M::Testui | M::Uiret | M::Senduipi => Class::Refuse(USER_INTERRUPTS),
        _ => Class::Deterministic,
    }
}
