//! The two notes named `Solo5` that make an ELF file a Solo5 image, ABI1 and MFT1; and one of this project's own, which
//! says where a packed program's personality keeps its record of the threads.

use super::elf::Extent;
use super::{ImageError, Manifest};

const NOTE_NAME: &[u8] = b"Solo5\0";
/// As long as the other, so that headers are as long too.
const OWN_NOTE_NAME: &[u8] = b"ftvmm\0";
const ABI_TYPE: u32 = 0x3149_4241;
const MANIFEST_TYPE: u32 = 0x3154_464d;
/// THR1
const THREAD_RECORD_TYPE: u32 = 0x3152_4854;
/// Three words, and the name padded to a multiple of four.
const NOTE_HEADER_BYTES: u64 = 20;
const ABI_ALIGNMENT_BYTES: u64 = 4;
const MANIFEST_ALIGNMENT_BYTES: u64 = 8;
const THREAD_RECORD_ALIGNMENT_BYTES: u64 = 8;
const ABI_TARGET_HVT: u32 = 1;
const ABI_VERSION: u32 = 2;

/// The content of a note within the file.
pub(super) struct Note {
    pub offset: u64,
    pub length_bytes: u64,
}

impl Note {
    pub(super) fn bytes<'a>(&self, file: &'a [u8]) -> &'a [u8] {
        &file[self.offset as usize..(self.offset + self.length_bytes) as usize]
    }
}

pub(super) struct Notes {
    pub abi: Note,
    pub manifest: Note,
    pub thread_record: Option<u64>,
}

/// Looks through the note segments, which lie in the file.
pub(super) fn find(file: &[u8], segments: impl Iterator<Item = Extent>) -> Result<Notes, ImageError> {
    let (mut abi, mut manifest, mut thread_record) = (None, None, None);
    for segment in segments {
        let mut at = segment.offset;
        while at < segment.end {
            let found = Found::parse(file, at, segment.end)?;
            match (found.name(file), found.kind) {
                (NOTE_NAME, ABI_TYPE) => abi = Some(found.content(ABI_ALIGNMENT_BYTES)?),
                (NOTE_NAME, MANIFEST_TYPE) => manifest = Some(found.content(MANIFEST_ALIGNMENT_BYTES)?),
                (OWN_NOTE_NAME, THREAD_RECORD_TYPE) => {
                    let note = found.content(THREAD_RECORD_ALIGNMENT_BYTES)?;
                    thread_record = Some(address_in(&note, file)?);
                }
                _ => {}
            }
            at = found.next;
        }
    }
    let missing = |name: &str| ImageError::at(0, format!("there is no Solo5 {name} note: this is no Solo5 image"));
    let (abi, manifest) = (abi.ok_or_else(|| missing("ABI1"))?, manifest.ok_or_else(|| missing("MFT1"))?);
    Ok(Notes { abi, manifest, thread_record })
}

/// A note that holds an address and nothing else.
fn address_in(note: &Note, file: &[u8]) -> Result<u64, ImageError> {
    let bytes = note.bytes(file);
    let wrong = || ImageError::at(note.offset, format!("the THR1 note has {} bytes, not 8", bytes.len()));
    bytes.try_into().map(u64::from_le_bytes).map_err(|_| wrong())
}

/// The note that names the ABI, for a place in the file that is a multiple of 4.
pub(crate) fn abi_note() -> Vec<u8> {
    let content: Vec<u8> = [ABI_TARGET_HVT, ABI_VERSION, 0, 0].into_iter().flat_map(u32::to_le_bytes).collect();
    note(NOTE_NAME, ABI_TYPE, ABI_ALIGNMENT_BYTES, &content)
}

/// The note that declares the devices, for a place in the file that is a multiple of 8.
pub(crate) fn manifest_note(manifest: &Manifest) -> Vec<u8> {
    note(NOTE_NAME, MANIFEST_TYPE, MANIFEST_ALIGNMENT_BYTES, &manifest.declared())
}

