//! ELF64: headers, segments, and where sections and symbols say that code starts. System V ABI, chapters 4 and 5.
//!
//! The tables are read by `object`, in place and with every bound checked; what an image may hold is said here.

use std::mem::{offset_of, size_of};

use object::elf::{self, FileHeader64, ProgramHeader64, ProgramType, SymbolType};
use object::read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _, SectionTable, Sym as _};
use object::{LittleEndian, ReadRef as _};

use super::{Function, Functions, IMAGE_ADDRESS_END, IMAGE_ADDRESS_MIN, ImageError, Ranges, Segment};

type Header = FileHeader64<LittleEndian>;
type Load = ProgramHeader64<LittleEndian>;

const ENDIAN: LittleEndian = LittleEndian;
/// Solo5's own linker scripts make six or seven; each library of a packed Linux program takes four, and one that loads
/// modules at run time (Python) has some hundred.
const PROGRAM_HEADERS_MAX: u16 = 8192;
const INTERPRETER: &[u8] = b"/nonexistent/solo5/";

/// A static ELF64 executable for x86-64, its headers looked at.
pub(super) struct Elf<'a> {
    file: &'a [u8],
    header: &'a Header,
    program: &'a [Load],
}

/// A part of the file that a program header names.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    pub offset: u64,
    pub end: u64,
}

