//! What each instruction means for determinism: an allow-list, by instruction and by the CPU feature that it belongs to.
//!
//! What is on no list is refused. Sources: Intel SDM volumes 2 and 3, AMD APM volumes 2 to 5. Not listed one by one are
//! privileged instructions: at CPL 3 they trap on every host. `docs/decisions/determinism.md` says why each list holds
//! what it holds.

use std::collections::BTreeSet;

use iced_x86::{Code, CpuidFeature, Instruction as Decoded, Mnemonic};

use super::rewrite::Action;
use crate::machine::Instruction;

/// The verdict on one instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Same state in, same state out, on every host; or it traps, which is as good.
    Deterministic,
    /// Deterministic on processors that have it. A program asks CPUID before, which answers the same on both hosts of a
    /// pair. One that does not ask is stopped where the processor lacks it, and for AVX and its successors under VT-x
    /// and AMD-V by CR4.OSXSAVE = 0 too; if only one host does so, as a divergence.
    IfShown,
    /// Deterministic between hosts that are alike in this.
    Depends(HostTrait),
    /// To be rewritten.
    Rewrite(Action),
    /// To be refused, and why.
    Refuse(&'static str),
}

/// What of its host an instruction's result depends on, beside its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostTrait {
    /// Maker, family and model of the processor.
    Model,
    /// Which of KVM's implementations runs the guest.
    Kvm,
    /// Whether the processor has LZCNT, or takes it for BSR.
    Lzcnt,
    /// Whether the processor has TZCNT, or takes it for BSF.
    Tzcnt,
    /// Whether the processor has RDFSBASE and WRFSBASE.
    FsBase,
    /// What the processor keeps of the last x87 instruction, for handlers of x87 exceptions.
    ErrorPointers,
}

impl HostTrait {
    /// For `ftvmm verify`.
    pub fn reason(self) -> &'static str {
        match self {
            HostTrait::Model => "the last bits of its result are up to the processor's model",
            HostTrait::Kvm => "the segments or flags that it reads are up to the kind of KVM",
            HostTrait::Lzcnt => "a processor without LZCNT executes it as BSR",
            HostTrait::Tzcnt => "a processor without TZCNT executes it as BSF, which is the same but for zero",
            HostTrait::FsBase => "the processor has to have RDFSBASE and WRFSBASE",
            HostTrait::ErrorPointers => {
                "what it stores of the last x87 instruction is up to the model, and read by handlers of its exceptions only"
            }
        }
    }
}

const TRANSACTION: &str = "hardware transactions abort for reasons that no log can reproduce";
const WAITING: &str = "it waits for a time that no log can reproduce";
const EXTENDED_STATE: &str = "the layout of what it saves depends on the host's processor";
const SYSTEM_CALL: &str = "it leaves the guest for a kernel that is not there";
const DESCRIPTORS: &str = "it reveals descriptor tables or segments of the host or of the VMM";
const GS_BASE: &str = "the base of GS stays as it is";
const HYPERVISOR: &str = "it calls a hypervisor, an enclave or an accelerator of the host";
const USER_INTERRUPTS: &str = "user interrupts arrive at no reproducible point";
const KEY_LOCKER: &str = "its handles are wrapped in a key of the host's processor";
const TILES: &str = "its tiles have to be asked for from the host's kernel";
const UNKNOWN: &str = "it is not among the instructions that are known to be deterministic";

/// What an instruction means for determinism.
pub(crate) fn classify(instruction: &Decoded) -> Class {
    match by_mnemonic(instruction) {
        Some(class) => class,
        None if instruction.is_privileged() => Class::Deterministic,
        None => by_features(instruction.cpuid_features()),
    }
}

/// The instructions that trap on every host by themselves at CPL 3, and those that are rewritten so that they do: their names in order.
pub fn trapping_and_rewritten() -> (Vec<String>, Vec<String>) {
    let (mut trapping, mut rewritten) = (BTreeSet::new(), BTreeSet::new());
    for code in Code::values() {
        let mut instruction = Decoded::default();
        instruction.set_code(code);
        let name = match instruction.mnemonic() {
            Mnemonic::Mov => "mov of control and debug registers".to_owned(),
            mnemonic => format!("{mnemonic:?}").to_lowercase(),
        };
        match classify(&instruction) {
            Class::Rewrite(_) => rewritten.insert(name),
            Class::Deterministic if instruction.is_privileged() => trapping.insert(name),
            _ => continue,
        };
    }
    (trapping.into_iter().collect(), rewritten.into_iter().collect())
}

