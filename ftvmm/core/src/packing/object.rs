//! A program, a dynamic loader or a shared library: what its ELF headers say, and its segments at their guest addresses.
//!
//! System V ABI, chapters 4 and 5, and its supplement for AMD64.

use object::LittleEndian;
use object::ReadRef as _;
use object::elf::{self, DynamicTag, FileHeader64, ProgramHeader64, ProgramType, Sym64, SymbolType};
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _, SectionHeader as _, SectionTable, Sym as _};
use std::ops::Range;

use super::error::{PackError, Refusal};
use crate::image::{IMAGE_ADDRESS_END, Segment};

pub(super) const ENDIAN: LittleEndian = LittleEndian;
pub(super) const PAGE_BYTES: u64 = 4096;
type Header = FileHeader64<LittleEndian>;
type Load = ProgramHeader64<LittleEndian>;

const SCRIPT_MAGIC: &[u8] = b"#!";
const CLASS_OFFSET: usize = 4;
/// What the dynamic loader reads of a file before it maps anything; it asks for more where the headers are longer.
const HEAD_BYTES_MIN: u64 = 4096;
/// What starts another process: a program that imports one of them may not get far.
const STARTS_PROCESSES: [&str; 12] = [
    "execl",
    "execle",
    "execlp",
    "execv",
    "execve",
    "execvp",
    "fork",
    "popen",
    "posix_spawn",
    "posix_spawnp",
    "system",
    "vfork",
];

/// An ELF file for x86-64 that can be loaded, before it has a place.
pub(super) struct ObjectFile<'a> {
    /// where it lies in the guest
    pub path: &'a str,
    pub bytes: &'a [u8],
    header: &'a Header,
    program: &'a [Load],
    dynamic: Vec<(DynamicTag, u64)>,
}

/// A symbol that names a function.
pub(super) struct FunctionSymbol<'a> {
    /// as in the file
    pub address: u64,
    /// 0 where it does not tell
    pub length_bytes: u64,
    pub name: &'a [u8],
    /// whether it is of the full table, which programs are stripped of
    pub is_of_full_table: bool,
}

