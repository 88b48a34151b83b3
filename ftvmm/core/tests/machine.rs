//! Hand-assembled guests on the real KVM: what they may do, what they may not, and that they are told the same twice.

mod guest;

use _core::determinism::HostTrait;
use _core::image::Image;
use _core::machine::{
    Answer, DeviceConfig, Feature, HostKind, HypercallResult, Instruction, Machine, MachineConfig, MachineError,
    MachineState, PageSet, Request, TrapReport,
};
use guest::{
    CODE, DATA, Device, NOTES, halt_with, hypercall, image, image_of, store, with_symbols, with_thread_record,
};
use iced_x86::code_asm::{
    CodeAssembler, dword_ptr, dx, eax, ebx, ecx, edx, ptr, qword_ptr, r9, rax, rbx, rcx, rdx, rsp, st0, st1, word_ptr,
    xmm0, xmm1,
};
use proptest::prelude::*;

const DEVICES: [Device; 2] = [("storage", 1), ("service", 2)];
const STORAGE: u64 = 1;
const SERVICE: u64 = 2;
const CAPACITY_BYTES: u64 = 1 << 20;
const MEMORY_BYTES: u64 = 4 << 20;

fn config() -> MachineConfig {
    MachineConfig::new(MEMORY_BYTES).with_block("storage", CAPACITY_BYTES).with_network("service", [2, 0, 0, 0, 0, 1])
}

fn config_with_sectors(sector_bytes: u16) -> MachineConfig {
    let mut config = config();
    let disk = DeviceConfig::Block { capacity_bytes: CAPACITY_BYTES, sector_bytes };
    config.devices.insert("storage".into(), disk);
    config
}

fn machine(write: impl FnOnce(&mut CodeAssembler)) -> Machine {
    machine_of(&config(), write)
}

fn machine_of(config: &MachineConfig, write: impl FnOnce(&mut CodeAssembler)) -> Machine {
    let image = Image::parse(&image(&DEVICES, write)).unwrap();
    Machine::new(&image, config).unwrap()
}

fn trap(error: MachineError) -> TrapReport {
    match error {
        MachineError::Trap(report) => *report,
        other => panic!("{other}"),
    }
}

fn trap_of(write: impl FnOnce(&mut CodeAssembler)) -> TrapReport {
    trap(machine(write).run().unwrap_err())
}

/// Makes a hypercall whose result stands at `result`, with these fields, and tells the result; answers what it asks.
fn result_of(number: u32, fields: &[u64], result: u64) -> (Option<Request>, i32) {
    result_on(&config(), number, fields, result)
}

fn result_on(config: &MachineConfig, number: u32, fields: &[u64], result: u64) -> (Option<Request>, i32) {
    let mut machine = machine_of(config, |a| {
        store(a, DATA + result, u64::from(u32::MAX));
        fields.iter().enumerate().for_each(|(index, field)| store(a, DATA + 8 * index as u64, *field));
        hypercall(a, number, DATA);
        halt_with(a, DATA + result);
    });
    let mut asked = None;
    loop {
        let request = machine.run().unwrap();
        let answer = match &request {
            Request::Halt { exit_status } => return (asked, *exit_status),
            Request::BlockRead { length, .. } => {
                Answer::BlockRead { result: HypercallResult::Ok, data: vec![0x5a; *length as usize] }
            }
            Request::NetworkRead { .. } => Answer::NetworkRead { frame: None },
            _ => Answer::Done,
        };
        machine.answer(&answer).unwrap();
        asked = Some(request);
    }
}

const OK: i32 = 0;
const AGAIN: i32 = 1;
const INVALID: i32 = 2;

#[test]
fn block_transfers_within_the_device_are_asked_for() {
    let (request, result) = result_of(5, &[STORAGE, 512, DATA + 0x1000, 512], 32);
    assert_eq!((request, result), (Some(Request::BlockRead { device: 1, offset: 512, length: 512 }), OK));
    let (request, result) = result_of(4, &[STORAGE, CAPACITY_BYTES - 512, DATA + 0x1000, 512], 32);
    let expected = Request::BlockWrite { device: 1, offset: CAPACITY_BYTES - 512, data: vec![0; 512] };
    assert_eq!((request, result), (Some(expected), OK));
}

