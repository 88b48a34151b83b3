//! The personality: the guest that serves the program's system calls, linked alone, and told where the package lies.

use std::path::Path;

use object::elf::{self, FileHeader64};
use object::read::elf::{FileHeader as _, Sym as _};
use object::{LittleEndian, ReadRef as _};
use package::{ENTRY_SYMBOL, PLACE_SYMBOL, Place, RECORD_SYMBOL, ThreadRecord};

use super::error::PackError;
use super::object::ENDIAN;
use crate::image::{Image, Segment};

/// Where the personality has to end: linkers put programs that cannot be moved from here on.
pub(super) const PERSONALITY_END_MAX: u64 = 0x40_0000;

/// A personality, taken apart.
pub(super) struct Personality {
    pub image: Image,
    /// The function that a stub calls.
    pub entry: u64,
    /// Where it keeps its record of the threads.
    pub record: u64,
    /// Where it looks for the package.
    place: u64,
}

impl Personality {
    /// Reads a personality, which is a Solo5 image of its own.
    ///
    /// # Errors
    /// [`PackError::Read`] where the file cannot be read, [`PackError::Personality`] where it is none.
    pub fn read(path: &Path) -> Result<Personality, PackError> {
        let file = std::fs::read(path).map_err(|reason| PackError::Read { path: path.to_owned(), reason })?;
        Self::parse(&file).map_err(|reason| PackError::Personality { path: path.to_owned(), reason })
    }

    fn parse(file: &[u8]) -> Result<Personality, String> {
        let image = Image::parse(file).map_err(|error| error.to_string())?;
        if image.end() > PERSONALITY_END_MAX {
            return Err(format!(
                "it ends at {:#x}, behind {PERSONALITY_END_MAX:#x}, where programs begin",
                image.end()
            ));
        }
        let header: &FileHeader64<LittleEndian> = file.read_at(0).map_err(|()| "it has no ELF header")?;
        let symbols = header
            .sections(ENDIAN, file)
            .and_then(|sections| sections.symbols(ENDIAN, file, elf::SHT_SYMTAB))
            .map_err(|error| error.to_string())?;
        let find = |name: &str| {
            let mut defined = symbols.iter().filter(|symbol| symbol.st_shndx(ENDIAN) != elf::SHN_UNDEF);
            let found = defined.find(|symbol| symbols.symbol_name(ENDIAN, symbol) == Ok(name.as_bytes()));
            found.map(|symbol| symbol.st_value(ENDIAN)).ok_or_else(|| format!("it has no symbol {name}"))
        };
        let (entry, place, record) = (find(ENTRY_SYMBOL)?, find(PLACE_SYMBOL)?, find(RECORD_SYMBOL)?);
        if !image.segments.iter().any(|segment| segment.executable && segment.content().contains(&entry)) {
            return Err(format!("{ENTRY_SYMBOL} at {entry:#x} is no code"));
        }
        let data = [(PLACE_SYMBOL, place, size_of::<Place>()), (RECORD_SYMBOL, record, ThreadRecord::BYTES)];
        for (symbol, address, length) in data {
            let end = address.checked_add(length as u64);
            let holds = |segment: &Segment| address >= segment.address && end.is_some_and(|end| end <= segment.end());
            if !image.segments.iter().any(holds) {
                return Err(format!("{symbol} at {address:#x} is in no segment"));
            }
        }
        Ok(Personality { image, entry, record, place })
    }

    /// The segments, with the place of the package filled in.
    pub fn segments_for(&self, package: Place) -> Vec<Segment> {
        let mut segments = self.image.segments.clone();
        let bytes = [package.address.to_le_bytes(), package.length_bytes.to_le_bytes()].concat();
        let holder = segments.iter_mut().find(|segment| (segment.address..segment.end()).contains(&self.place));
        if let Some(segment) = holder {
            let at = (self.place - segment.address) as usize;
            // A place of zeros needs no room in the file.
            segment.data.resize(segment.data.len().max(at + bytes.len()), 0);
            segment.data[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        segments
    }
}
