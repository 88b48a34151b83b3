//! Whole images: this test's own program, with the libraries that it runs on, and a personality of a few bytes.

use std::fs;
use std::path::{Path, PathBuf};

use package::{Content, ENTRY_SYMBOL, PLACE_SYMBOL, Package, RECORD_SYMBOL};

use crate::determinism::{examine, rewrite};
use crate::image::{DeviceKind, Image, Manifest, Segment};
use crate::packing::writer::{Output, Symbol};
use crate::packing::{PackError, Packed, Refusal, Request, RequestedContent, RequestedFile, examine_program, pack};

const PERSONALITY_CODE: u64 = 0x10_0000;
const PERSONALITY_DATA: u64 = 0x20_0000;
const NUMBER_OF_BYTES: u64 = 64;

/// A personality that is nothing but its three symbols, in a file of that name.
fn personality(name: &str, end: u64, symbols: [&str; 3]) -> PathBuf {
    let segment = |address, data: Vec<u8>, executable| Segment {
        address,
        memory_bytes: if executable { data.len() as u64 } else { end - address },
        data,
        writable: !executable,
        executable,
    };
    let symbol = |name: &str, start, is_function| Symbol { name: name.into(), range: start..start + 16, is_function };
    let output = Output {
        entry: PERSONALITY_CODE,
        manifest: Manifest::default(),
        thread_record: None,
        segments: vec![
            segment(PERSONALITY_CODE, vec![0xc3; NUMBER_OF_BYTES as usize], true),
            // The place lies in what is zero, and has no room in the file.
            segment(PERSONALITY_DATA, vec![1; 8], false),
        ],
        symbols: vec![
            symbol(symbols[0], PERSONALITY_CODE + 16, true),
            symbol(symbols[1], PERSONALITY_DATA + 32, false),
            symbol(symbols[2], PERSONALITY_DATA + 48, false),
        ],
    };
    let path = std::env::temp_dir().join(format!("ftvmm-packing-{}-{name}.hvt", std::process::id()));
    fs::write(&path, output.write().unwrap()).unwrap();
    path
}

fn object(path: &str, host: &Path) -> RequestedFile {
    let content = RequestedContent::Object(host.into());
    RequestedFile { path: path.into(), permissions: 0o755, modified_s: Some(1_700_000_000), content }
}

/// Where a library of this process lies: the kernel says what it has mapped.
fn mapped(name: &str) -> PathBuf {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut paths = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    PathBuf::from(paths.find(|path| path.rsplit('/').next().unwrap().starts_with(name)).unwrap())
}

fn request(name: &str) -> Request {
    let file = |path: &str, content| RequestedFile { path: path.into(), permissions: 0o644, modified_s: None, content };
    Request {
        personality: personality(name, PERSONALITY_DATA + 0x1000, [ENTRY_SYMBOL, PLACE_SYMBOL, RECORD_SYMBOL]),
        program: "/bin/program".into(),
        program_file: "/bin/program".into(),
        loader_file: Some("/lib64/loader".into()),
        arguments: vec!["program".into(), "two words".into()],
        environment: vec!["HOME=/".into()],
        files: vec![
            file("/etc", RequestedContent::Directory),
            file("/etc/text", RequestedContent::Text("hello\n".into())),
            file("/etc/link", RequestedContent::Link("text".into())),
            object("/lib/libc.so.6", &mapped("libc.so.6")),
            object("/lib64/loader", &mapped("ld-linux")),
            object("/bin/program", &std::env::current_exe().unwrap()),
        ],
        has_network: true,
        has_disk: false,
        has_exact_clock: false,
    }
}

/// The package in an image, as the personality would find it.
fn with_package(packed: &Packed, look: impl FnOnce(&Image, Package)) {
    let image = Image::parse(&packed.image).unwrap();
    let data = image.segments.iter().find(|segment| segment.address == PERSONALITY_DATA).unwrap();
    let word = |at: usize| u64::from_le_bytes(data.data[at..at + 8].try_into().unwrap());
    let (address, length) = (word(32), word(40));
    let holder = image.segments.iter().find(|segment| segment.address == address).unwrap();
    assert!(!holder.writable && !holder.executable);
    look(&image, Package::decode(&holder.data[..length as usize]).unwrap());
}

