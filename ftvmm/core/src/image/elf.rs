//! ELF64 headers and PT_LOAD segments: System V ABI, chapters 4 and 5.

use super::{IMAGE_ADDRESS_END, IMAGE_ADDRESS_MIN, ImageError, Segment};

/// Where the entry point stands in the ELF header.
pub(super) const ENTRY_OFFSET: u64 = 24;
const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
/// Solo5's own linker scripts make six or seven.
const PROGRAM_HEADERS_MAX: u16 = 64;

const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
pub(super) const PT_NOTE: u32 = 4;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const INTERPRETER: &[u8] = b"/nonexistent/solo5/";

pub(super) struct Headers {
    pub entry: u64,
    pub program: Vec<ProgramHeader>,
}

pub(super) struct ProgramHeader {
    /// Where this header itself is in the file.
    pub at: u64,
    pub kind: u32,
    pub flags: u32,
    pub offset: u64,
    /// Guest memory is mapped one to one, so this has to be the same as `address`.
    pub virtual_address: u64,
    pub address: u64,
    pub file_bytes: u64,
    pub memory_bytes: u64,
}

/// A little-endian field of the file.
pub(super) fn field<const N: usize>(file: &[u8], offset: u64, name: &str) -> Result<[u8; N], ImageError> {
    usize::try_from(offset)
        .ok()
        .and_then(|start| file.get(start..start.checked_add(N)?))
        .and_then(|slice| slice.try_into().ok())
        .ok_or_else(|| ImageError::at(offset, format!("the file ends before its {name}")))
}

fn u16_at(file: &[u8], offset: u64, name: &str) -> Result<u16, ImageError> {
    field(file, offset, name).map(u16::from_le_bytes)
}

pub(super) fn u32_at(file: &[u8], offset: u64, name: &str) -> Result<u32, ImageError> {
    field(file, offset, name).map(u32::from_le_bytes)
}

pub(super) fn u64_at(file: &[u8], offset: u64, name: &str) -> Result<u64, ImageError> {
    field(file, offset, name).map(u64::from_le_bytes)
}

impl Headers {
    pub(super) fn parse(file: &[u8]) -> Result<Headers, ImageError> {
        if field::<4>(file, 0, "ELF magic")? != *b"\x7fELF" {
            return Err(ImageError::at(0, "this is no ELF file"));
        }
        let expect = |found: u64, wanted: u64, offset: u64, what: &str| match found == wanted {
            true => Ok(()),
            false => Err(ImageError::at(offset, format!("{what} is {found}, not {wanted}"))),
        };
        let [class, data, version] = field(file, 4, "ELF identification")?;
        expect(class.into(), 2, 4, "the ELF class (2 is 64-bit)")?;
        expect(data.into(), 1, 5, "the byte order (1 is little-endian)")?;
        expect(version.into(), 1, 6, "the ELF version")?;
        expect(u16_at(file, 16, "type")?.into(), 2, 16, "the ELF type (2 is a static executable)")?;
        expect(u16_at(file, 18, "machine")?.into(), 62, 18, "the machine (62 is x86-64)")?;
        let entry = u64_at(file, ENTRY_OFFSET, "entry point")?;
        let table = u64_at(file, 32, "program header offset")?;
        expect(u16_at(file, 52, "header size")?.into(), HEADER_BYTES as u64, 52, "the ELF header's size")?;
        let size = u16_at(file, 54, "program header size")?;
        expect(size.into(), PROGRAM_HEADER_BYTES as u64, 54, "the program headers' size")?;
        let count = u16_at(file, 56, "program header count")?;
        if count == 0 || count > PROGRAM_HEADERS_MAX {
            let reason = format!("{count} program headers, where 1 to {PROGRAM_HEADERS_MAX} are allowed");
            return Err(ImageError::at(56, reason));
        }
        let program = (0..u64::from(count))
            .map(|index| {
                let at = table
                    .checked_add(index * PROGRAM_HEADER_BYTES as u64)
                    .ok_or_else(|| ImageError::at(32, "the program header offset overflows"))?;
                ProgramHeader::parse(file, at)
            })
            .collect::<Result<_, _>>()?;
        Ok(Headers { entry, program })
    }
}

