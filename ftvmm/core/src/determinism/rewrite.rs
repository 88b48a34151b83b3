//! Finds the non-deterministic instructions of an image and says what to put in their place.
//!
//! W^X makes the pass complete for code that runs on instruction boundaries: what is executable is never written, and
//! all of it is looked at here. Code that jumps into the middle of an instruction can still reach other instructions;
//! those are only counted, and a replica that runs one diverges and is stopped.

use std::collections::HashMap;

use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction as Decoded, NasmFormatter};

use super::classify::{Class, classify};
use super::{DeterminismError, SITE_PORT, SITE_TRAP_BYTES};
use crate::image::{Image, Segment};
use crate::machine::Instruction;

/// OUT imm8, AL.
const OUT_IMMEDIATE: u8 = 0xe6;
const NOP: u8 = 0x90;
/// The first bytes of the opcodes that the pass looks for; a prefix before them changes nothing.
const LEAD_BYTES: [u8; 4] = [0x0f, 0xc6, 0xc7, 0xcd];

/// What the machine does where a rewritten instruction stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the driver.
    Ask(Instruction),
    /// Answer from the configured table.
    Cpuid,
    /// Answer 0: there is one processor.
    ProcessorIdentifier { register: u8 },
    /// Raise #UD.
    Undefined,
    /// Raise #GP.
    GeneralProtection,
}

/// A rewritten instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    pub address: u64,
    pub action: Action,
}

/// Bytes to put into guest memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    pub address: u64,
    pub bytes: Vec<u8>,
}

/// What the pass found in an image.
#[derive(Clone, Debug, Default)]
pub struct Rewritten {
    /// By address.
    pub sites: HashMap<u64, Site>,
    pub patches: Vec<Patch>,
    /// Whether the image holds RDFSBASE or WRFSBASE.
    pub sets_fs_base: bool,
    /// Addresses inside other instructions where a non-deterministic one could be decoded.
    pub hidden: Vec<u64>,
}

/// Runs the pass over all executable segments.
///
/// # Errors
/// [`DeterminismError`] names the first instruction that cannot be made deterministic.
pub fn rewrite(image: &Image) -> Result<Rewritten, DeterminismError> {
    let (rewritten, refused) = examine(image);
    match refused.into_iter().next() {
        Some(error) => Err(error),
        None => Ok(rewritten),
    }
}

/// The same, and every instruction that cannot be made deterministic, in the order of the segments.
pub fn examine(image: &Image) -> (Rewritten, Vec<DeterminismError>) {
    let (mut rewritten, mut refused) = (Rewritten::default(), Vec::new());
    for segment in image.segments.iter().filter(|segment| segment.executable) {
        rewrite_segment(segment, &image.code_starts, &mut rewritten, &mut refused);
    }
    (rewritten, refused)
}

/// The instruction at an address of an image, in the words of an assembler; `None` where there is no code.
pub fn disassemble(image: &Image, address: u64) -> Option<String> {
    let mut executable = image.segments.iter().filter(|segment| segment.executable);
    let segment = executable.find(|one| (one.address..one.address + one.data.len() as u64).contains(&address))?;
    let code = &segment.data[(address - segment.address) as usize..];
    Some(text_of(&Decoder::with_ip(64, code, address, DecoderOptions::NONE).decode()))
}

fn text_of(decoded: &Decoded) -> String {
    let mut text = String::new();
    NasmFormatter::new().format(decoded, &mut text);
    text
}

fn rewrite_segment(segment: &Segment, starts: &[u64], into: &mut Rewritten, refused: &mut Vec<DeterminismError>) {
    let end = segment.address + segment.data.len() as u64;
    let mut decoder = Decoder::with_ip(64, &segment.data, segment.address, DecoderOptions::NONE);
    let mut decoded = Decoded::default();
    let mut starts = starts.iter().copied().filter(|start| (segment.address..end).contains(start)).peekable();
    let mut boundaries = vec![false; segment.data.len()];
    while decoder.can_decode() {
        let address = decoder.ip();
        while starts.next_if(|start| *start <= address).is_some() {}
        decoder.decode_out(&mut decoded);
        boundaries[(address - segment.address) as usize] = true;
        // A known start of code is right; an instruction that runs across it is misread data.
        let misread = starts.peek().copied().filter(|start| *start < decoded.next_ip());
        let next = match (misread, decoded.is_invalid()) {
            (Some(start), _) => start,
            (None, true) => address + 1,
            (None, false) => {
                refused.extend(take(&decoded, into));
                continue;
            }
        };
        if decoder.set_position((next - segment.address) as usize).is_err() {
            break;
        }
        decoder.set_ip(next);
    }
    look_inside(segment, &boundaries, into);
}

/// Takes an instruction into account; what cannot be made deterministic comes back.
fn take(decoded: &Decoded, into: &mut Rewritten) -> Option<DeterminismError> {
    let address = decoded.ip();
    match classify(decoded) {
        Class::Deterministic => {}
        Class::DeterministicWithFsBase => into.sets_fs_base = true,
        Class::Rewrite(action) => {
            debug_assert!(decoded.len() as u64 >= SITE_TRAP_BYTES);
            let mut bytes = vec![NOP; decoded.len()];
            bytes[0] = OUT_IMMEDIATE;
            bytes[1] = SITE_PORT;
            into.patches.push(Patch { address, bytes });
            into.sites.insert(address, Site { address, action });
        }
        Class::Refuse(reason) => {
            return Some(DeterminismError { address, instruction: text_of(decoded), reason });
        }
    }
    None
}

fn look_inside(segment: &Segment, boundaries: &[bool], into: &mut Rewritten) {
    for (offset, byte) in segment.data.iter().enumerate() {
        if boundaries[offset] || !LEAD_BYTES.contains(byte) {
            continue;
        }
        let address = segment.address + offset as u64;
        let decoded = Decoder::with_ip(64, &segment.data[offset..], address, DecoderOptions::NONE).decode();
        let belongs_to_site = is_within_patch(&into.patches, address);
        if !belongs_to_site && !decoded.is_invalid() && classify(&decoded) != Class::Deterministic {
            into.hidden.push(address);
        }
    }
}

/// The opcode of a rewritten instruction behind its prefixes is gone once the patch is in.
fn is_within_patch(patches: &[Patch], address: u64) -> bool {
    let index = patches.partition_point(|patch| patch.address <= address);
    index.checked_sub(1).is_some_and(|index| address < patches[index].address + patches[index].bytes.len() as u64)
}