#[test]
fn block_transfers_that_are_wrong_are_refused() {
    let buffer = DATA + 0x1000;
    for fields in [
        [0, 0, buffer, 512],                 // the reserved handle
        [SERVICE, 0, buffer, 512],           // a device of another kind
        [63, 0, buffer, 512],                // no such device
        [1 << 32 | STORAGE, 0, buffer, 512], // a handle that fits only when cut
        [u64::MAX, 0, buffer, 512],
        [STORAGE, CAPACITY_BYTES, buffer, 512], // behind the end
        [STORAGE, CAPACITY_BYTES - 512, buffer, 1024],
        [STORAGE, u64::MAX - 511, buffer, 512], // wraps around
        [STORAGE, 1, buffer, 512],              // no whole sectors
        [STORAGE, 0, buffer, 100],
        [STORAGE, 0, buffer, 0],
        [STORAGE, 0, buffer, u64::MAX - 511],
        [STORAGE, 0, MEMORY_BYTES - 256, 512], // outside of memory
        [STORAGE, 0, u64::MAX - 100, 512],
        [STORAGE, 0, 0, 512],
        [STORAGE, 0, 1 << 32, 512], // the VMM's own pages
    ] {
        assert_eq!(result_of(4, &fields, 32), (None, INVALID), "write {fields:x?}");
        assert_eq!(result_of(5, &fields, 32), (None, INVALID), "read {fields:x?}");
    }
    // Code may be written out, but never over.
    assert_eq!(result_of(5, &[STORAGE, 0, CODE, 512], 32), (None, INVALID));
    assert_eq!(result_of(4, &[STORAGE, 0, CODE, 512], 32).1, OK);
}

#[test]
fn a_disk_of_larger_sectors_takes_whole_ones_alone() {
    let config = config_with_sectors(4096);
    assert_ne!(config.digest(), config_with_sectors(512).digest());
    let result = |number, offset, length| result_on(&config, number, &[STORAGE, offset, DATA + 0x1000, length], 32).1;
    for number in [4, 5] {
        assert_eq!(result(number, CAPACITY_BYTES - 4096, 4096), OK);
        for (offset, length) in [(512, 4096), (0, 512), (0, 4608), (CAPACITY_BYTES, 4096)] {
            assert_eq!(result(number, offset, length), INVALID, "{length} bytes at {offset}");
        }
    }
}

#[test]
fn frames_are_as_long_as_the_mtu_allows() {
    let buffer = DATA + 0x1000;
    assert_eq!(result_of(6, &[SERVICE, buffer, 1514], 24).1, OK);
    for fields in [
        [SERVICE, buffer, 1515],
        [SERVICE, buffer, 13],
        [SERVICE, buffer, u64::MAX],
        [SERVICE, MEMORY_BYTES - 8, 64],
        [STORAGE, buffer, 64],
        [0, buffer, 64],
    ] {
        assert_eq!(result_of(6, &fields, 24), (None, INVALID), "{fields:x?}");
    }
    assert_eq!(result_of(7, &[SERVICE, buffer, 1514], 24).1, AGAIN);
    assert_eq!(result_of(7, &[SERVICE, CODE, 1514], 24), (None, INVALID));
    assert_eq!(result_of(7, &[STORAGE, buffer, 1514], 24), (None, INVALID));
}

#[test]
fn a_structure_outside_of_memory_stops_the_guest() {
    for structure in [0, 0x8, MEMORY_BYTES - 4, MEMORY_BYTES, u64::from(u32::MAX) - 3] {
        for number in 1..=8 {
            let report = trap_of(|a| hypercall(a, number, structure));
            assert_eq!(report.vector, None, "hypercall {number} at {structure:#x}");
            assert!(report.reason.contains("structure"), "{report}");
        }
    }
    // What has a result cannot be in memory that is read-only for the guest.
    let report = trap_of(|a| hypercall(a, 1, CODE));
    assert!(report.reason.contains("writable"), "{report}");
}

