//! Malformed images: each a typed error that names offset and reason, and never a panic.

mod guest;

use _core::determinism::{DeterminismError, HostTrait, Rewritten, rewrite};
use _core::image::{DeviceKind, Image};
use guest::{CODE, DATA, Symbol, image, image_of, with_symbols, with_thread_record};
use iced_x86::code_asm::CodeAssembler;
use proptest::prelude::*;

fn valid() -> Vec<u8> {
    image(&[("storage", 1), ("service", 2)], |a: &mut CodeAssembler| a.ud2().unwrap())
}

/// The start of the manifest's content, behind header and padding of its note.
const MANIFEST: usize = 0x1000 + 24;
const FIRST_DEVICE: usize = MANIFEST + 8 + 104;

#[test]
fn a_valid_image_is_taken_apart() {
    let image = Image::parse(&valid()).unwrap();
    assert_eq!(image.entry, CODE);
    assert_eq!(image.segments.len(), 3);
    let devices: Vec<_> = image.manifest.entries.iter().map(|e| (e.index, e.name.as_str(), e.kind)).collect();
    assert_eq!(devices, [(1, "storage", DeviceKind::Block), (2, "service", DeviceKind::Network)]);
}

#[test]
fn an_image_may_say_where_the_record_of_its_threads_lies() {
    assert_eq!(Image::parse(&valid()).unwrap().thread_record, None);
    let file = with_thread_record(valid(), DATA + 8);
    assert_eq!(Image::parse(&file).unwrap().thread_record, Some(DATA + 8));
    // Anywhere: that nothing lies there is found where it is read.
    assert_eq!(Image::parse(&with_thread_record(valid(), u64::MAX)).unwrap().thread_record, Some(u64::MAX));
    let (mut short, name) = (file, b"ftvmm\0");
    let at = short.windows(name.len()).position(|bytes| bytes == name).unwrap();
    short[at - 8] -= 4;
    let error = Image::parse(&short).unwrap_err();
    assert!(error.reason.contains("THR1 note has 4 bytes"), "{error}");
}

#[test]
fn each_wrong_field_is_named_by_offset_and_reason() {
    let cases: [(usize, &[u8], u64, &str); 18] = [
        (0, b"X", 0, "no ELF"),
        (4, &[1], 4, "class"),
        (5, &[2], 5, "byte order"),
        (16, &[3], 16, "static executable"),
        (18, &[40], 18, "machine"),
        (24, &[0; 8], 24, "entry point"),
        (32, &[0xff; 8], 0, "program header"),
        (54, &[57], 54, "program headers' size"),
        (56, &[0, 0], 56, "program headers"),
        (64 + 4, &[7], 64 + 4, "writable and executable"),
        (64 + 8, &[0xff; 8], 64 + 8, "outside of the file"),
        (64 + 16, &[0; 8], 64 + 16, "virtual address"),
        (64 + 16, &[0; 16], 64 + 24, "outside of"),
        (64 + 40, &[1], 64 + 32, "more bytes in the file"),
        (MANIFEST, &[2], MANIFEST as u64, "version"),
        (MANIFEST + 4, &[65], MANIFEST as u64 + 4, "entries"),
        (FIRST_DEVICE, b"\0", FIRST_DEVICE as u64, "name"),
        (FIRST_DEVICE + 68, &[9], FIRST_DEVICE as u64 + 68, "unknown type"),
    ];
    for (at, bytes, offset, reason) in cases {
        let mut file = valid();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        let error = Image::parse(&file).expect_err(reason);
        assert!(error.reason.contains(reason), "at {at}: {error}");
        assert!(offset == 0 || error.offset == offset, "at {at}: {error}");
    }
}

#[test]
fn a_cut_at_any_byte_of_what_is_needed_is_found() {
    let file = valid();
    for length in 0..file.len() {
        assert!(Image::parse(&file[..length]).is_err(), "cut to {length} bytes");
    }
}

#[test]
fn instructions_inside_of_others_are_reported_and_left_alone() {
    // mov eax, 0x31_0f_90_90: two bytes of its constant are RDTSC. Then an RDTSC on a boundary.
    let code = [0xb8, 0x90, 0x90, 0x0f, 0x31, 0x0f, 0x31, 0x0f, 0x0b];
    let rewritten = rewrite(&Image::parse(&image_of(&code, &[])).unwrap()).unwrap();
    assert_eq!(rewritten.hidden, [CODE + 3]);
    assert_eq!(rewritten.patches.len(), 1);
    assert_eq!((rewritten.patches[0].address, rewritten.patches[0].bytes.as_slice()), (CODE + 5, &[0xe6, 0x10][..]));
}

