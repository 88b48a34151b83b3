//! Finds the non-deterministic instructions of an image and says what to put in their place.
//!
//! W^X makes the pass complete for code that runs on instruction boundaries: what is executable is never written, and
//! all of it is looked at here. Code that jumps into the middle of an instruction can still reach other instructions;
//! those are only counted, and a replica that runs one diverges and is stopped.
//!
//! So are those in ranges between the code that the image calls data: to rewrite a table would change it. That they are
//! no code is not believed as long as any code shows the contrary, by a direct branch, by going on into them, or by
//! starting there; what reaches them by a computed address is as what jumps into the middle of an instruction.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use iced_x86::{CpuidFeature, Decoder, DecoderOptions, Formatter, Instruction as Decoded, NasmFormatter};

use super::classify::{Class, HostTrait, classify};
use super::sweep::{Sweep, direct_target, falls_through};
use super::{DeterminismError, SITE_PORT, SITE_TRAP_BYTES};
use crate::image::{Image, Ranges, Segment};
use crate::machine::Instruction;

/// OUT imm8, AL.
const OUT_IMMEDIATE: u8 = 0xe6;
const NOP: u8 = 0x90;
/// The first bytes of the instructions that the pass looks for inside of others: of opcodes, and of the prefixes that
/// make one instruction of another (TPAUSE is MFENCE with a prefix). The other prefixes change nothing.
const LEAD_BYTES: [u8; 7] = [0x0f, 0x66, 0xc6, 0xc7, 0xcd, 0xf2, 0xf3];
const STARTS_IN_DATA: &str = "code starts here, in a range that the image calls data";
const FALLS_INTO_DATA: &str = "it goes on into a range that the image calls data";
const BRANCHES_INTO_DATA: &str = "it leads into a range that the image calls data";

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

/// Instructions of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The address of the first.
    pub first: u64,
    pub count: usize,
}

/// What the pass found in an image.
#[derive(Clone, Debug, Default)]
pub struct Rewritten {
    /// By address.
    pub sites: HashMap<u64, Site>,
    pub patches: Vec<Patch>,
    /// What of a host the results of some instructions depend on, and which those are.
    pub depends: BTreeMap<HostTrait, Found>,
    /// The features of processors beyond x86-64-v2 of which the image has instructions, for where CPUID shows them.
    pub features: BTreeSet<CpuidFeature>,
    /// The addresses of rewritten instructions that lie in no function that a symbol names with its length: all that is
    /// executable is read as code, and there it may be a table.
    pub doubtful: Vec<u64>,
    /// Addresses inside other instructions, or in data, where a non-deterministic one could be decoded.
    pub hidden: Vec<u64>,
}

impl Rewritten {
    /// Whether the image holds RDFSBASE or WRFSBASE.
    pub fn sets_fs_base(&self) -> bool {
        self.depends.contains_key(&HostTrait::FsBase)
    }
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
    refused.extend(starts_in_data(image));
    for segment in image.segments.iter().filter(|segment| segment.executable) {
        rewrite_segment(segment, image, &mut rewritten, &mut refused);
    }
    let patched = rewritten.patches.iter().map(|patch| patch.address);
    rewritten.doubtful = patched.filter(|address| !image.functions.holds_surely(*address)).collect();
    (rewritten, refused)
}

/// What is executable and called data is not rewritten: no code may start there.
fn starts_in_data(image: &Image) -> impl Iterator<Item = DeterminismError> {
    let starts = image.code_starts.iter().filter(|start| image.data_ranges.contains(**start));
    starts.map(|start| DeterminismError {
        address: *start,
        instruction: disassemble(image, *start).unwrap_or_default(),
        reason: STARTS_IN_DATA,
    })
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

fn rewrite_segment(segment: &Segment, image: &Image, into: &mut Rewritten, refused: &mut Vec<DeterminismError>) {
    let mut boundaries = vec![false; segment.data.len()];
    for code in image.data_ranges.gaps(segment.content()) {
        for decoded in Sweep::new(segment, code.clone(), &image.code_starts) {
            boundaries[(decoded.ip() - segment.address) as usize] = true;
            refused.extend(take(&decoded, into));
            if let Some(reason) = leads_into_data(&decoded, code.end, &image.data_ranges) {
                refused.push(DeterminismError { address: decoded.ip(), instruction: text_of(&decoded), reason });
            }
        }
    }
    look_inside(segment, &boundaries, into);
}

/// Why an instruction of code that ends at `end` shows that a range called data is code.
fn leads_into_data(decoded: &Decoded, end: u64, data: &Ranges) -> Option<&'static str> {
    if decoded.next_ip() + u64::from(falls_through(decoded)) > end && data.contains(end) {
        return Some(FALLS_INTO_DATA);
    }
    direct_target(decoded).filter(|target| data.contains(*target)).map(|_| BRANCHES_INTO_DATA)
}

/// Takes an instruction into account; what cannot be made deterministic comes back.
fn take(decoded: &Decoded, into: &mut Rewritten) -> Option<DeterminismError> {
    let address = decoded.ip();
    match classify(decoded) {
        Class::Deterministic => {}
        Class::IfShown => into.features.extend(decoded.cpuid_features()),
        Class::Depends(host) => {
            let found = into.depends.entry(host).or_insert(Found { first: address, count: 0 });
            found.count += 1;
        }
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
        if !belongs_to_site && !decoded.is_invalid() && is_looked_for(classify(&decoded)) {
            into.hidden.push(address);
        }
    }
}

/// Whether an instruction is one that a replica must not come to unseen.
fn is_looked_for(class: Class) -> bool {
    match class {
        Class::Rewrite(_) | Class::Refuse(_) | Class::Depends(HostTrait::FsBase) => true,
        Class::Deterministic | Class::IfShown | Class::Depends(_) => false,
    }
}

/// The opcode of a rewritten instruction behind its prefixes is gone once the patch is in.
fn is_within_patch(patches: &[Patch], address: u64) -> bool {
    let index = patches.partition_point(|patch| patch.address <= address);
    index.checked_sub(1).is_some_and(|index| address < patches[index].address + patches[index].bytes.len() as u64)
}