/// The verdict on an instruction that is not as the others of its feature.
fn by_mnemonic(instruction: &Decoded) -> Option<Class> {
    use Mnemonic as M;
    let register = || {
        let register = instruction.op0_register();
        (register.full_register().number() as u8, register.size() as u8)
    };
    let class = match instruction.mnemonic() {
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
        // As on a processor that has no such instruction or has it turned off. XSTORE is the random numbers of VIA's.
        M::Rdpru | M::Xgetbv | M::Xstore => Class::Rewrite(Action::Undefined),
        M::Xbegin | M::Xabort | M::Xend | M::Xtest | M::Xsusldtrk | M::Xresldtrk => Class::Refuse(TRANSACTION),
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
        M::Rdgsbase | M::Wrgsbase => Class::Refuse(GS_BASE),
        M::Vmcall
        | M::Vmmcall
        | M::Vmgexit
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
        M::Rdfsbase | M::Wrfsbase => Class::Depends(HostTrait::FsBase),
        // Approximations, of which the manuals give a bound of the error and no value.
        M::Rcpps | M::Rcpss | M::Rsqrtps | M::Rsqrtss => Class::Depends(HostTrait::Model),
        M::F2xm1 | M::Fyl2x | M::Fyl2xp1 | M::Fsin | M::Fcos | M::Fsincos | M::Fptan | M::Fpatan => {
            Class::Depends(HostTrait::Model)
        }
        M::Fxsave | M::Fxsave64 | M::Fnsave | M::Fsave | M::Fnstenv | M::Fstenv => {
            Class::Depends(HostTrait::ErrorPointers)
        }
        // Their encodings are those of BSR and BSF with a prefix that older processors ignore.
        M::Lzcnt => Class::Depends(HostTrait::Lzcnt),
        M::Tzcnt => Class::Depends(HostTrait::Tzcnt),
        // KVM-PVM runs the guest on the host's segments, and with interrupts on.
        M::Pushf | M::Pushfq => Class::Depends(HostTrait::Kvm),
        M::Mov | M::Push if reads_segment(instruction.code()) => Class::Depends(HostTrait::Kvm),
        _ => return None,
    };
    Some(class)
}

fn reads_segment(code: Code) -> bool {
    matches!(
        code,
        Code::Mov_rm16_Sreg
            | Code::Mov_r32m16_Sreg
            | Code::Mov_r64m16_Sreg
            | Code::Pushw_FS
            | Code::Pushq_FS
            | Code::Pushw_GS
            | Code::Pushq_GS
    )
}