#[test]
fn console_output_from_outside_of_memory_stops_the_guest() {
    for (address, length) in [(MEMORY_BYTES - 4, 8), (u64::MAX, 1), (DATA, u64::MAX), (1 << 32, 16)] {
        let report = trap_of(|a| {
            store(a, DATA, address);
            store(a, DATA + 8, length);
            hypercall(a, 2, DATA);
        });
        assert!(report.reason.contains("console output"), "{report}");
    }
}

#[test]
fn ports_that_are_no_hypercalls_stop_the_guest() {
    for port in [0x10, 0x20, 0x2d, 0x60, 0x500, 0x509, 0x600] {
        trap_of(|a| {
            a.mov(edx, port).unwrap();
            a.out(dx, eax).unwrap();
        });
    }
    // Where a guest may write it may read.
    let report = trap_of(|a| {
        a.mov(edx, 0x501).unwrap();
        a.in_(eax, dx).unwrap();
    });
    assert!(report.reason.contains("read from port 0x501"), "{report}");
    // What the VMM puts in place of RDTSC means nothing where the guest itself has it.
    let report = trap_of(|a| a.db(&[0xe6, 0x10]).unwrap());
    assert!(report.reason.contains("keeps for itself"), "{report}");
}

#[test]
fn memory_is_protected_and_a_trap_tells_where() {
    let report = trap_of(|a| store(a, CODE, 0));
    assert_eq!((report.vector, report.cr2, report.error_code), (Some(14), CODE, 7));
    assert_eq!(report.reason, "page fault: it wrote to 0x100000, which is code");
    let report = trap_of(|a| store(a, 8, 0));
    assert_eq!((report.vector, report.cr2), (Some(14), 8));
    assert_eq!(report.reason, "page fault: it wrote to 0x8, where a null pointer leads");
    assert!(trap_of(|a| store(a, NOTES, 0)).reason.contains("wrote to 0x1f0000, which is constant data"));
    for address in [MEMORY_BYTES, 1 << 32, (1 << 32) + 0x3000] {
        let report = trap_of(|a| store(a, address, 0));
        assert_eq!(report.cr2, address);
        assert!(report.reason.ends_with("where it has no memory"), "{report}");
    }
    let jump_to = |address: u64| {
        trap_of(|a| {
            a.mov(rax, address).unwrap();
            a.jmp(rax).unwrap();
        })
    };
    let report = jump_to(DATA);
    assert_eq!((report.vector, report.rip), (Some(14), DATA));
    assert_eq!(report.reason, "page fault: it jumped to 0x200000, which is data");
    assert!(jump_to(NOTES).reason.contains("jumped to 0x1f0000, which is constant data"));
    assert_eq!(jump_to(0).reason, "page fault: it jumped to 0x0, where a null pointer leads");
    let report = trap_of(|a| a.mov(rax, qword_ptr(MEMORY_BYTES)).unwrap());
    assert_eq!(report.reason, "page fault: it read from 0x400000, where it has no memory");
    let report = trap_of(|a| a.ud2().unwrap());
    assert_eq!((report.vector, report.rip), (Some(6), CODE));
    let report = trap_of(|a| a.int3().unwrap());
    assert_eq!(report.vector, Some(3));
    assert_eq!(trap_of(|a| a.hlt().unwrap()).vector, Some(13));
    let report = trap_of(|a| {
        a.mov(rsp, 0x8_0000_0000_0000_u64).unwrap();
        a.mov(rax, 0xdead_0000_0000_0000_u64).unwrap();
        a.jmp(rax).unwrap();
    });
    assert_eq!(report.vector, Some(13));
}

#[test]
fn what_a_guest_raises_is_its_own_trap() {
    let raises = (0..=255).map(|vector| vec![0xcd, vector]);
    for code in raises.chain([vec![0xcc], vec![0xce], vec![0xf1], vec![0x62, 0]]) {
        // Where no pass sees it: a jump leads into a longer instruction. What a host steps over comes to the HLT.
        let hidden = [&[0xeb, 1, 0xb8], &code[..], &[0x90, 0x90, 0x90, 0xf4]].concat();
        let image = Image::parse(&image_of(&hidden, &DEVICES)).unwrap();
        trap(Machine::new(&image, &config()).unwrap().run().unwrap_err());
    }
}