#[test]
fn a_program_with_its_loader_and_library_is_packed_whole() {
    let request = request("whole");
    let packed = pack(&request).unwrap();
    assert_eq!((packed.objects, packed.files), (3, 6));
    assert!(packed.system_calls > 500, "{}", packed.system_calls);
    with_package(&packed, |image, package| {
        assert!(rewrite(image).is_ok());
        assert_eq!(image.manifest.entries.len(), 1);
        assert_eq!(image.thread_record, Some(PERSONALITY_DATA + 48));
        assert_eq!(
            (image.manifest.entries[0].name.as_str(), image.manifest.entries[0].kind),
            ("service", DeviceKind::Network)
        );
        assert_eq!(package.arguments, ["program", "two words"]);
        assert_eq!(package.environment, ["HOME=/"]);
        let names: Vec<&str> = package.files.iter().map(|file| file.path).collect();
        assert_eq!(names, ["/bin/program", "/etc", "/etc/link", "/etc/text", "/lib/libc.so.6", "/lib64/loader"]);
        assert_eq!(package.files[3].content, Content::Bytes(b"hello\n"));
        assert_eq!((package.files[0].modified_s, package.files[3].modified_s), (Some(1_700_000_000), None));
        let loader = package.program.loader;
        assert!((loader..loader + 0x10_0000).contains(&package.program.start));
        let (low, high) = package.objects;
        for file in &package.files {
            let Content::Object { base, span_bytes, head, writable, .. } = &file.content else { continue };
            assert!(*base >= low && base + span_bytes <= high);
            let first = image.segments.iter().find(|segment| segment.address == *base).unwrap();
            assert_eq!(first.data[..64], head[..64]);
            assert!(!writable.is_empty(), "{}", file.path);
        }
        // The image's symbols name what `ftvmm verify` tells of.
        let libc = image.functions.iter().find(|function| function.name == "libc.so.6: fork").unwrap();
        assert_eq!(image.functions.holding(libc.address + 1), Some((libc, 1)));
        assert!(!image.data_ranges.is_empty());
    });
    let _ = fs::remove_file(&request.personality);
}

#[test]
fn the_same_files_make_the_same_image_in_whatever_order_they_come() {
    let mut request = request("order");
    let first = pack(&request).unwrap();
    request.files.reverse();
    assert!(pack(&request).unwrap() == first);
    let _ = fs::remove_file(&request.personality);
}

#[test]
fn no_instruction_of_a_real_library_is_left_to_a_kernel() {
    let request = request("left");
    let packed = pack(&request).unwrap();
    let (rewritten, refused) = examine(&Image::parse(&packed.image).unwrap());
    assert_eq!(refused, []);
    // The loader asks what the processor can do.
    assert!(!rewritten.sites.is_empty());
    let _ = fs::remove_file(&request.personality);
}

#[test]
fn a_personality_that_cannot_be_used_is_told_why() {
    let refused = |name, end, symbols| {
        let mut request = request(name);
        let _ = fs::remove_file(&request.personality);
        request.personality = personality(name, end, symbols);
        let error = pack(&request).unwrap_err();
        let _ = fs::remove_file(&request.personality);
        error.to_string()
    };
    let symbols = [ENTRY_SYMBOL, PLACE_SYMBOL, RECORD_SYMBOL];
    assert!(refused("large", 0x40_0001, symbols).contains("it ends at 0x400001, behind 0x400000"));
    assert!(
        refused("entry", 0x30_0000, ["other", PLACE_SYMBOL, RECORD_SYMBOL]).contains("no symbol linux_system_call")
    );
    assert!(refused("place", 0x30_0000, [ENTRY_SYMBOL, "other", RECORD_SYMBOL]).contains("no symbol PACKAGE_PLACE"));
    assert!(refused("record", 0x30_0000, [ENTRY_SYMBOL, PLACE_SYMBOL, "other"]).contains("no symbol THREAD_RECORD"));
    let mut request = request("none");
    let _ = fs::remove_file(&request.personality);
    request.personality = "/nonexistent/linux.hvt".into();
    assert!(matches!(pack(&request), Err(PackError::Read { .. })));
}

#[test]
fn what_is_no_program_is_refused_by_name() {
    let refusal = |bytes: &[u8]| match examine_program("/bin/it", bytes) {
        Err(PackError::Object { path, refusal }) if path == "/bin/it" => refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!(refusal(b""), Refusal::NotElf);
    assert_eq!(refusal(b"hello"), Refusal::NotElf);
    let script = |interpreter: &str| Refusal::Script { interpreter: interpreter.into(), path: "/bin/it".into() };
    assert_eq!(refusal(b"#! /bin/sh -e\necho"), script("/bin/sh"));
    assert_eq!(refusal(b"#!/usr/bin/env python3\n"), script("python3"));
    let own = fs::read(std::env::current_exe().unwrap()).unwrap();
    assert!(examine_program("/bin/it", &own).unwrap().loader.is_some());
    let changed = |at: usize, byte: u8| {
        let mut bytes = own.clone();
        bytes[at] = byte;
        refusal(&bytes)
    };
    assert_eq!(changed(4, 1), Refusal::ThirtyTwoBit);
    assert_eq!(changed(18, 183), Refusal::Machine(183));
    assert_eq!(changed(16, 1), Refusal::Kind(1));
    assert_eq!(changed(39, 0xff), Refusal::Damaged("its program headers are outside of the file"));
    for length in [4, 16, 63, 64, 100, 4096] {
        assert!(matches!(refusal(&own[..length]), Refusal::Damaged(_)), "{length}");
    }
}