impl<'a> Elf<'a> {
    pub fn parse(file: &'a [u8]) -> Result<Elf<'a>, ImageError> {
        if !file.starts_with(&elf::ELFMAG) {
            return Err(ImageError::at(0, "this is no ELF file"));
        }
        let header: &Header =
            file.read_at(0).map_err(|()| ImageError::at(file.len() as u64, "the file ends before its ELF header"))?;
        let expect = |found: u64, wanted: u64, offset: usize, what: &str| match found == wanted {
            true => Ok(()),
            false => Err(ImageError::at(offset as u64, format!("{what} is {found}, not {wanted}"))),
        };
        let ident = &header.e_ident;
        expect(ident.class.0.into(), elf::ELFCLASS64.0.into(), 4, "the ELF class (2 is 64-bit)")?;
        expect(ident.data.0.into(), elf::ELFDATA2LSB.0.into(), 5, "the byte order (1 is little-endian)")?;
        expect(ident.version.0.into(), elf::EV_CURRENT.0.into(), 6, "the ELF version")?;
        let (kind, machine) = (header.e_type(ENDIAN).0, header.e_machine(ENDIAN).0);
        let at = offset_of!(Header, e_type);
        expect(kind.into(), elf::ET_EXEC.0.into(), at, "the ELF type (2 is a static executable)")?;
        let at = offset_of!(Header, e_machine);
        expect(machine.into(), elf::EM_X86_64.0.into(), at, "the machine (62 is x86-64)")?;
        let sizes = [
            (header.e_ehsize(ENDIAN), size_of::<Header>(), offset_of!(Header, e_ehsize), "the ELF header's size"),
            (
                header.e_phentsize(ENDIAN),
                size_of::<Load>(),
                offset_of!(Header, e_phentsize),
                "the program headers' size",
            ),
        ];
        for (found, wanted, offset, what) in sizes {
            expect(found.into(), wanted as u64, offset, what)?;
        }
        let count = header.e_phnum(ENDIAN);
        if count == 0 || count > PROGRAM_HEADERS_MAX {
            let reason = format!("{count} program headers, where 1 to {PROGRAM_HEADERS_MAX} are allowed");
            return Err(ImageError::at(offset_of!(Header, e_phnum) as u64, reason));
        }
        let program = file.read_slice_at(header.e_phoff(ENDIAN), count.into()).map_err(|()| {
            ImageError::at(offset_of!(Header, e_phoff) as u64, "a program header is outside of the file")
        })?;
        let elf = Elf { file, header, program };
        for (index, load) in program.iter().enumerate() {
            let is_read = matches!(load.p_type(ENDIAN), elf::PT_LOAD | elf::PT_NOTE | elf::PT_INTERP);
            if is_read && load.data(ENDIAN, file).is_err() {
                let at = elf.at(index, offset_of!(Load, p_offset));
                return Err(ImageError::at(at, "the segment's content is outside of the file"));
            }
        }
        Ok(elf)
    }

    pub fn entry(&self) -> u64 {
        self.header.e_entry(ENDIAN)
    }

    /// Where the entry point stands in the file.
    pub const fn entry_offset() -> u64 {
        offset_of!(Header, e_entry) as u64
    }

    /// The note segments.
    pub fn notes(&self) -> impl Iterator<Item = Extent> {
        self.of_kind(elf::PT_NOTE).map(|(_, load)| {
            let (offset, length) = load.file_range(ENDIAN);
            Extent { offset, end: offset + length }
        })
    }

    fn of_kind(&self, kind: ProgramType) -> impl Iterator<Item = (usize, &'a Load)> {
        self.program.iter().enumerate().filter(move |(_, load)| load.p_type(ENDIAN) == kind)
    }

    /// Where a field of a program header stands in the file.
    fn at(&self, index: usize, field: usize) -> u64 {
        self.header.e_phoff(ENDIAN) + (index * size_of::<Load>() + field) as u64
    }

    /// What is to be loaded, in ascending order, without overlap.
    pub fn segments(&self) -> Result<Vec<Segment>, ImageError> {
        for (index, load) in self.of_kind(elf::PT_INTERP) {
            let name = load.data(ENDIAN, self.file).unwrap_or_default().split(|byte| *byte == 0).next();
            if name != Some(INTERPRETER) {
                let at = self.at(index, offset_of!(Load, p_offset));
                return Err(ImageError::at(at, "the interpreter is not /nonexistent/solo5/"));
            }
        }
        let mut loads: Vec<_> = self.of_kind(elf::PT_LOAD).filter(|(_, load)| load.p_memsz(ENDIAN) > 0).collect();
        loads.sort_by_key(|(_, load)| load.p_paddr(ENDIAN));
        let mut segments: Vec<Segment> = Vec::with_capacity(loads.len());
        for (index, load) in loads {
            let segment = self.segment(index, load)?;
            if segments.last().is_some_and(|previous| previous.end() > segment.address) {
                let reason = format!("the segment at {:#x} overlaps another", segment.address);
                return Err(ImageError::at(self.at(index, offset_of!(Load, p_paddr)), reason));
            }
            segments.push(segment);
        }
        match segments.is_empty() {
            true => Err(ImageError::at(offset_of!(Header, e_phnum) as u64, "there is no segment to load")),
            false => Ok(segments),
        }
    }

    fn segment(&self, index: usize, load: &Load) -> Result<Segment, ImageError> {
        let wrong = |field: usize, reason: String| Err(ImageError::at(self.at(index, field), reason));
        // Guest memory is mapped one to one.
        let (address, virtual_address) = (load.p_paddr(ENDIAN), load.p_vaddr(ENDIAN));
        if virtual_address != address {
            let reason =
                format!("the segment's virtual address {virtual_address:#x} is not its physical address {address:#x}");
            return wrong(offset_of!(Load, p_vaddr), reason);
        }
        let memory_bytes = load.p_memsz(ENDIAN);
        let end = address.checked_add(memory_bytes).filter(|end| *end <= IMAGE_ADDRESS_END);
        if address < IMAGE_ADDRESS_MIN || end.is_none() {
            let allowed = format!("{IMAGE_ADDRESS_MIN:#x} to {IMAGE_ADDRESS_END:#x}");
            return wrong(offset_of!(Load, p_paddr), format!("the segment at {address:#x} is outside of {allowed}"));
        }
        if load.p_filesz(ENDIAN) > memory_bytes {
            let reason = "the segment has more bytes in the file than in memory".into();
            return wrong(offset_of!(Load, p_filesz), reason);
        }
        let flags = load.p_flags(ENDIAN);
        let (writable, executable) = (flags.contains(elf::PF_W), flags.contains(elf::PF_X));
        if writable && executable {
            let reason = format!("the segment at {address:#x} is both writable and executable");
            return wrong(offset_of!(Load, p_flags), reason);
        }
        let data = load.data(ENDIAN, self.file).unwrap_or_default().to_vec();
        Ok(Segment { address, memory_bytes, data, writable, executable })
    }

    /// The functions that the symbols name, and where they say that data is; a stripped image has none.
    pub fn symbols(&self) -> Result<(Functions, Ranges), ImageError> {
        let symbols = self.sections()?.symbols(ENDIAN, self.file, elf::SHT_SYMTAB).map_err(wrong_sections)?;
        let of_kind = |kind: SymbolType| symbols.iter().filter(move |symbol| symbol.st_type() == kind);
        let functions = of_kind(elf::STT_FUNC).map(|symbol| Function {
            address: symbol.st_value(ENDIAN),
            length_bytes: symbol.st_size(ENDIAN),
            name: String::from_utf8_lossy(symbols.symbol_name(ENDIAN, symbol).unwrap_or_default()).into_owned(),
        });
        let data = of_kind(elf::STT_OBJECT).map(|symbol| {
            let address = symbol.st_value(ENDIAN);
            address..address.saturating_add(symbol.st_size(ENDIAN))
        });
        Ok((functions.collect(), data.collect()))
    }

    /// Where executable sections start; a stripped image may have none.
    pub fn section_starts(&self) -> Result<Vec<u64>, ImageError> {
        let sections = self.sections()?;
        let executable = sections.iter().filter(|section| section.sh_flags(ENDIAN).contains(elf::SHF_EXECINSTR));
        Ok(executable.map(|section| section.sh_addr(ENDIAN)).collect())
    }

    fn sections(&self) -> Result<SectionTable<'a, Header>, ImageError> {
        self.header.sections(ENDIAN, self.file).map_err(wrong_sections)
    }
}

fn wrong_sections(error: object::Error) -> ImageError {
    ImageError::at(offset_of!(Header, e_shoff) as u64, error.to_string())
}
