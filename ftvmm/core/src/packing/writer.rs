//! Writes the image: an ELF executable with the segments, the two notes of Solo5, and symbols.

use std::ops::Range;

use object::Endianness;
use object::elf;
use object::write::elf::{FileHeader, ProgramHeader, Sym, Writer};

use super::object::PAGE_BYTES;
use crate::image::{Manifest, Segment, abi_note, manifest_note, thread_record_note};

const INTERPRETER: &[u8] = b"/nonexistent/solo5/\0";
/// The notes' own alignments are 4 and 8 bytes.
const NOTE_ALIGNMENT: u64 = 8;

/// A function or a range of data, for the symbol table.
pub(super) struct Symbol {
    pub name: String,
    pub range: Range<u64>,
    pub is_function: bool,
}

/// An image, ready to be written.
pub(super) struct Output {
    pub entry: u64,
    pub manifest: Manifest,
    /// The guest address of the personality's record of the threads.
    pub thread_record: Option<u64>,
    /// None of them overlap.
    pub segments: Vec<Segment>,
    pub symbols: Vec<Symbol>,
}

impl Output {
    /// The file; the same content gives the same bytes.
    ///
    /// # Errors
    /// What the writer says of tables that are too large for the format.
    pub fn write(&self) -> Result<Vec<u8>, object::write::Error> {
        let mut file = Vec::new();
        let mut writer = Writer::new_single_phase(Endianness::Little, true, &mut file);
        writer.write_file_header(&FileHeader {
            e_type: elf::ET_EXEC,
            e_machine: elf::EM_X86_64,
            e_entry: self.entry,
            ..FileHeader::default()
        })?;
        let mut notes = vec![
            (elf::PT_INTERP, INTERPRETER.to_vec()),
            (elf::PT_NOTE, abi_note()),
            (elf::PT_NOTE, manifest_note(&self.manifest)),
        ];
        notes.extend(self.thread_record.map(|address| (elf::PT_NOTE, thread_record_note(address))));
        writer.write_program_headers_placeholder((notes.len() + self.segments.len()) as u32);
        let mut headers = Vec::new();
        for (kind, content) in &notes {
            let offset = writer.write_align(NOTE_ALIGNMENT);
            writer.write(content);
            let length = content.len() as u64;
            headers.push(header(*kind, elf::PF_R, offset, 0, length..length, NOTE_ALIGNMENT));
        }
        let mut segments: Vec<&Segment> = self.segments.iter().collect();
        segments.sort_unstable_by_key(|segment| segment.address);
        for segment in segments {
            // As the ABI wants it: equal to the address, but for whole pages.
            let ahead = segment.address.wrapping_sub(writer.offset()) % PAGE_BYTES;
            let offset = writer.offset() + ahead;
            writer.pad_until(offset);
            writer.write(&segment.data);
            let mut flags = elf::PF_R;
            if segment.writable {
                flags |= elf::PF_W;
            }
            if segment.executable {
                flags |= elf::PF_X;
            }
            let lengths = segment.data.len() as u64..segment.memory_bytes;
            headers.push(header(elf::PT_LOAD, flags, offset, segment.address, lengths, PAGE_BYTES));
        }
        self.write_symbols(&mut writer)?;
        let mut start = Vec::new();
        writer.write_headers_to(&mut start, &headers)?;
        file[..start.len()].copy_from_slice(&start);
        Ok(file)
    }

    fn write_symbols<'a>(
        &'a self,
        writer: &mut Writer<'a, object::write::elf::SinglePhase>,
    ) -> Result<(), object::write::Error> {
        writer.write_null_symbol();
        for symbol in &self.symbols {
            let name = writer.add_string(symbol.name.as_bytes());
            let kind = if symbol.is_function { elf::STT_FUNC } else { elf::STT_OBJECT };
            writer.write_symbol(&Sym {
                section: None,
                st_name: writer.string_offset(Some(name)),
                st_info: elf::SymbolInfo::new(elf::STB_LOCAL, kind),
                st_other: elf::SymbolOther::default(),
                st_shndx: elf::SHN_ABS,
                st_value: symbol.range.start,
                st_size: symbol.range.end - symbol.range.start,
            });
        }
        writer.write_strtab()?;
        writer.write_shstrtab()?;
        writer.write_null_section_header();
        writer.write_strtab_section_header();
        writer.write_symtab_section_header(self.symbols.len() as u32 + 1);
        writer.write_shstrtab_section_header();
        Ok(())
    }
}

/// `lengths` are those in the file and in memory.
fn header(
    kind: elf::ProgramType,
    flags: elf::ProgramFlags,
    offset: u64,
    address: u64,
    lengths: Range<u64>,
    alignment: u64,
) -> ProgramHeader {
    ProgramHeader {
        p_type: kind,
        p_flags: flags,
        p_offset: offset,
        p_vaddr: address,
        p_paddr: address,
        p_filesz: lengths.start,
        p_memsz: lengths.end,
        p_align: alignment,
    }
}