impl<'a> ObjectFile<'a> {
    /// Looks at the headers.
    ///
    /// # Errors
    /// [`PackError::Object`] where this is no ELF file for x86-64 that can be loaded.
    pub fn parse(path: &'a str, bytes: &'a [u8]) -> Result<ObjectFile<'a>, PackError> {
        Self::parse_headers(path, bytes).map_err(|refusal| PackError::Object { path: path.to_owned(), refusal })
    }

    fn parse_headers(path: &'a str, bytes: &'a [u8]) -> Result<ObjectFile<'a>, Refusal> {
        if let Some(line) = bytes.strip_prefix(SCRIPT_MAGIC) {
            return Err(Refusal::Script { interpreter: script_interpreter(line), path: path.to_owned() });
        }
        if !bytes.starts_with(&elf::ELFMAG) {
            return Err(Refusal::NotElf);
        }
        if bytes.get(CLASS_OFFSET) == Some(&elf::ELFCLASS32.0) {
            return Err(Refusal::ThirtyTwoBit);
        }
        let header: &Header = bytes.read_at(0).map_err(|()| Refusal::Damaged("it ends before its ELF header"))?;
        let (kind, machine) = (header.e_type(ENDIAN), header.e_machine(ENDIAN));
        if machine != elf::EM_X86_64 {
            return Err(Refusal::Machine(machine.0));
        }
        if kind != elf::ET_EXEC && kind != elf::ET_DYN {
            return Err(Refusal::Kind(kind.0));
        }
        let program = header
            .program_headers(ENDIAN, bytes)
            .map_err(|_| Refusal::Damaged("its program headers are outside of the file"))?;
        let mut file = ObjectFile { path, bytes, header, program, dynamic: Vec::new() };
        for load in file.of_kind(elf::PT_LOAD) {
            let end =
                load.p_vaddr(ENDIAN).checked_add(load.p_memsz(ENDIAN)).and_then(|end| end.checked_add(PAGE_BYTES));
            if load.data(ENDIAN, bytes).is_err() || end.is_none() || load.p_filesz(ENDIAN) > load.p_memsz(ENDIAN) {
                return Err(Refusal::Damaged("a segment is outside of the file"));
            }
        }
        if file.loads().next().is_none() {
            return Err(Refusal::Damaged("it has no segment to load"));
        }
        let mut ends: Vec<Range<u64>> = file.loads().map(Self::extent).collect();
        ends.sort_unstable_by_key(|extent| extent.start);
        if ends.windows(2).any(|pair| pair[0].end > pair[1].start) {
            return Err(Refusal::Damaged("two of its segments overlap"));
        }
        if let Some(load) = file.of_kind(elf::PT_DYNAMIC).next() {
            let entries = load.dynamic(ENDIAN, bytes).ok().flatten();
            let entries = entries.ok_or(Refusal::Damaged("its dynamic section is outside of the file"))?;
            file.dynamic = entries
                .iter()
                .map(|entry| (entry.tag(ENDIAN), entry.val(ENDIAN)))
                .take_while(|(tag, _)| *tag != elf::DT_NULL)
                .collect();
        }
        Ok(file)
    }

    /// Makes sure that the code can be looked at once and for all.
    ///
    /// # Errors
    /// [`PackError::Object`] where a segment is writable and executable, or where code has to be relocated.
    pub fn check_code(&self) -> Result<(), PackError> {
        let refuse = |refusal| Err(PackError::Object { path: self.path.to_owned(), refusal });
        for load in self.loads() {
            let flags = load.p_flags(ENDIAN);
            if flags.contains(elf::PF_W) && flags.contains(elf::PF_X) {
                return refuse(Refusal::WritableAndExecutable(load.p_vaddr(ENDIAN)));
            }
        }
        let flags = elf::DynamicFlags(self.dynamic(elf::DT_FLAGS).unwrap_or(0));
        match self.dynamic(elf::DT_TEXTREL).is_some() || flags.contains(elf::DF_TEXTREL) {
            true => refuse(Refusal::TextRelocations),
            false => Ok(()),
        }
    }

    /// Whether it is linked at its addresses.
    pub fn is_fixed(&self) -> bool {
        self.header.e_type(ENDIAN) == elf::ET_EXEC
    }

    /// Whether it is there to be loaded by a program: not fixed, with a dynamic section, and not called a program.
    pub fn is_library(&self) -> bool {
        let flags = elf::DynamicFlags1(self.dynamic(elf::DT_FLAGS_1).unwrap_or(0));
        !self.is_fixed() && !self.dynamic.is_empty() && !flags.contains(elf::DF_1_PIE)
    }

    /// The dynamic loader that a program asks for.
    pub fn interpreter(&self) -> Option<&'a str> {
        let load = self.of_kind(elf::PT_INTERP).next()?;
        std::str::from_utf8(load.interpreter(ENDIAN, self.bytes).ok()??).ok()
    }

    /// Functions that start other processes, as far as the file asks a library for them.
    pub fn starts_processes(&self) -> Vec<&'static str> {
        let imported: Vec<&[u8]> = self
            .symbols(elf::SHT_DYNSYM)
            .filter(|(symbol, _)| symbol.st_shndx(ENDIAN) == elf::SHN_UNDEF)
            .map(|(_, name)| name)
            .collect();
        STARTS_PROCESSES.into_iter().filter(|name| imported.contains(&name.as_bytes())).collect()
    }

    /// The value of the first entry of that kind in the dynamic section.
    pub fn dynamic(&self, tag: DynamicTag) -> Option<u64> {
        self.dynamic.iter().find(|(found, _)| *found == tag).map(|(_, value)| *value)
    }

    /// Where the program starts, as in the file.
    pub fn entry(&self) -> u64 {
        self.header.e_entry(ENDIAN)
    }

    /// The addresses from the first page to behind the last one, as in the file.
    pub fn pages(&self) -> Range<u64> {
        let low = self.loads().map(|load| load.p_vaddr(ENDIAN)).min().unwrap_or(0);
        let high = self.loads().map(|load| Self::extent(load).end).max().unwrap_or(0);
        low & !(PAGE_BYTES - 1)..high.next_multiple_of(PAGE_BYTES)
    }

    /// What its first address has to be a multiple of, in bytes: a power of two of at least a page.
    pub fn alignment_bytes(&self) -> u64 {
        let largest = self.loads().map(|load| load.p_align(ENDIAN)).max().unwrap_or(0);
        largest.checked_next_power_of_two().unwrap_or(PAGE_BYTES).clamp(PAGE_BYTES, IMAGE_ADDRESS_END)
    }

    /// What the file holds from an address on, up to the end of the segment; addresses are the file's own.
    pub fn bytes_at(&self, address: u64) -> Option<&'a [u8]> {
        self.loads().find_map(|load| {
            let content = load.data(ENDIAN, self.bytes).ok()?;
            content.get(usize::try_from(address.checked_sub(load.p_vaddr(ENDIAN))?).ok()?..)
        })
    }

    /// The address of the first segment of that kind, as in the file.
    pub fn address_of(&self, kind: ProgramType) -> Option<u64> {
        self.of_kind(kind).next().map(|load| load.p_vaddr(ENDIAN))
    }

    /// Where executable sections lie, as in the file; there may be none.
    pub fn executable_sections(&self) -> Vec<Range<u64>> {
        let Some(sections) = self.sections() else { return Vec::new() };
        let executable = sections.iter().filter(|section| section.sh_flags(ENDIAN).contains(elf::SHF_EXECINSTR));
        executable
            .map(|section| {
                let address = section.sh_addr(ENDIAN);
                address..address.saturating_add(section.sh_size(ENDIAN))
            })
            .collect()
    }

    /// The functions that its symbols name.
    pub fn functions(&self) -> Vec<FunctionSymbol<'a>> {
        let is_function = |kind: SymbolType| kind == elf::STT_FUNC || kind == elf::STT_GNU_IFUNC;
        [elf::SHT_DYNSYM, elf::SHT_SYMTAB]
            .into_iter()
            .flat_map(|table| self.symbols(table).map(move |found| (table, found)))
            .filter(|(_, (symbol, _))| is_function(symbol.st_type()) && symbol.st_shndx(ENDIAN) != elf::SHN_UNDEF)
            .map(|(table, (symbol, name))| FunctionSymbol {
                address: symbol.st_value(ENDIAN),
                length_bytes: symbol.st_size(ENDIAN),
                name,
                is_of_full_table: table == elf::SHT_SYMTAB,
            })
            .collect()
    }

    fn symbols(&self, table: elf::SectionType) -> impl Iterator<Item = (&'a Sym64<LittleEndian>, &'a [u8])> {
        let symbols = self.sections().and_then(|sections| sections.symbols(ENDIAN, self.bytes, table).ok());
        let symbols = symbols.unwrap_or_default();
        symbols.symbols().iter().map(move |symbol| (symbol, symbols.symbol_name(ENDIAN, symbol).unwrap_or_default()))
    }

    fn sections(&self) -> Option<SectionTable<'a, Header>> {
        self.header.sections(ENDIAN, self.bytes).ok()
    }

    fn of_kind(&self, kind: ProgramType) -> impl Iterator<Item = &'a Load> + use<'a> {
        self.program.iter().filter(move |load| load.p_type(ENDIAN) == kind)
    }

    fn loads(&self) -> impl Iterator<Item = &'a Load> + use<'a> {
        self.of_kind(elf::PT_LOAD).filter(|load| load.p_memsz(ENDIAN) > 0)
    }

    fn extent(load: &Load) -> Range<u64> {
        load.p_vaddr(ENDIAN)..load.p_vaddr(ENDIAN) + load.p_memsz(ENDIAN)
    }

    /// The object with its first page at guest address `base`.
    ///
    /// # Errors
    /// [`PackError::Object`] where its program headers are in no segment, so that a program could not find them.
    pub fn placed(&self, base: u64) -> Result<Object, PackError> {
        let pages = self.pages();
        let bias = base.wrapping_sub(pages.start);
        let mut segments: Vec<Segment> = self
            .loads()
            .map(|load| {
                let flags = load.p_flags(ENDIAN);
                Segment {
                    address: load.p_vaddr(ENDIAN).wrapping_add(bias),
                    memory_bytes: load.p_memsz(ENDIAN),
                    data: load.data(ENDIAN, self.bytes).unwrap_or_default().to_vec(),
                    writable: flags.contains(elf::PF_W),
                    executable: flags.contains(elf::PF_X),
                }
            })
            .collect();
        segments.sort_unstable_by_key(|segment| segment.address);
        let table = self.header.e_phoff(ENDIAN);
        let holder = self.loads().find(|load| {
            let (offset, length) = load.file_range(ENDIAN);
            (offset..offset + length).contains(&table)
        });
        let Some(holder) = holder else {
            let refusal = Refusal::Damaged("its program headers are in no segment");
            return Err(PackError::Object { path: self.path.to_owned(), refusal });
        };
        Ok(Object {
            path: self.path.to_owned(),
            name: self.path.rsplit('/').next().unwrap_or(self.path).to_owned(),
            pages: base..base + (pages.end - pages.start),
            bias,
            entry: self.entry().wrapping_add(bias),
            headers: (table - holder.p_offset(ENDIAN) + holder.p_vaddr(ENDIAN)).wrapping_add(bias),
            header_count: self.program.len() as u64,
            head_bytes: self.head_bytes(),
            segments,
        })
    }

    /// How much the dynamic loader reads of the file itself: headers, and the notes behind them.
    fn head_bytes(&self) -> u64 {
        let headers = self.header.e_phoff(ENDIAN) + size_of_val(self.program) as u64;
        let notes = self.of_kind(elf::PT_NOTE).chain(self.of_kind(elf::PT_GNU_PROPERTY)).map(|load| {
            let (offset, length) = load.file_range(ENDIAN);
            offset.saturating_add(length)
        });
        let needed = notes.chain([headers, HEAD_BYTES_MIN]).filter(|end| *end <= self.bytes.len() as u64).max();
        needed.unwrap_or(self.bytes.len() as u64)
    }
}