#[test]
fn a_guest_that_was_stopped_runs_no_further() {
    let mut machine = machine(|a| a.ud2().unwrap());
    trap(machine.run().unwrap_err());
    assert!(matches!(machine.run(), Err(MachineError::NotRunnable { .. })));
    assert!(machine.answer(&Answer::Done).is_err());
}

#[test]
fn privileged_instructions_of_a_start_are_emulated_and_others_are_not() {
    let mut machine = machine(|a| {
        let mut behind = a.create_label();
        a.mov(ecx, 0xc000_0100_u32).unwrap();
        a.mov(eax, DATA as u32).unwrap();
        a.xor(edx, edx).unwrap();
        a.wrmsr().unwrap();
        a.cli().unwrap();
        a.push(8).unwrap();
        a.lea(rax, iced_x86::code_asm::ptr(behind)).unwrap();
        a.push(rax).unwrap();
        a.db(&[0x48, 0xcb]).unwrap();
        a.ud2().unwrap();
        a.set_label(&mut behind).unwrap();
        a.mov(eax, 0x10).unwrap();
        a.db(&[0x8e, 0xd0, 0x8e, 0xd8, 0x8e, 0xc0]).unwrap();
        store(a, DATA + 16, 42);
        // mov eax, fs:[16]; then halt with it.
        a.db(&[0x64, 0x8b, 0x04, 0x25, 16, 0, 0, 0]).unwrap();
        a.mov(rcx, DATA + 32).unwrap();
        a.mov(dword_ptr(rcx), eax).unwrap();
        halt_with(a, DATA + 32);
    });
    assert_eq!(machine.run().unwrap(), Request::Halt { exit_status: 42 });
    let report = trap_of(|a| {
        a.mov(ecx, 0xc000_0082_u32).unwrap();
        a.wrmsr().unwrap();
    });
    assert_eq!(report.vector, Some(13));
}

#[test]
fn what_is_not_deterministic_is_asked_for() {
    let mut machine = machine(|a| {
        a.rdtsc().unwrap();
        a.rdtsc().unwrap();
        a.mov(rcx, DATA).unwrap();
        a.mov(dword_ptr(rcx), edx).unwrap();
        a.rdtscp().unwrap();
        a.rdrand(r9).unwrap();
        a.rdseed(ebx).unwrap();
        a.rdrand(ecx).unwrap();
        a.xor(eax, eax).unwrap();
        a.cpuid().unwrap();
        a.mov(rcx, DATA + 4).unwrap();
        a.mov(word_ptr(rcx), iced_x86::code_asm::bx).unwrap();
        halt_with(a, DATA);
    });
    let mut asked = Vec::new();
    loop {
        let answer = match machine.run().unwrap() {
            Request::Instruction(instruction) => {
                asked.push(instruction);
                match instruction {
                    Instruction::Rdtsc => Answer::Counter { value: 7 << 32 },
                    Instruction::Rdtscp => Answer::CounterWithAux { value: 1, aux: 2 },
                    _ => Answer::Random { value: u64::MAX },
                }
            }
            Request::Halt { exit_status } => {
                assert_eq!(exit_status, 7);
                break;
            }
            other => panic!("{other:?}"),
        };
        machine.answer(&answer).unwrap();
    }
    assert_eq!(
        asked,
        [
            Instruction::Rdtsc,
            Instruction::Rdtsc,
            Instruction::Rdtscp,
            Instruction::Rdrand { register: 9, width_bytes: 8 },
            Instruction::Rdseed { register: 3, width_bytes: 4 },
            Instruction::Rdrand { register: 1, width_bytes: 4 },
        ]
    );
}

#[test]
fn what_cannot_be_made_deterministic_is_refused_with_address_and_name() {
    let refused: [(&[u8], &str); 7] = [
        (&[0x0f, 0x05], "syscall"),
        (&[0xcd, 0x80], "int"),
        (&[0xc7, 0xf8, 0, 0, 0, 0], "xbegin"),
        (&[0x0f, 0xc7, 0x20], "xsavec"),
        (&[0x66, 0x0f, 0xae, 0xf0], "tpause"),
        (&[0x0f, 0x01, 0xe0], "smsw"),
        (&[0xf3, 0x48, 0x0f, 0xae, 0xd8], "wrgsbase"),
    ];
    for (code, name) in refused {
        let image = Image::parse(&image_of(&[&[0x90], code].concat(), &DEVICES)).unwrap();
        let error = Machine::new(&image, &config()).err().unwrap().to_string();
        assert!(error.contains(name) && error.contains("0x100001"), "{error}");
    }
}