impl ProgramHeader {
    fn parse(file: &[u8], at: u64) -> Result<ProgramHeader, ImageError> {
        // One look at the last byte, so that no addition below can overflow.
        at.checked_add(PROGRAM_HEADER_BYTES as u64)
            .filter(|end| *end <= file.len() as u64)
            .ok_or_else(|| ImageError::at(at, "a program header is outside of the file"))?;
        let header = ProgramHeader {
            at,
            kind: u32_at(file, at, "segment type")?,
            flags: u32_at(file, at + 4, "segment flags")?,
            offset: u64_at(file, at + 8, "segment offset")?,
            virtual_address: u64_at(file, at + 16, "segment virtual address")?,
            address: u64_at(file, at + 24, "segment address")?,
            file_bytes: u64_at(file, at + 32, "segment file size")?,
            memory_bytes: u64_at(file, at + 40, "segment memory size")?,
        };
        let inside = header.offset.checked_add(header.file_bytes).is_some_and(|end| end <= file.len() as u64);
        if !inside && matches!(header.kind, PT_LOAD | PT_NOTE | PT_INTERP) {
            return Err(ImageError::at(at + 8, "the segment's content is outside of the file"));
        }
        Ok(header)
    }

    pub(super) fn content<'a>(&self, file: &'a [u8]) -> &'a [u8] {
        // `parse` has checked the bounds of the kinds whose content is looked at.
        &file[self.offset as usize..(self.offset + self.file_bytes) as usize]
    }
}

pub(super) fn load_segments(file: &[u8], headers: &Headers) -> Result<Vec<Segment>, ImageError> {
    if let Some(interpreter) = headers.program.iter().find(|header| header.kind == PT_INTERP)
        && interpreter.content(file).split(|byte| *byte == 0).next() != Some(INTERPRETER)
    {
        return Err(ImageError::at(interpreter.offset, "the interpreter is not /nonexistent/solo5/"));
    }
    let mut loads: Vec<&ProgramHeader> =
        headers.program.iter().filter(|header| header.kind == PT_LOAD && header.memory_bytes > 0).collect();
    loads.sort_by_key(|header| header.address);
    let mut segments: Vec<Segment> = Vec::with_capacity(loads.len());
    for header in loads {
        let segment = load_segment(file, header)?;
        if segments.last().is_some_and(|previous| previous.end() > segment.address) {
            return Err(ImageError::at(
                header.at + 24,
                format!("the segment at {:#x} overlaps another", header.address),
            ));
        }
        segments.push(segment);
    }
    match segments.is_empty() {
        true => Err(ImageError::at(56, "there is no segment to load")),
        false => Ok(segments),
    }
}

fn load_segment(file: &[u8], header: &ProgramHeader) -> Result<Segment, ImageError> {
    if header.virtual_address != header.address {
        let reason = format!(
            "the segment's virtual address {:#x} is not its physical address {:#x}",
            header.virtual_address, header.address
        );
        return Err(ImageError::at(header.at + 16, reason));
    }
    let end = header.address.checked_add(header.memory_bytes).filter(|end| *end <= IMAGE_ADDRESS_END);
    if header.address < IMAGE_ADDRESS_MIN || end.is_none() {
        let reason = format!(
            "the segment at {:#x} is outside of {IMAGE_ADDRESS_MIN:#x} to {IMAGE_ADDRESS_END:#x}",
            header.address
        );
        return Err(ImageError::at(header.at + 24, reason));
    }
    if header.file_bytes > header.memory_bytes {
        return Err(ImageError::at(header.at + 32, "the segment has more bytes in the file than in memory"));
    }
    let (writable, executable) = (header.flags & PF_W != 0, header.flags & PF_X != 0);
    if writable && executable {
        let reason = format!("the segment at {:#x} is both writable and executable", header.address);
        return Err(ImageError::at(header.at + 4, reason));
    }
    Ok(Segment {
        address: header.address,
        memory_bytes: header.memory_bytes,
        data: header.content(file).to_vec(),
        writable,
        executable,
    })
}