/// Whom a script is for: the first word of its first line, or the second where that is `env`.
fn script_interpreter(line: &[u8]) -> String {
    let line = String::from_utf8_lossy(line.split(|byte| *byte == b'\n').next().unwrap_or_default()).into_owned();
    let mut words = line.split_whitespace();
    let first = words.next().unwrap_or_default();
    let of_env = words.next().filter(|_| first.ends_with("/env"));
    of_env.unwrap_or(first).to_owned()
}

/// An object at its place.
pub(super) struct Object {
    /// where it lies in the guest's file system
    pub path: String,
    /// the last part of it
    pub name: String,
    /// guest addresses from its first to behind its last page
    pub pages: Range<u64>,
    /// what is added to the file's addresses
    pub bias: u64,
    /// guest address
    pub entry: u64,
    /// the guest address of its program headers
    pub headers: u64,
    pub header_count: u64,
    /// how much of the file the dynamic loader reads by itself
    pub head_bytes: u64,
    /// in ascending order
    pub segments: Vec<Segment>,
}

impl Object {
    /// The executable segment whose content an address lies in.
    pub fn code_at(&self, address: u64) -> Option<&Segment> {
        self.executable().find(|segment| segment.content().contains(&address))
    }

    /// The executable segments.
    pub fn executable(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|segment| segment.executable)
    }

    /// The bytes from a guest address to the end of the segment that holds it.
    pub fn bytes_at(&self, address: u64) -> Option<&[u8]> {
        let segment = self.segments.iter().find(|segment| segment.content().contains(&address))?;
        segment.data.get((address - segment.address) as usize..)
    }
}
