//! What an image's sections and symbols tell about where code starts. Both are optional: a stripped image has neither.

use super::ImageError;
use super::elf::{field, u32_at, u64_at};

const SECTION_HEADER_BYTES: u64 = 64;
const SYMBOL_BYTES: u64 = 24;
const SHT_SYMTAB: u32 = 2;
const SHF_EXECINSTR: u64 = 4;
const STT_FUNC: u8 = 2;

/// The entry point, the starts of executable sections and of functions, in ascending order.
pub(super) fn code_starts(file: &[u8], entry: u64) -> Result<Vec<u64>, ImageError> {
    let mut starts = vec![entry];
    let table = u64_at(file, 40, "section header offset")?;
    let size = u64::from(u16::from_le_bytes(field(file, 58, "section header size")?));
    let count = u64::from(u16::from_le_bytes(field(file, 60, "section header count")?));
    if table == 0 || count == 0 {
        return Ok(starts);
    }
    if size != SECTION_HEADER_BYTES {
        return Err(ImageError::at(58, format!("the section headers' size is {size}, not {SECTION_HEADER_BYTES}")));
    }
    let inside = table.checked_add(count * size).is_some_and(|end| end <= file.len() as u64);
    if !inside {
        return Err(ImageError::at(40, "the section headers are outside of the file"));
    }
    for at in (0..count).map(|index| table + index * size) {
        let kind = u32_at(file, at + 4, "section type")?;
        let flags = u64_at(file, at + 8, "section flags")?;
        if flags & SHF_EXECINSTR != 0 {
            starts.push(u64_at(file, at + 16, "section address")?);
        }
        if kind == SHT_SYMTAB {
            function_starts(file, at, &mut starts)?;
        }
    }
    starts.sort_unstable();
    starts.dedup();
    Ok(starts)
}

fn function_starts(file: &[u8], header: u64, starts: &mut Vec<u64>) -> Result<(), ImageError> {
    let offset = u64_at(file, header + 24, "symbol table offset")?;
    let bytes = u64_at(file, header + 32, "symbol table size")?;
    if offset.checked_add(bytes).is_none_or(|end| end > file.len() as u64) {
        return Err(ImageError::at(header + 24, "the symbol table is outside of the file"));
    }
    for symbol in (0..bytes / SYMBOL_BYTES).map(|index| offset + index * SYMBOL_BYTES) {
        let [info] = field(file, symbol + 4, "symbol type")?;
        if info & 0xf == STT_FUNC {
            starts.push(u64_at(file, symbol + 8, "symbol address")?);
        }
    }
    Ok(())
}
