//! Malformed images: each a typed error that names offset and reason, and never a panic.

mod guest;

use _core::determinism::rewrite;
use _core::image::{DeviceKind, Image};
use guest::{CODE, image, image_of};
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
fn a_rewritten_instruction_keeps_its_length() {
    // rdrand r9; rdtscp; cpuid
    let code = [0x49, 0x0f, 0xc7, 0xf1, 0x0f, 0x01, 0xf9, 0x0f, 0xa2];
    let rewritten = rewrite(&Image::parse(&image_of(&code, &[])).unwrap()).unwrap();
    let patches: Vec<_> = rewritten.patches.iter().map(|patch| (patch.address - CODE, patch.bytes.clone())).collect();
    let expected = [(0, vec![0xe6, 0x10, 0x90, 0x90]), (4, vec![0xe6, 0x10, 0x90]), (7, vec![0xe6, 0x10])];
    assert_eq!(patches, expected);
    assert!(rewritten.hidden.is_empty(), "{:x?}", rewritten.hidden);
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
    fn no_code_makes_the_pass_panic(code in proptest::collection::vec(any::<u8>(), 1..400)) {
        if let Ok(rewritten) = rewrite(&Image::parse(&image_of(&code, &[])).unwrap()) {
            let end = CODE + code.len() as u64;
            prop_assert!(rewritten.patches.iter().all(|patch| patch.address + patch.bytes.len() as u64 <= end));
        }
    }
}
