//! Which bytes of an object are code, and where its functions start.
//!
//! Linkers put tables between functions, and a table that is read as code must not be patched. What a stack is unwound
//! with and the symbols say where functions lie; what control flow reaches beyond is code too (see `flow`).

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, Mnemonic};
use object::elf::{self, Rela64};
use object::read::elf::Rela as _;
use object::{LittleEndian, pod};

use super::frames;
use super::object::{ENDIAN, Object, ObjectFile};
use crate::image::Ranges;

/// Of all bytes of executable sections, this part at least has to be described for the description to be believed.
/// OpenSSL's libcrypto, which is rich in tables, is described to nine tenths; a program that was compiled without
/// unwind tables has them for its start-up code only.
const DESCRIBED_MIN: f64 = 0.5;
const POINTER_BYTES: u64 = 8;

/// A function: how long it is, 0 where nobody says, and what it is called.
pub(super) struct Function {
    pub length_bytes: u64,
    pub name: Option<String>,
}

/// What of an object is code; all addresses are guest addresses.
pub(super) struct Coverage {
    pub functions: BTreeMap<u64, Function>,
    pub code: Ranges,
    /// Addresses that are reached although nothing describes them: where to look on.
    pub roots: Vec<u64>,
}

impl Coverage {
    /// What the file says of its code.
    pub fn of(file: &ObjectFile, object: &Object) -> Coverage {
        let place = |address: u64| address.wrapping_add(object.bias);
        let (mut functions, mut described) = (BTreeMap::new(), Vec::new());
        for range in frames::function_ranges(file) {
            let range = place(range.start)..place(range.end);
            if let Some(range) = clipped(object, range) {
                functions.insert(range.start, Function { length_bytes: range.end - range.start, name: None });
                described.push(range);
            }
        }
        // What a library exports is not all that is in it.
        let mut is_described = !described.is_empty();
        for symbol in file.functions() {
            let start = place(symbol.address);
            let Some(range) = clipped(object, start..start.saturating_add(symbol.length_bytes.max(1))) else {
                continue;
            };
            is_described |= symbol.is_of_full_table && symbol.length_bytes > 0;
            let length_bytes = if symbol.length_bytes > 0 { range.end - range.start } else { 0 };
            let function = functions.entry(start).or_insert(Function { length_bytes, name: None });
            function.length_bytes = function.length_bytes.max(length_bytes);
            let name = String::from_utf8_lossy(symbol.name);
            if function.name.as_deref().is_none_or(|other| (name.len(), &*name) < (other.len(), other)) {
                function.name = Some(name.into_owned());
            }
            described.push(start..start + length_bytes);
        }
        let mut code: Ranges = described.into_iter().collect();
        let whole = executable(file, object);
        let bytes = |ranges: &Ranges| ranges.iter().map(|range| range.end - range.start).sum::<u64>() as f64;
        if !is_described || bytes(&code) < bytes(&whole) * DESCRIBED_MIN {
            code = whole;
        }
        code = code.iter().cloned().chain(padding(object, &code)).collect();
        let mut roots: Vec<u64> = starting_points(file).into_iter().map(place).collect();
        roots.extend(functions.iter().filter(|(_, function)| function.length_bytes == 0).map(|(start, _)| *start));
        roots.retain(|root| object.code_at(*root).is_some());
        Coverage { functions, code, roots }
    }

    /// A place in the words of a programmer: object, function, offset in hexadecimal.
    pub fn place_of(&self, object: &Object, address: u64) -> String {
        let function = self.functions.range(..=address).next_back();
        match function.filter(|(start, function)| address - *start < function.length_bytes.max(1)) {
            Some((start, function)) => {
                format!("{}+{:#x}", self.name_of(object, *start, function), address - start)
            }
            None => format!("{}: {:#x}", object.name, address.wrapping_sub(object.bias)),
        }
    }

    /// What a function is called in the image: the object's name and the function's own, or its address in the file.
    pub fn name_of(&self, object: &Object, start: u64, function: &Function) -> String {
        match &function.name {
            Some(name) => format!("{}: {name}", object.name),
            None => format!("{}: {:#x}", object.name, start.wrapping_sub(object.bias)),
        }
    }
}