/// The code of `mov eax, 0x50f` holds a SYSCALL that the pass counts and does not change.
#[test]
fn a_system_call_inside_another_instruction_is_an_invalid_opcode_where_it_stands() {
    let report = trap_of(|a| {
        let mut inside = a.create_label();
        a.mov(rbx, 0x1234_u64).unwrap();
        a.set_label(&mut inside).unwrap();
        a.mov(eax, 0x50f).unwrap();
        a.lea(rcx, ptr(inside)).unwrap();
        a.inc(rcx).unwrap();
        a.jmp(rcx).unwrap();
    });
    assert_eq!((report.vector, report.rip), (Some(6), CODE + 10 + 1));
}

#[test]
fn a_guest_moves_fs_by_itself() {
    let mut machine = machine(|a| {
        a.mov(rax, DATA + 0x100).unwrap();
        a.wrfsbase(rax).unwrap();
        a.mov(ecx, 0x5678).unwrap();
        a.mov(dword_ptr(8).fs(), ecx).unwrap();
        // Behind an exit it still stands.
        hypercall(a, 1, DATA);
        a.rdfsbase(rdx).unwrap();
        a.mov(eax, dword_ptr(rdx + 8)).unwrap();
        a.mov(rcx, DATA + 0x200).unwrap();
        a.mov(dword_ptr(rcx), eax).unwrap();
        halt_with(a, DATA + 0x200);
    });
    let before = machine.state_digest();
    assert_eq!(machine.run().unwrap(), Request::Walltime);
    assert_ne!(machine.state_digest(), before);
    machine.answer(&Answer::Walltime { nanoseconds: 1 }).unwrap();
    assert_eq!(machine.run().unwrap(), Request::Halt { exit_status: 0x5678 });
}

#[test]
fn a_guest_depends_on_its_host_where_its_instructions_do() {
    let own = HostKind::of_this_host();
    let other_model = HostKind { signature: own.signature ^ 0x10, ..own };
    let other_kvm = HostKind { kvm: own.kvm + 1, ..own };
    let plain = machine(|a| a.ud2().unwrap());
    assert_eq!((plain.host_kind(), plain.other_host(other_model)), (HostKind::default(), None));
    let approximate = machine(|a| a.fsin().unwrap());
    assert_eq!(approximate.host_kind(), own.restricted_to(|host| host == HostTrait::Model));
    assert!(approximate.other_host(other_model).unwrap().contains(&other_model.processor_name()));
    assert_eq!((approximate.other_host(other_kvm), approximate.other_host(own)), (None, None));
    // What FXSAVE stores differs, and no guest reads it: a pair may have it, and a replay's final state may differ.
    let saving = machine(|a| a.fxsave(ptr(rax)).unwrap());
    assert_eq!(saving.host_kind(), HostKind::default());
    assert!(saving.other_host(other_model).is_some());
}

#[test]
fn a_feature_that_the_processor_lacks_is_named() {
    let image = Image::parse(&image(&DEVICES, |a| a.ud2().unwrap())).unwrap();
    let own = Feature::of_host();
    for (feature, name) in Feature::ALL {
        let built = Machine::new(&image, &config().with_features(&[feature]));
        match own.contains(&feature) {
            true => assert!(built.is_ok(), "{name}"),
            false => assert!(built.err().unwrap().to_string().contains(name), "{name}"),
        }
    }
    assert_ne!(config().digest(), config().with_features(&[Feature::Aes]).digest());
}

#[test]
fn an_answer_of_another_kind_is_refused_and_the_guest_waits_on() {
    let mut machine = machine(|a| {
        hypercall(a, 1, DATA);
        halt_with(a, DATA);
    });
    assert_eq!(machine.run().unwrap(), Request::Walltime);
    assert!(machine.answer(&Answer::Done).is_err());
    assert!(matches!(machine.run(), Err(MachineError::NotRunnable { .. })));
    machine.answer(&Answer::Walltime { nanoseconds: 9 }).unwrap();
    assert_eq!(machine.run().unwrap(), Request::Halt { exit_status: 9 });
}