#[test]
fn a_prefix_that_makes_another_instruction_is_seen_inside_of_others() {
    // mov rax, imm64: its constant is TPAUSE EAX, which without its prefix is MFENCE. Then MFENCE itself.
    let code = [0x48, 0xb8, 0x66, 0x0f, 0xae, 0xf0, 0x90, 0x90, 0x90, 0x90, 0x0f, 0xae, 0xf0];
    assert_eq!(rewrite(&Image::parse(&image_of(&code, &[])).unwrap()).unwrap().hidden, [CODE + 2]);
}

#[test]
fn what_the_results_depend_on_is_counted() {
    // tzcnt eax, ebx; fsin; tzcnt ecx, edx; vzeroupper; aesenc xmm0, xmm1
    let code =
        [0xf3, 0x0f, 0xbc, 0xc3, 0xd9, 0xfe, 0xf3, 0x0f, 0xbc, 0xca, 0xc5, 0xf8, 0x77, 0x66, 0x0f, 0x38, 0xdc, 0xc1];
    let found = rewrite(&Image::parse(&image_of(&code, &[])).unwrap()).unwrap();
    let depends: Vec<_> = found.depends.iter().map(|(host, found)| (*host, found.first - CODE, found.count)).collect();
    assert_eq!(depends, [(HostTrait::Model, 4, 1), (HostTrait::Tzcnt, 0, 2)]);
    let features: Vec<String> = found.features.iter().map(|feature| format!("{feature:?}")).collect();
    assert_eq!(features, ["AES", "AVX"]);
    assert!(found.patches.is_empty() && found.hidden.is_empty() && !found.sets_fs_base());
}

#[test]
fn what_is_not_known_to_be_deterministic_is_refused_by_name() {
    // mcommit; xsusldtrk; aesenc128kl xmm0, [rax]
    let cases: [(&[u8], &str); 3] = [
        (&[0xf3, 0x0f, 0x01, 0xfa], "mcommit"),
        (&[0xf2, 0x0f, 0x01, 0xe8], "xsusldtrk"),
        (&[0xf3, 0x0f, 0x38, 0xdc, 0x00], "aesenc128kl"),
    ];
    for (code, name) in cases {
        let error = rewrite(&Image::parse(&image_of(&[&[0x90], code].concat(), &[])).unwrap()).unwrap_err();
        assert_eq!((error.address, error.instruction.split(' ').next()), (CODE + 1, Some(name)), "{error}");
    }
}

#[test]
fn a_rewritten_instruction_keeps_its_length() {
    // rdrand r9; rdtscp; cpuid
    let code = [0x49, 0x0f, 0xc7, 0xf1, 0x0f, 0x01, 0xf9, 0x0f, 0xa2];
    let rewritten = rewrite(&Image::parse(&image_of(&code, &[])).unwrap()).unwrap();
    let patches: Vec<_> = rewritten.patches.iter().map(|patch| (patch.address - CODE, patch.bytes.clone())).collect();
    let expected = [(0, vec![0xe6, 0x10, 0x90, 0x90]), (4, vec![0xe6, 0x10, 0x90]), (7, vec![0xe6, 0x10])];
    assert_eq!(patches, expected);
    assert!(rewritten.hidden.is_empty(), "{:x?}", rewritten.hidden);
}

#[test]
fn what_may_be_data_is_not_rewritten_without_a_word() {
    // rdtsc; ret; and two bytes in no function, which would be RDTSC.
    let code = [0x0f, 0x31, 0xc3, 0x0f, 0x31];
    let doubtful = |symbols: &[Symbol]| with_data(&code, symbols).unwrap().doubtful;
    assert_eq!(doubtful(&[("function", 2, CODE, 3)]), [CODE + 3]);
    assert!(doubtful(&[("function", 2, CODE, 3), ("other name", 2, CODE, 0), ("rest", 2, CODE + 3, 2)]).is_empty());
    // A symbol without a length says where code starts, and not how far it goes.
    assert_eq!(doubtful(&[("function", 2, CODE, 0)]), [CODE, CODE + 3]);
    assert_eq!(doubtful(&[]), [CODE, CODE + 3]);
    assert!(doubtful(&[("function", 2, CODE, 3), ("table", 1, CODE + 3, 2)]).is_empty());
}

/// What the pass says of code, of which a range is called data.
fn with_data(code: &[u8], symbols: &[Symbol]) -> Result<Rewritten, DeterminismError> {
    rewrite(&Image::parse(&with_symbols(image_of(code, &[]), symbols)).unwrap())
}

#[test]
fn what_is_called_data_is_left_alone_and_counted() {
    // ret; a table in which RDTSC and SYSCALL could be read; rdtsc; ret
    let code = [0xc3, 0x0f, 0x31, 0x0f, 0x05, 0x0f, 0x31, 0xc3];
    let found = with_data(&code, &[("table", 1, CODE + 1, 4), ("function", 2, CODE + 5, 3)]).unwrap();
    assert_eq!(found.hidden, [CODE + 1, CODE + 3]);
    assert_eq!(found.patches.iter().map(|patch| patch.address).collect::<Vec<_>>(), [CODE + 5]);
    // Without the symbol, it is code as everything that is executable.
    assert_eq!(with_data(&code, &[]).unwrap_err().address, CODE + 3);
}