/// The note that says where the personality keeps its record of the threads, for a place in the file that is a multiple
/// of 8.
pub(crate) fn thread_record_note(address: u64) -> Vec<u8> {
    note(OWN_NOTE_NAME, THREAD_RECORD_TYPE, THREAD_RECORD_ALIGNMENT_BYTES, &address.to_le_bytes())
}

fn note(name: &[u8], kind: u32, alignment_bytes: u64, content: &[u8]) -> Vec<u8> {
    let padding = (NOTE_HEADER_BYTES.next_multiple_of(alignment_bytes) - NOTE_HEADER_BYTES) as usize;
    let sizes = [name.len() as u32, (padding + content.len()) as u32, kind];
    let mut note: Vec<u8> = sizes.into_iter().flat_map(u32::to_le_bytes).collect();
    note.extend(name);
    note.resize(NOTE_HEADER_BYTES as usize + padding, 0);
    note.extend(content);
    note
}

fn u32_at(file: &[u8], offset: u64, name: &str) -> Result<u32, ImageError> {
    usize::try_from(offset)
        .ok()
        .and_then(|start| file.get(start..)?.first_chunk())
        .map(|bytes| u32::from_le_bytes(*bytes))
        .ok_or_else(|| ImageError::at(offset, format!("the file ends before its {name}")))
}

pub(super) fn check_abi(file: &[u8], notes: &Notes) -> Result<(), ImageError> {
    let at = notes.abi.offset;
    if notes.abi.length_bytes < 16 {
        return Err(ImageError::at(at, format!("the ABI1 note has {} bytes, not 16", notes.abi.length_bytes)));
    }
    let target = u32_at(file, at, "ABI target")?;
    if target != ABI_TARGET_HVT {
        let reason = format!("the image is built for Solo5 target {target}, not hvt ({ABI_TARGET_HVT})");
        return Err(ImageError::at(at, reason));
    }
    let version = u32_at(file, at + 4, "ABI version")?;
    if version != ABI_VERSION {
        let reason = format!("the image speaks version {version} of the hvt ABI, not {ABI_VERSION}");
        return Err(ImageError::at(at + 4, reason));
    }
    Ok(())
}

struct Found {
    at: u64,
    kind: u32,
    name_end: u64,
    /// Where the note's own bytes end, without padding.
    end: u64,
    next: u64,
}

impl Found {
    fn parse(file: &[u8], at: u64, segment_end: u64) -> Result<Found, ImageError> {
        let cut_off = || ImageError::at(at, "a note is cut off by the end of its segment");
        if at + 12 > segment_end {
            return Err(cut_off());
        }
        let name_bytes = u64::from(u32_at(file, at, "note name size")?);
        let content_bytes = u64::from(u32_at(file, at + 4, "note content size")?);
        let kind = u32_at(file, at + 8, "note type")?;
        let name_end = at + 12 + name_bytes;
        let end = at + 12 + name_bytes.next_multiple_of(4) + content_bytes;
        if name_end > segment_end || end > segment_end {
            return Err(cut_off());
        }
        Ok(Found { at, kind, name_end, end, next: end.next_multiple_of(4) })
    }

    fn name<'a>(&self, file: &'a [u8]) -> &'a [u8] {
        &file[self.at as usize + 12..self.name_end as usize]
    }

    /// The content begins at the next multiple of its own alignment; the padding counts as content in the header.
    fn content(&self, alignment_bytes: u64) -> Result<Note, ImageError> {
        let offset = (self.at + NOTE_HEADER_BYTES).next_multiple_of(alignment_bytes);
        match self.end.checked_sub(offset) {
            Some(length_bytes) => Ok(Note { offset, length_bytes }),
            None => Err(ImageError::at(self.at + 4, "the note is too short for its padding")),
        }
    }
}
