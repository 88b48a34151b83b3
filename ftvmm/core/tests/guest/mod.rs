//! Tiny guests: machine code from an assembler, put into a Solo5 image.

#![allow(dead_code)] // Each test uses its part.

use iced_x86::code_asm::{CodeAssembler, dword_ptr, dx, eax, edx, esi, qword_ptr, rax, rcx};

/// Where a guest's code starts.
pub const CODE: u64 = 0x10_0000;
/// A writable page for hypercall structures and buffers.
pub const DATA: u64 = 0x20_0000;
const DATA_BYTES: u64 = 0x4000;
/// Constant data.
pub const NOTES: u64 = 0x1f_0000;

/// A device for the manifest: its name and type (1 block, 2 net).
pub type Device = (&'static str, u32);

/// An image of what `write` assembles, and these devices.
pub fn image(devices: &[Device], write: impl FnOnce(&mut CodeAssembler)) -> Vec<u8> {
    let mut assembler = CodeAssembler::new(64).unwrap();
    write(&mut assembler);
    image_of(&assembler.assemble(CODE).unwrap(), devices)
}

/// An image of raw machine code.
pub fn image_of(code: &[u8], devices: &[Device]) -> Vec<u8> {
    let notes = [note(0x3154_464d, 8, &manifest(devices)), note(0x3149_4241, 4, &words(&[1, 2, 0, 0]))].concat();
    let headers = 64 + 4 * 56;
    let notes_at = 0x1000_u64;
    let code_at = notes_at + (notes.len() as u64).next_multiple_of(0x1000);
    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    file.extend(CODE.to_le_bytes());
    file.extend(64_u64.to_le_bytes());
    // No section headers, no flags; then sizes and counts.
    file.extend([0; 12]);
    file.extend([64, 0, 56, 0, 4, 0, 64, 0, 0, 0, 0, 0]);
    for (kind, flags, offset, address, file_bytes, memory_bytes) in [
        (1_u32, 5_u32, code_at, CODE, code.len() as u64, code.len() as u64),
        (1, 6, code_at, DATA, 0, DATA_BYTES),
        (1, 4, notes_at, NOTES, notes.len() as u64, notes.len() as u64),
        (4, 4, notes_at, NOTES, notes.len() as u64, notes.len() as u64),
    ] {
        file.extend(kind.to_le_bytes());
        file.extend(flags.to_le_bytes());
        for word in [offset, address, address, file_bytes, memory_bytes, 0x1000] {
            file.extend(word.to_le_bytes());
        }
    }
    assert_eq!(file.len(), headers);
    file.resize(notes_at as usize, 0);
    file.extend(&notes);
    file.resize(code_at as usize, 0);
    file.extend(code);
    file
}

/// A symbol for the table: its name, type (1 data, 2 function), address and size.
pub type Symbol = (&'static str, u8, u64, u64);

/// The image with a table of symbols.
pub fn with_symbols(mut file: Vec<u8>, symbols: &[Symbol]) -> Vec<u8> {
    let (mut table, mut names) = (vec![0; 24], vec![0]);
    for (name, kind, address, size) in symbols {
        table.extend((names.len() as u32).to_le_bytes());
        // Not of any section, but absolute.
        table.extend([*kind, 0, 0xf1, 0xff]);
        table.extend(address.to_le_bytes());
        table.extend(size.to_le_bytes());
        names.extend(name.as_bytes());
        names.push(0);
    }
    let table_at = file.len() as u64;
    file.extend(&table);
    let names_at = file.len() as u64;
    file.extend(&names);
    let headers_at = file.len() as u64;
    file.extend([0; 64]);
    for (kind, offset, length, link, entry_bytes) in
        [(2_u32, table_at, table.len(), 2_u32, 24_u64), (3, names_at, names.len(), 0, 0)]
    {
        file.extend(words(&[0, kind, 0, 0, 0, 0]));
        file.extend(offset.to_le_bytes());
        file.extend((length as u64).to_le_bytes());
        file.extend(words(&[link, 1, 0, 0]));
        file.extend(entry_bytes.to_le_bytes());
    }
    file[40..48].copy_from_slice(&headers_at.to_le_bytes());
    // Three of them; the names of sections would be in the last.
    file[60..64].copy_from_slice(&[3, 0, 2, 0]);
    file
}

/// The image with a note that says where the record of the threads lies.
pub fn with_thread_record(mut file: Vec<u8>, address: u64) -> Vec<u8> {
    // Behind the notes that are there, in both program headers that they have; up to the code there is room.
    let length_at = |header: usize| 64 + 56 * header + 32;
    let length = file[length_at(3)..].first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
    let end = 0x1000 + length as usize;
    let padding = (end + 20).next_multiple_of(8) - (end + 20);
    let mut note = words(&[6, (padding + 8) as u32, 0x3152_4854]);
    note.extend(b"ftvmm\0\0\0");
    note.resize(20 + padding, 0);
    note.extend(address.to_le_bytes());
    file[end..end + note.len()].copy_from_slice(&note);
    let length = (end + note.len() - 0x1000) as u64;
    for at in [length_at(2), length_at(2) + 8, length_at(3), length_at(3) + 8] {
        file[at..at + 8].copy_from_slice(&length.to_le_bytes());
    }
    file
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn note(kind: u32, alignment_bytes: usize, content: &[u8]) -> Vec<u8> {
    let padding = 20_usize.next_multiple_of(alignment_bytes) - 20;
    let mut note = words(&[6, (padding + content.len()) as u32, kind]);
    note.extend(b"Solo5\0\0\0");
    note.extend(vec![0; padding]);
    note.extend(content);
    note.resize(note.len().next_multiple_of(4), 0);
    note
}

fn manifest(devices: &[Device]) -> Vec<u8> {
    let mut bytes = words(&[1, devices.len() as u32 + 1]);
    for (name, kind) in std::iter::once(&("", 1 << 30)).chain(devices) {
        let mut entry = vec![0; 104];
        entry[..name.len()].copy_from_slice(name.as_bytes());
        entry[68..72].copy_from_slice(&kind.to_le_bytes());
        bytes.extend(entry);
    }
    bytes
}

/// Writes a word to guest memory.
pub fn store(a: &mut CodeAssembler, address: u64, value: u64) {
    a.mov(rcx, address).unwrap();
    a.mov(rax, value).unwrap();
    a.mov(qword_ptr(rcx), rax).unwrap();
}

/// Makes hypercall `number` with its structure at `structure`.
pub fn hypercall(a: &mut CodeAssembler, number: u32, structure: u64) {
    a.mov(eax, structure as u32).unwrap();
    a.mov(edx, 0x500 + number).unwrap();
    a.out(dx, eax).unwrap();
}

/// Halts with what is in the low half of the word at `address`.
pub fn halt_with(a: &mut CodeAssembler, address: u64) {
    let structure = DATA + 0x3f00;
    a.mov(rcx, address).unwrap();
    a.mov(esi, dword_ptr(rcx)).unwrap();
    a.mov(rcx, structure).unwrap();
    a.mov(dword_ptr(rcx + 8), esi).unwrap();
    hypercall(a, 8, structure);
    a.ud2().unwrap();
}