#[test]
fn code_that_leads_into_what_is_called_data_is_refused() {
    // rdrand eax, called data, and each way to get there.
    let hidden = [0x0f, 0xc7, 0xf0, 0xc3];
    let cases: [(&str, &[u8], &str); 6] = [
        ("jmp short", &[0xeb, 0x01, 0xc3], "leads into"),
        ("jmp near", &[0xe9, 0x01, 0, 0, 0, 0xc3], "leads into"),
        ("jne", &[0x75, 0x01, 0xc3], "leads into"),
        ("call", &[0xe8, 0x01, 0, 0, 0, 0xc3], "leads into"),
        ("nop", &[0x90], "goes on into"),
        // Its last byte is the first that is called data.
        ("mov eax, imm32", &[0xb8, 0, 0, 0], "goes on into"),
    ];
    for (name, code, reason) in cases {
        let all = [code, &hidden].concat();
        let (address, length) = (CODE + code.len() as u64, hidden.len() as u64);
        let error = with_data(&all, &[("table", 1, address, length)]).expect_err(name);
        assert_eq!(error.address, CODE, "{name}: {error}");
        assert!(error.reason.contains(reason), "{name}: {error}");
    }
    // A jump into the middle of it is no better.
    let error = with_data(&[0xeb, 0x03, 0xc3, 0, 0, 0x0f, 0xc7, 0xf0, 0xc3], &[("table", 1, CODE + 3, 6)]).unwrap_err();
    assert_eq!((error.address, error.reason.contains("leads into")), (CODE, true));
}

#[test]
fn neither_a_function_nor_the_entry_point_is_data() {
    let code = [0xc3, 0x0f, 0xc7, 0xf0, 0xc3];
    let error = with_data(&code, &[("table", 1, CODE + 1, 4), ("function", 2, CODE + 1, 4)]).unwrap_err();
    assert_eq!((error.address, error.reason.contains("starts here")), (CODE + 1, true));
    let error = with_data(&code, &[("table", 1, CODE, 5)]).unwrap_err();
    assert_eq!((error.address, error.reason.contains("starts here")), (CODE, true));
}

#[test]
fn a_call_at_the_end_of_code_is_taken_not_to_return() {
    // ret; call to it; a table; as a compiler leaves the call of what ends the program.
    let code = [0xeb, 0x01, 0xc3, 0xe8, 0xfa, 0xff, 0xff, 0xff, 0x0f, 0x31];
    assert_eq!(with_data(&code, &[("table", 1, CODE + 8, 2)]).unwrap().hidden, [CODE + 8]);
}

#[test]
fn data_outside_of_code_is_of_no_interest() {
    let image = Image::parse(&with_symbols(image_of(&[0xc3], &[]), &[("data", 1, guest::DATA, 64)])).unwrap();
    assert!(image.data_ranges.is_empty());
}

proptest! {
    #[test]
    fn no_change_makes_the_parser_panic(changes in proptest::collection::vec((0_usize..0x1400, any::<u8>()), 1..8)) {
        let mut file = valid();
        for (at, byte) in changes {
            let last = file.len() - 1;
            file[at.min(last)] = byte;
        }
        // Whatever it says, it says so; an image that it takes has no segment that is both writable and executable.
        if let Ok(image) = Image::parse(&file) {
            prop_assert!(image.segments.iter().all(|segment| !(segment.writable && segment.executable)));
            let _ = rewrite(&image);
        }
    }

    #[test]
    fn no_data_in_code_is_rewritten(
        code in proptest::collection::vec(any::<u8>(), 1..400),
        tables in proptest::collection::vec((0_u64..400, 0_u64..40), 0..8),
    ) {
        let symbols: Vec<Symbol> = tables.iter().map(|(at, length)| ("table", 1, CODE + at, *length)).collect();
        if let Ok(found) = with_data(&code, &symbols) {
            for patch in &found.patches {
                let end = patch.address + patch.bytes.len() as u64;
                let inside = code.len() as u64 + CODE;
                prop_assert!(end <= inside);
                for (_, _, start, length) in &symbols {
                    prop_assert!(*length == 0 || end <= *start || patch.address >= start + length);
                }
            }
        }
    }

    #[test]
    fn no_code_makes_the_pass_panic(code in proptest::collection::vec(any::<u8>(), 1..400)) {
        if let Ok(rewritten) = rewrite(&Image::parse(&image_of(&code, &[])).unwrap()) {
            let end = CODE + code.len() as u64;
            prop_assert!(rewritten.patches.iter().all(|patch| patch.address + patch.bytes.len() as u64 <= end));
        }
    }
}