#[test]
fn a_kick_from_another_thread_interrupts_a_spinning_guest() {
    let mut machine = machine(|a| {
        let mut here = a.create_label();
        a.set_label(&mut here).unwrap();
        a.jmp(here).unwrap();
    });
    let kicker = machine.kicker();
    let thread = std::thread::spawn(move || kicker.kick());
    assert!(matches!(machine.run(), Err(MachineError::Interrupted)));
    thread.join().unwrap();
    let kicker = machine.kicker();
    kicker.kick();
    assert!(matches!(machine.run(), Err(MachineError::Interrupted)));
}

/// Runs a guest whose thread 3, so its record says, computes while another can run: to its end, and what it remarked.
fn run_starving_guest(is_watched: bool) -> (Machine, Vec<String>) {
    let record = DATA + 64;
    let file = image(&DEVICES, |a| {
        store(a, record + 24, u64::MAX);
        store(a, record + 40, 3);
        store(a, record + 48, 1);
        // A multiplication takes three cycles: seconds on any processor.
        a.mov(rcx, 4_000_000_000_u64).unwrap();
        let mut again = a.create_label();
        a.set_label(&mut again).unwrap();
        a.imul_2(rax, rax).unwrap();
        a.dec(rcx).unwrap();
        a.jne(again).unwrap();
        halt_with(a, DATA);
    });
    let file = with_symbols(with_thread_record(file, record), &[("spin", 2, CODE, 0x100)]);
    let mut machine = Machine::new(&Image::parse(&file).unwrap(), &config()).unwrap();
    if is_watched {
        machine.interrupt_long_computing().unwrap();
    }
    let mut remarks = Vec::new();
    loop {
        match machine.run() {
            Err(MachineError::Interrupted) => {
                remarks.extend(machine.starvation(|| false).map(|starvation| starvation.to_string()))
            }
            Ok(Request::Halt { exit_status: 0 }) => return (machine, remarks),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_guest_that_computes_is_looked_at_and_does_not_know() {
    let unwatched = std::thread::spawn(|| {
        let (mut machine, remarks) = run_starving_guest(false);
        assert_eq!(remarks, Vec::<String>::new());
        (machine.fingerprint(), machine.state_digest())
    });
    let (mut machine, remarks) = run_starving_guest(true);
    assert_eq!((machine.fingerprint(), machine.state_digest()), unwatched.join().unwrap());
    let first = remarks.first().unwrap();
    assert!(first.starts_with("the guest's thread 3 () has computed for 1."), "{first}");
    assert!(first.contains("in spin+0x") && first.ends_with("at least 1 other thread waits for its turn"), "{first}");
}

#[test]
fn equal_histories_have_equal_fingerprints_and_others_have_not() {
    let run = |nanoseconds: u64| {
        let mut machine = machine(|a| {
            hypercall(a, 1, DATA);
            store(a, DATA + 64, 3);
            a.mov(rdx, rax).unwrap();
            halt_with(a, DATA + 64);
        });
        let start = machine.state_digest();
        machine.run().unwrap();
        machine.answer(&Answer::Walltime { nanoseconds }).unwrap();
        machine.run().unwrap();
        (start, machine.fingerprint(), machine.state_digest())
    };
    let (first, again, other) = (run(1), run(1), run(2));
    assert_eq!(first, again);
    assert_eq!(first.0, other.0);
    assert_ne!(first.1, other.1);
    assert_ne!(first.2, other.2);
}

#[test]
fn devices_have_to_be_those_that_the_image_declares() {
    let image = Image::parse(&image(&DEVICES, |a| a.ud2().unwrap())).unwrap();
    let reason = |config: MachineConfig| Machine::new(&image, &config).err().unwrap().to_string();
    assert!(reason(MachineConfig::new(MEMORY_BYTES)).contains("declares"));
    assert!(reason(config().with_block("other", 512)).contains("declares no device"));
    assert!(reason(config().with_block("service", 512)).contains("network device"));
    assert!(reason(config().with_block("storage", 100)).contains("its 100 bytes are less than a sector of 512"));
    assert!(reason(config().with_block("storage", 1000)).contains("its 1000 bytes are no whole number of sectors"));
    assert!(reason(config_with_sectors(521)).contains("sectors of 521 bytes have to be a power of two"));
    assert!(reason(config_with_sectors(256)).contains("512 or more"));
    assert!(reason(MachineConfig { memory_bytes: 4097, ..config() }).contains("4096"));
    assert!(reason(MachineConfig { memory_bytes: 1 << 20, ..config() }).contains("too few"));
    assert!(reason(MachineConfig { memory_bytes: 8 << 30, ..config() }).contains("4 GiB"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever a guest asks for ends in a request within its memory, EINVAL, or a report.
    #[test]
    fn no_hypercall_brings_the_machine_down(number in 1_u32..=8, structure: u32, near in any::<bool>(),
                                            fields in proptest::array::uniform4(prop_oneof![
                                                any::<u64>(), 0_u64..4, Just(DATA), Just(MEMORY_BYTES), Just(512_u64)])) {
        let structure = if near { DATA } else { u64::from(structure) };
        let mut machine = machine(|a| {
            fields.iter().enumerate().for_each(|(index, field)| store(a, DATA + 8 * index as u64, *field));
            hypercall(a, number, structure);
            halt_with(a, DATA);
        });
        match machine.run() {
            Ok(Request::BlockRead { offset, length, .. }) => prop_assert!(offset + u64::from(length) <= CAPACITY_BYTES),
            Ok(Request::BlockWrite { offset, data, .. }) => prop_assert!(offset + data.len() as u64 <= CAPACITY_BYTES),
            Ok(_) | Err(MachineError::Trap(_)) => {}
            Err(error) => prop_assert!(false, "{}", error),
        }
    }
}

const ROUNDS: i32 = 6;
const CLOCK: u64 = DATA + 0x100;
const COUNTED: u64 = DATA + 0x2000;

/// Asks for the time again and again. What it has gathered is in every kind of register: a flag is kept over each request, sums are in XMM0 and on
/// the x87's stack, and the count is in memory as well. In the end it prints them.
fn gathers(a: &mut CodeAssembler) {
    a.xor(rbx, rbx).unwrap();
    a.pxor(xmm0, xmm0).unwrap();
    a.fldz().unwrap();
    let mut round = a.create_label();
    a.set_label(&mut round).unwrap();
    a.stc().unwrap();
    hypercall(a, 1, CLOCK);
    a.adc(rbx, 0).unwrap();
    a.mov(rcx, CLOCK).unwrap();
    a.movq(xmm1, qword_ptr(rcx)).unwrap();
    a.paddq(xmm0, xmm1).unwrap();
    a.fild(qword_ptr(rcx)).unwrap();
    a.faddp(st1, st0).unwrap();
    a.mov(rcx, COUNTED).unwrap();
    a.mov(qword_ptr(rcx), rbx).unwrap();
    a.cmp(rbx, ROUNDS).unwrap();
    a.jne(round).unwrap();
    a.movq(qword_ptr(rcx + 8), xmm0).unwrap();
    a.fstp(qword_ptr(rcx + 16)).unwrap();
    store(a, DATA + 0x200, COUNTED);
    store(a, DATA + 0x208, 24);
    hypercall(a, 2, DATA + 0x200);
    halt_with(a, COUNTED);
}

/// Goes on to the next request; what was asked is answered by its number.
fn go_on(machine: &mut Machine, asked: &mut u64) -> Request {
    match machine.asked() {
        Some(Request::Walltime) => {
            *asked += 1;
            machine.answer(&Answer::Walltime { nanoseconds: 1000 + *asked * *asked }).unwrap();
        }
        Some(_) => machine.answer(&Answer::Done).unwrap(),
        None => {}
    }
    machine.run().unwrap()
}

/// All that is left of a guest's life: its requests, and what it is in the end.
fn rest_of(mut machine: Machine, mut asked: u64) -> (Vec<Request>, String) {
    let mut requests = Vec::new();
    loop {
        let request = go_on(&mut machine, &mut asked);
        requests.push(request.clone());
        if let Request::Halt { .. } = request {
            return (requests, format!("{} {}", machine.fingerprint(), machine.state_digest()));
        }
    }
}

fn copy_pages(from: &Machine, mut pages: PageSet, to: &mut Machine) {
    while let Some(page) = pages.take_from(0) {
        to.restore_page(page, from.page(page).unwrap()).unwrap();
    }
}

/// Everything else goes as it does over the network.
fn copy_state(from: &mut Machine, to: &mut Machine) {
    let written = serde_json::to_vec(&from.state().unwrap()).unwrap();
    let state: MachineState = serde_json::from_slice(&written).unwrap();
    assert_eq!(state.fingerprint(), from.fingerprint());
    to.restore(&state).unwrap();
    assert_eq!(to.asked(), from.asked());
}

#[test]
fn a_guest_goes_on_in_another_machine_from_any_of_its_requests() {
    let whole = rest_of(machine(gathers), 0);
    let Request::Console { data } = &whole.0[ROUNDS as usize] else { panic!("{whole:?}") };
    let sum: u64 = (1..=ROUNDS as u64).map(|asked| 1000 + asked * asked).sum();
    let gathered = [(ROUNDS as u64).to_le_bytes(), sum.to_le_bytes(), (sum as f64).to_le_bytes()].concat();
    assert_eq!(*data, gathered);
    for requests in 1..=ROUNDS as usize {
        let (mut here, mut there, mut asked) = (machine(gathers), machine(gathers), 0);
        for _ in 0..requests {
            go_on(&mut here, &mut asked);
        }
        copy_pages(&here, here.writable_pages(), &mut there);
        copy_state(&mut here, &mut there);
        assert_eq!(here.state_digest(), there.state_digest());
        let rest = (whole.0[requests..].to_vec(), whole.1.clone());
        assert_eq!(rest_of(there, asked), rest, "carried");
        assert_eq!(rest_of(here, asked), rest, "left where it was");
    }
}

#[test]
fn what_is_written_is_known_to_the_page_whoever_wrote_it() {
    let (mut here, mut there, mut asked) = (machine(gathers), machine(gathers), 0);
    go_on(&mut here, &mut asked);
    assert!(here.written().is_err(), "nothing is noted yet");
    here.track_writes().unwrap();
    assert!(here.written().unwrap().is_empty());
    copy_pages(&here, here.writable_pages(), &mut there);
    for _ in 0..2 {
        go_on(&mut here, &mut asked);
        let mut expected = PageSet::default();
        // The time is written by the VMM alone, the count by the guest alone.
        [CLOCK, COUNTED].into_iter().for_each(|address| expected.insert((address >> 12) as usize));
        let written = here.written().unwrap();
        let numbers = |mut pages: PageSet| std::iter::from_fn(move || pages.take_from(0)).collect::<Vec<_>>();
        assert_eq!(numbers(written.clone()), numbers(expected));
        copy_pages(&here, written, &mut there);
    }
    copy_state(&mut here, &mut there);
    assert_eq!(here.state_digest(), there.state_digest());
    here.stop_tracking_writes().unwrap();
    assert_eq!(rest_of(there, asked), rest_of(here, asked));
}

#[test]
fn only_a_guest_that_waits_for_an_input_is_carried_and_only_into_a_new_machine() {
    let (mut here, mut asked) = (machine(gathers), 0);
    assert!(here.state().is_err(), "it has not run");
    go_on(&mut here, &mut asked);
    let state = here.state().unwrap();
    assert!(here.restore(&state).is_err(), "it has run");
    while !matches!(go_on(&mut here, &mut asked), Request::Console { .. }) {}
    assert!(here.state().is_err(), "its output is not taken");
    let page = [0x90; 4096];
    let mut there = machine(gathers);
    for address in [CODE, NOTES, 0, MEMORY_BYTES, 1 << 32] {
        assert_eq!(there.restore_page((address >> 12) as usize, &page), None, "{address:#x}");
    }
    assert_eq!(there.restore_page(usize::MAX, &page), None);
}
