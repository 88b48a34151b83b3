//! Where functions lie, by what a stack is unwound with: `.eh_frame_hdr` lists the entries (FDEs) of `.eh_frame`.
//!
//! Linux Standard Base Core Specification 5.0, chapter 10.6 (Exception Frames); DWARF 5, section 6.4.1. Programs keep
//! these sections when they are stripped, which makes them the best map of their code that there is.

use std::collections::HashMap;
use std::ops::Range;

use object::elf;

use super::object::ObjectFile;

const VERSION: u8 = 1;
/// DW_EH_PE_udata4: how the header counts its entries.
const COUNT_ENCODING: u8 = 0x03;
/// DW_EH_PE_datarel and DW_EH_PE_sdata4: how the header's table holds addresses. No linker writes another one.
const TABLE_ENCODING: u8 = 0x3b;
/// The low half of an encoding is the format of the number.
const FORMAT_MASK: u8 = 0x0f;
const HEADER_BYTES: usize = 12;
const ENTRY_BYTES: usize = 8;
/// A length that says that a longer one follows; no function's entry needs that.
const LONG: u32 = u32::MAX;
/// Length and identifier, in front of what an entry says.
const ENTRY_HEAD_BYTES: u64 = 8;

/// The ranges of the functions that the header lists, in the file's own addresses; empty where there is no header.
pub(super) fn function_ranges(file: &ObjectFile) -> Vec<Range<u64>> {
    let mut encodings = HashMap::new();
    listed(file).unwrap_or_default().into_iter().filter_map(|one| range_of(file, one, &mut encodings)).collect()
}

/// A function's start, and where its entry lies.
struct Listed {
    function: u64,
    entry: u64,
}

fn listed(file: &ObjectFile) -> Option<Vec<Listed>> {
    let header = file.address_of(elf::PT_GNU_EH_FRAME)?;
    let bytes = file.bytes_at(header)?;
    let [version, frames, count, table] = *bytes.first_chunk()?;
    // The pointer to `.eh_frame` has 4 bytes in each format that a 4-byte count follows directly.
    let is_known = frames & FORMAT_MASK == TABLE_ENCODING & FORMAT_MASK || frames & FORMAT_MASK == COUNT_ENCODING;
    if version != VERSION || !is_known || count != COUNT_ENCODING || table != TABLE_ENCODING {
        return None;
    }
    let entries = u32::from_le_bytes(*bytes.get(8..)?.first_chunk()?) as usize;
    let table = bytes.get(HEADER_BYTES..)?.chunks_exact(ENTRY_BYTES).take(entries);
    let relative = |bytes: &[u8]| {
        let offset = bytes.first_chunk().map_or(0, |bytes| i32::from_le_bytes(*bytes));
        header.wrapping_add_signed(offset.into())
    };
    Some(table.map(|one| Listed { function: relative(one), entry: relative(&one[4..]) }).collect())
}

/// The range of one function; `encodings` are those of the entries' common parts (CIEs) seen so far.
fn range_of(file: &ObjectFile, listed: Listed, encodings: &mut HashMap<u64, u8>) -> Option<Range<u64>> {
    let bytes = file.bytes_at(listed.entry)?;
    let length = u32::from_le_bytes(*bytes.first_chunk()?);
    if length == LONG {
        return None;
    }
    let back = u32::from_le_bytes(*bytes.get(4..)?.first_chunk()?);
    let common = (listed.entry + 4).checked_sub(back.into())?;
    let encoding = match encodings.get(&common) {
        Some(encoding) => *encoding,
        None => {
            let encoding = address_encoding(file.bytes_at(common)?)?;
            encodings.insert(common, encoding);
            encoding
        }
    };
    // The start in the same format stands in front of the length.
    let format = encoding & FORMAT_MASK;
    let width = match format {
        0x02 | 0x0a => 2,
        0x03 | 0x0b => 4,
        0x00 | 0x04 | 0x0c => 8,
        _ => return None,
    };
    let range = bytes.get(ENTRY_HEAD_BYTES as usize + width..)?.get(..width)?;
    let mut wide = [0; 8];
    wide[..width].copy_from_slice(range);
    let end = listed.function.checked_add(u64::from_le_bytes(wide))?;
    Some(listed.function..end)
}

/// How entries with this common part hold addresses: augmentation `R`.
fn address_encoding(common: &[u8]) -> Option<u8> {
    let mut reader = Reader { bytes: common.get(ENTRY_HEAD_BYTES as usize..)? };
    let version = reader.byte()?;
    let augmentation = reader.until_zero()?;
    reader.skip_number()?;
    reader.skip_number()?;
    // The register that holds the return address: a byte in version 1, and a small number later.
    match version {
        1 => reader.byte().map(drop)?,
        _ => reader.skip_number()?,
    }
    let Some(letters) = augmentation.strip_prefix(b"z") else {
        // Absolute addresses.
        return Some(0);
    };
    reader.skip_number()?;
    for letter in letters {
        match letter {
            b'R' => return reader.byte(),
            b'L' => drop(reader.byte()?),
            b'P' => {
                let width = match reader.byte()? & FORMAT_MASK {
                    0x02 | 0x0a => 2,
                    0x03 | 0x0b => 4,
                    0x00 | 0x04 | 0x0c => 8,
                    _ => return None,
                };
                reader.bytes = reader.bytes.get(width..)?;
            }
            _ => {}
        }
    }
    Some(0)
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    fn until_zero(&mut self) -> Option<&'a [u8]> {
        let length = self.bytes.iter().position(|byte| *byte == 0)?;
        let text = &self.bytes[..length];
        self.bytes = &self.bytes[length + 1..];
        Some(text)
    }

    /// A number in LEB128, signed or not.
    fn skip_number(&mut self) -> Option<()> {
        while self.byte()? & 0x80 != 0 {}
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A CIE: length, identifier, version, augmentation, two factors, the return address's register, and the data.
    fn common(version: u8, augmentation: &[u8], data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 8];
        bytes.push(version);
        bytes.extend(augmentation);
        bytes.extend([0, 1, 0x78, 16]);
        bytes.extend(data);
        bytes
    }

    #[test]
    fn the_encoding_of_addresses_is_found_behind_other_augmentations() {
        assert_eq!(address_encoding(&common(1, b"zR", &[1, 0x1b])), Some(0x1b));
        assert_eq!(address_encoding(&common(3, b"zRS", &[1, 0x1c])), Some(0x1c));
        assert_eq!(address_encoding(&common(1, b"zPLR", &[7, 0x9b, 1, 2, 3, 4, 0x1b, 0x03])), Some(0x03));
        assert_eq!(address_encoding(&common(1, b"", &[])), Some(0));
        assert_eq!(address_encoding(&common(1, b"zR", &[])), None);
    }
}