/// The part of a range that lies in the executable segment that it starts in.
fn clipped(object: &Object, range: Range<u64>) -> Option<Range<u64>> {
    let segment = object.code_at(range.start)?;
    Some(range.start..range.end.min(segment.content().end)).filter(|range| !range.is_empty())
}

/// All that is executable: by sections where there are any, because a segment may hold headers and constants too.
fn executable(file: &ObjectFile, object: &Object) -> Ranges {
    let sections: Ranges = file
        .executable_sections()
        .into_iter()
        .filter_map(|range| clipped(object, range.start.wrapping_add(object.bias)..range.end.wrapping_add(object.bias)))
        .collect();
    match sections.is_empty() {
        false => sections,
        true => object.executable().map(|segment| segment.content()).collect(),
    }
}

/// What is between functions and only fills up: nothing can go wrong there, and it is room for a jump.
fn padding(object: &Object, code: &Ranges) -> Vec<Range<u64>> {
    let mut found = Vec::new();
    for segment in object.executable() {
        for gap in code.gaps(segment.content()) {
            let bytes = &segment.data[(gap.start - segment.address) as usize..(gap.end - segment.address) as usize];
            if is_padding(bytes) {
                found.push(gap);
            }
        }
    }
    found
}

/// Whether bytes are NOP instructions, INT3 and zeros alone.
fn is_padding(bytes: &[u8]) -> bool {
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        if *byte == 0 {
            at += 1;
            continue;
        }
        let decoded = Decoder::new(64, &bytes[at..], DecoderOptions::NONE).decode();
        if !matches!(decoded.mnemonic(), Mnemonic::Nop | Mnemonic::Int3) {
            return false;
        }
        at += decoded.len();
    }
    true
}

/// What the loader or the kernel calls by address, in the file's addresses: the entry point, initialisers and
/// finalisers, and functions that choose an implementation.
fn starting_points(file: &ObjectFile) -> Vec<u64> {
    let mut points = vec![file.entry()];
    points.extend([elf::DT_INIT, elf::DT_FINI].into_iter().filter_map(|tag| file.dynamic(tag)));
    let mut addends = HashMap::new();
    for relocation in relocations(file).unwrap_or_default() {
        let addend = relocation.r_addend(ENDIAN) as u64;
        match relocation.r_type(ENDIAN, false) {
            elf::R_X86_64_IRELATIVE => points.push(addend),
            elf::R_X86_64_RELATIVE => {
                addends.insert(relocation.r_offset(ENDIAN), addend);
            }
            _ => {}
        }
    }
    let arrays = [
        (elf::DT_PREINIT_ARRAY, elf::DT_PREINIT_ARRAYSZ),
        (elf::DT_INIT_ARRAY, elf::DT_INIT_ARRAYSZ),
        (elf::DT_FINI_ARRAY, elf::DT_FINI_ARRAYSZ),
    ];
    for (start, bytes) in arrays {
        let (Some(start), Some(bytes)) = (file.dynamic(start), file.dynamic(bytes)) else { continue };
        let Some(content) = file.bytes_at(start) else { continue };
        let pointers = content.chunks_exact(POINTER_BYTES as usize).take((bytes / POINTER_BYTES) as usize);
        for (index, pointer) in (0..).zip(pointers) {
            let in_place = pointer.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            points.push(*addends.get(&(start + index * POINTER_BYTES)).unwrap_or(&in_place));
        }
    }
    points
}

fn relocations<'a>(file: &ObjectFile<'a>) -> Option<&'a [Rela64<LittleEndian>]> {
    let bytes = file.bytes_at(file.dynamic(elf::DT_RELA)?)?;
    let length = usize::try_from(file.dynamic(elf::DT_RELASZ)?).ok()?;
    let count = length.min(bytes.len()) / size_of::<Rela64<LittleEndian>>();
    pod::slice_from_bytes(bytes, count).ok().map(|(relocations, _)| relocations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_what_does_nothing() {
        // nop word [rax+rax+0x0]; xchg ax, ax; int3; zeros
        assert!(is_padding(&[0x66, 0x0f, 0x1f, 0x44, 0, 0, 0x66, 0x90, 0xcc, 0, 0, 0]));
        assert!(is_padding(&[]));
        // A table, and an instruction that is cut off.
        assert!(!is_padding(&[0x90, 1, 2, 3]));
        assert!(!is_padding(&[0x90, 0x0f]));
    }
}