/// The verdict on an instruction that needs these features, all of them.
fn by_features(features: &[CpuidFeature]) -> Class {
    use CpuidFeature as F;
    let mut class = Class::Deterministic;
    for feature in features {
        match feature {
            // x86-64-v2, which every host has.
            F::INTEL8086
            | F::INTEL186
            | F::INTEL286
            | F::INTEL386
            | F::INTEL486
            | F::X64
            | F::CMOV
            | F::CX8
            | F::CMPXCHG16B
            | F::FPU
            | F::FPU287
            | F::FPU387
            | F::FXSR
            | F::MMX
            | F::SSE
            | F::SSE2
            | F::SSE3
            | F::SSSE3
            | F::SSE4_1
            | F::SSE4_2
            | F::POPCNT
            | F::CLFSH => {}
            // They do nothing, whether the processor has them or not. MPX and CET would have to be turned on: all that
            // an instruction of theirs then does, if anything, is to raise #UD.
            F::PAUSE
            | F::MULTIBYTENOP
            | F::PREFETCHW
            | F::PREFETCHWT1
            | F::PREFETCHITI
            | F::CLDEMOTE
            | F::CET_IBT
            | F::CET_SS
            | F::MPX => {}
            F::ADX
            | F::AES
            | F::AVX
            | F::AVX2
            | F::AVX512_4FMAPS
            | F::AVX512_4VNNIW
            | F::AVX512_BF16
            | F::AVX512_BITALG
            | F::AVX512_FP16
            | F::AVX512_IFMA
            | F::AVX512_VBMI
            | F::AVX512_VBMI2
            | F::AVX512_VNNI
            | F::AVX512_VP2INTERSECT
            | F::AVX512_VPOPCNTDQ
            | F::AVX512BW
            | F::AVX512CD
            | F::AVX512DQ
            | F::AVX512ER
            | F::AVX512F
            | F::AVX512PF
            | F::AVX512VL
            | F::AVX_IFMA
            | F::AVX_NE_CONVERT
            | F::AVX_VNNI
            | F::AVX_VNNI_INT8
            | F::AVX_VNNI_INT16
            | F::BMI1
            | F::BMI2
            | F::CLFLUSHOPT
            | F::CLWB
            | F::CLZERO
            | F::CMPCCXADD
            | F::D3NOW
            | F::D3NOWEXT
            | F::F16C
            | F::FMA
            | F::FMA4
            | F::GFNI
            | F::MOVBE
            | F::MOVDIR64B
            | F::MOVDIRI
            | F::PADLOCK_ACE
            | F::PADLOCK_PHE
            | F::PADLOCK_PMM
            | F::PCLMULQDQ
            | F::PTWRITE
            | F::RAO_INT
            | F::SERIALIZE
            | F::SHA
            | F::SHA512
            | F::SM3
            | F::SM4
            | F::SSE4A
            | F::TBM
            | F::VAES
            | F::VPCLMULQDQ
            | F::XOP => class = Class::IfShown,
            F::KL | F::AESKLE | F::WIDE_KL => return Class::Refuse(KEY_LOCKER),
            F::AMX_TILE | F::AMX_BF16 | F::AMX_INT8 | F::AMX_FP16 | F::AMX_COMPLEX => return Class::Refuse(TILES),
            _ => return Class::Refuse(UNKNOWN),
        }
    }
    class
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions};

    use super::*;

    fn class_of(code: &[u8]) -> (Mnemonic, Class) {
        let decoded = Decoder::with_ip(64, code, 0, DecoderOptions::NONE).decode();
        assert_eq!(decoded.len(), code.len(), "{code:x?}");
        (decoded.mnemonic(), classify(&decoded))
    }

    #[test]
    fn what_every_host_does_alike_is_allowed() {
        let allowed: [&[u8]; 12] = [
            &[0x48, 0x01, 0xd8],                   // add rax, rbx
            &[0x0f, 0xbc, 0xc3],                   // bsf eax, ebx
            &[0xf3, 0x0f, 0xb8, 0xc3],             // popcnt eax, ebx
            &[0x66, 0x0f, 0x3a, 0x62, 0xc1, 0x00], // pcmpistrm xmm0, xmm1, 0
            &[0xf3, 0x0f, 0x51, 0xc1],             // sqrtss xmm0, xmm1
            &[0xd9, 0xfa],                         // fsqrt
            &[0xf3, 0x0f, 0x1e, 0xfa],             // endbr64
            &[0xf3, 0x48, 0x0f, 0x1e, 0xc8],       // rdsspq rax
            &[0xf3, 0x90],                         // pause
            &[0x0f, 0x0d, 0x08],                   // prefetchw [rax]
            &[0x0f, 0x0b],                         // ud2
            &[0x8e, 0xd8],                         // mov ds, eax
        ];
        for code in allowed {
            let (mnemonic, class) = class_of(code);
            assert_eq!(class, Class::Deterministic, "{mnemonic:?}");
        }
    }

    #[test]
    fn what_is_privileged_traps() {
        let privileged: [&[u8]; 5] = [&[0xf4], &[0x0f, 0x32], &[0x0f, 0x01, 0xd1], &[0x0f, 0x20, 0xc0], &[0xe4, 0x60]];
        for code in privileged {
            let (mnemonic, class) = class_of(code);
            assert_eq!(class, Class::Deterministic, "{mnemonic:?}");
        }
    }

    #[test]
    fn what_traps_and_what_is_rewritten_is_told_by_name() {
        let (trapping, rewritten) = trapping_and_rewritten();
        let has = |list: &[String], name: &str| list.iter().any(|one| one == name);
        for name in ["hlt", "in", "out", "rdmsr", "mov of control and debug registers"] {
            assert!(has(&trapping, name) && !has(&rewritten, name), "{name}");
        }
        for name in ["cpuid", "rdpmc", "rdrand", "rdseed", "rdtsc", "rdtscp"] {
            assert!(has(&rewritten, name) && !has(&trapping, name), "{name}");
        }
        assert!(!has(&trapping, "add") && !has(&rewritten, "syscall"));
    }

    #[test]
    fn what_cpuid_is_asked_for_first_is_left_in_place() {
        let shown: [&[u8]; 10] = [
            &[0x66, 0x0f, 0x38, 0xdc, 0xc1],       // aesenc xmm0, xmm1
            &[0x0f, 0x38, 0xcb, 0xc1],             // sha256rnds2 xmm0, xmm1, xmm0
            &[0x0f, 0x38, 0xf0, 0x00],             // movbe eax, [rax]
            &[0xc5, 0xf8, 0x77],                   // vzeroupper
            &[0xc5, 0xf8, 0x53, 0xc1],             // vrcpps xmm0, xmm1
            &[0xc4, 0xe2, 0xf1, 0x98, 0xc2],       // vfmadd132pd xmm0, xmm1, xmm2
            &[0xc4, 0xe2, 0x78, 0xf2, 0xc1],       // andn eax, eax, ecx
            &[0x62, 0xf1, 0x7c, 0x48, 0x58, 0xc1], // vaddps zmm0, zmm0, zmm1
            &[0x62, 0xf2, 0x7d, 0x48, 0x4c, 0xc1], // vrcp14ps zmm0, zmm1
            &[0xf3, 0x0f, 0xa7, 0xc8],             // rep xcryptecb
        ];
        for code in shown {
            let (mnemonic, class) = class_of(code);
            assert_eq!(class, Class::IfShown, "{mnemonic:?}");
        }
    }

    #[test]
    fn what_a_processor_may_lack_raises_undefined_where_it_would_not_be_reproduced() {
        // xstore; xgetbv; rdpru
        for code in [[0x0f, 0xa7, 0xc0], [0x0f, 0x01, 0xd0], [0x0f, 0x01, 0xfd]] {
            let (mnemonic, class) = class_of(&code);
            assert_eq!(class, Class::Rewrite(Action::Undefined), "{mnemonic:?}");
        }
    }

    #[test]
    fn what_depends_on_the_host_is_said_by_what() {
        let dependent: [(&[u8], HostTrait); 15] = [
            (&[0x0f, 0x53, 0xc1], HostTrait::Model),               // rcpps xmm0, xmm1
            (&[0xf3, 0x0f, 0x52, 0xc1], HostTrait::Model),         // rsqrtss xmm0, xmm1
            (&[0xd9, 0xfe], HostTrait::Model),                     // fsin
            (&[0xd9, 0xf1], HostTrait::Model),                     // fyl2x
            (&[0xd9, 0xf3], HostTrait::Model),                     // fpatan
            (&[0x0f, 0xae, 0x00], HostTrait::ErrorPointers),       // fxsave [rax]
            (&[0x48, 0x0f, 0xae, 0x00], HostTrait::ErrorPointers), // fxsave64 [rax]
            (&[0xdd, 0x30], HostTrait::ErrorPointers),             // fnsave [rax]
            (&[0xd9, 0x30], HostTrait::ErrorPointers),             // fnstenv [rax]
            (&[0xf3, 0x0f, 0xbd, 0xc3], HostTrait::Lzcnt),         // lzcnt eax, ebx
            (&[0xf3, 0x0f, 0xbc, 0xc3], HostTrait::Tzcnt),         // tzcnt eax, ebx
            (&[0xf3, 0x48, 0x0f, 0xae, 0xd0], HostTrait::FsBase),  // wrfsbase rax
            (&[0x9c], HostTrait::Kvm),                             // pushfq
            (&[0x8c, 0xc8], HostTrait::Kvm),                       // mov eax, cs
            (&[0x0f, 0xa0], HostTrait::Kvm),                       // push fs
        ];
        for (code, expected) in dependent {
            let (mnemonic, class) = class_of(code);
            assert_eq!(class, Class::Depends(expected), "{mnemonic:?}");
            assert!(!expected.reason().is_empty());
        }
    }

    #[test]
    fn what_is_on_no_list_is_refused() {
        let refused: [(&[u8], &str); 5] = [
            (&[0xf3, 0x0f, 0x01, 0xfa], UNKNOWN),          // mcommit
            (&[0xf3, 0x0f, 0x38, 0xdc, 0x00], KEY_LOCKER), // aesenc128kl xmm0, [rax]
            (&[0xc4, 0xe2, 0x78, 0x49, 0xc0], TILES),      // tilerelease
            (&[0xf2, 0x0f, 0x01, 0xe8], TRANSACTION),      // xsusldtrk
            (&[0xf2, 0x0f, 0x01, 0xd9], HYPERVISOR),       // vmgexit
        ];
        for (code, reason) in refused {
            let (mnemonic, class) = class_of(code);
            assert_eq!(class, Class::Refuse(reason), "{mnemonic:?}");
        }
    }
}
