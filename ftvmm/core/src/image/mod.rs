//! The Solo5 image: an ELF64 executable with two notes. See `include/elf_abi.h` and `include/mft_abi.h` of Solo5.

mod elf;
mod manifest;
mod notes;
mod ranges;

pub use manifest::{DeviceKind, MANIFEST_ENTRIES_MAX, Manifest, ManifestEntry, Properties};
pub(crate) use notes::{abi_note, manifest_note, thread_record_note};
pub use ranges::Ranges;

use std::ops::Range;
use std::sync::Arc;

use thiserror::Error;

use self::elf::Elf;
use crate::log::Fingerprint;

/// The lowest address that an image may use.
pub const IMAGE_ADDRESS_MIN: u64 = 0x10_0000;
/// The end of the address space that a guest may have.
pub const IMAGE_ADDRESS_END: u64 = 1 << 32;

/// Bytes that are no image this VMM can run: what is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the image is not usable: at offset {offset:#x}: {reason}")]
pub struct ImageError {
    /// Bytes from the start of the file.
    pub offset: u64,
    pub reason: String,
}

impl ImageError {
    pub(crate) fn at(offset: u64, reason: impl Into<String>) -> ImageError {
        ImageError { offset, reason: reason.into() }
    }
}

/// A PT_LOAD segment with its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Guest physical, which is the guest's virtual address too.
    pub address: u64,
    /// At least as large as `data`; the rest is zero.
    pub memory_bytes: u64,
    pub data: Vec<u8>,
    pub writable: bool,
    pub executable: bool,
}

impl Segment {
    /// The first address behind the segment.
    pub fn end(&self) -> u64 {
        self.address + self.memory_bytes
    }

    /// The addresses of what the file holds of the segment.
    pub fn content(&self) -> Range<u64> {
        self.address..self.address + self.data.len() as u64
    }
}

/// A function that the image's symbols name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    pub address: u64,
    /// 0 where the symbol does not tell.
    pub length_bytes: u64,
    pub name: String,
}

/// The functions that an image's symbols name, in ascending order. A copy costs nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Functions(Arc<[Function]>);

impl FromIterator<Function> for Functions {
    fn from_iter<I: IntoIterator<Item = Function>>(functions: I) -> Functions {
        let mut functions: Vec<Function> = functions.into_iter().collect();
        functions.sort_by_key(|function| function.address);
        Functions(functions.into())
    }
}

impl Functions {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Function> {
        self.0.iter()
    }

    /// The function that an address lies in, and how far from its start.
    pub fn holding(&self, address: u64) -> Option<(&Function, u64)> {
        let index = self.0.partition_point(|function| function.address <= address).checked_sub(1)?;
        let (function, offset) = (&self.0[index], address - self.0[index].address);
        (function.length_bytes == 0 || offset < function.length_bytes).then_some((function, offset))
    }

    /// Whether a function of known length holds an address.
    pub fn holds_surely(&self, address: u64) -> bool {
        let before = &self.0[..self.0.partition_point(|function| function.address <= address)];
        // One start may have several names, of which not each tells the length.
        let start = before.last().map(|function| function.address);
        let mut nearest = before.iter().rev().take_while(|function| Some(function.address) == start);
        nearest.any(|function| address - function.address < function.length_bytes)
    }

    /// An address in the words of a programmer: its function, and the offset in hexadecimal.
    pub fn place_of(&self, address: u64) -> Option<String> {
        self.holding(address).map(|(function, offset)| format!("{}+{offset:#x}", function.name))
    }
}

/// A Solo5 hvt image, checked and taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub entry: u64,
    /// In ascending order, without overlap, none of them both writable and executable.
    pub segments: Vec<Segment>,
    pub manifest: Manifest,
    /// Addresses where an instruction is known to start: the entry point, executable sections, functions. Ascending.
    pub code_starts: Vec<u64>,
    pub functions: Functions,
    /// What the image's symbols call data in executable segments.
    pub data_ranges: Ranges,
    /// Where a packed program's personality keeps its `package::ThreadRecord`, as the image says.
    pub thread_record: Option<u64>,
    digest: Fingerprint,
}

impl Image {
    /// Takes an image apart.
    ///
    /// # Errors
    /// [`ImageError`] names the first offset that is wrong, and why.
    pub fn parse(file: &[u8]) -> Result<Image, ImageError> {
        let elf = Elf::parse(file)?;
        let (entry, segments) = (elf.entry(), elf.segments()?);
        let notes = notes::find(file, elf.notes())?;
        notes::check_abi(file, &notes)?;
        let manifest = Manifest::parse(notes.manifest.bytes(file), notes.manifest.offset)?;
        if !segments.iter().any(|s| s.executable && (s.address..s.end()).contains(&entry)) {
            let reason = format!("the entry point {entry:#x} is in no executable segment");
            return Err(ImageError::at(Elf::entry_offset(), reason));
        }
        let (functions, data) = elf.symbols()?;
        let executable = segments.iter().filter(|segment| segment.executable);
        let data_ranges: Ranges = executable.flat_map(|segment| data.within(segment.content())).collect();
        // A section may begin with data; an entry point or a function is code or nothing.
        let mut code_starts = elf.section_starts()?;
        code_starts.retain(|start| !data_ranges.contains(*start));
        code_starts.push(entry);
        code_starts.extend(functions.iter().map(|function| function.address));
        code_starts.sort_unstable();
        code_starts.dedup();
        Ok(Image {
            entry,
            segments,
            manifest,
            code_starts,
            functions,
            data_ranges,
            thread_record: notes.thread_record,
            digest: Fingerprint::of(file),
        })
    }

    /// The first address behind all segments.
    pub fn end(&self) -> u64 {
        self.segments.last().map_or(IMAGE_ADDRESS_MIN, Segment::end)
    }

    /// The digest of the file that the image was read from.
    pub fn digest(&self) -> Fingerprint {
        self.digest
    }
}
