//! Puts a jump to a stub in the place of every SYSCALL, and UD2 in that of every other instruction that the VMM refuses.
//!
//! A SYSCALL has 2 bytes and a jump 5, so that the jump takes the room of instructions behind it, in front of it, or both;
//! they move into the stub. What control flow arrives at stays where it is, but for the first of them, which the jump
//! stands at. Where there is no such room, a short jump leads to padding close by, which holds the jump. A site without
//! either is refused: to trap there would end a program that did not expect it.

use std::ops::Range;

use iced_x86::{Instruction, Mnemonic};

use super::coverage::Coverage;
use super::error::PackError;
use super::flow::{Flow, goes_on, is_call, table_targets};
use super::object::Object;
use super::stubs::Stubs;
use crate::determinism::{Sweep, falls_through};
use crate::image::Ranges;

const JUMP: u8 = 0xe9;
const JUMP_BYTES: u64 = 5;
const SHORT_JUMP: u8 = 0xeb;
const SHORT_JUMP_BYTES: u64 = 2;
const UNDEFINED: [u8; 2] = [0x0f, 0x0b];
const NOP: u8 = 0x90;
const INT3: u8 = 0xcc;
/// How far around a site is looked for room: what a short jump can reach, and an instruction more.
const REACH_BYTES: u64 = 128 + 16;
/// How far around a site its function is looked through for jump tables, where no symbol says how long it is.
const FUNCTION_BYTES_MAX: u64 = 64 << 10;

/// How many instructions of an object were patched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Patched {
    pub system_calls: usize,
    pub undefined: usize,
}

/// Patches an object in place.
///
/// # Errors
/// [`PackError::NoRoom`] and [`PackError::Immovable`] name the site.
pub(super) fn patch(
    object: &mut Object,
    coverage: &mut Coverage,
    flow: &Flow,
    stubs: &mut Stubs,
) -> Result<Patched, PackError> {
    let mut patcher = Patcher { object, coverage, flow, edits: Vec::new(), taken: Ranges::default() };
    for site in &flow.system_calls {
        // A neighbour's jump may have taken it along.
        if !patcher.taken.contains(*site) {
            patcher.system_call(*site, stubs)?;
        }
    }
    for refused in &flow.refused {
        if !patcher.taken.contains(refused.start) {
            patcher.undefined(refused);
        }
    }
    let (edits, taken) = (patcher.edits, patcher.taken);
    for (address, bytes) in edits {
        let holder = object.segments.iter_mut().find(|segment| segment.content().contains(&address));
        if let Some(segment) = holder {
            segment.data[(address - segment.address) as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
    }
    for range in taken.iter() {
        coverage.code.add(range.clone());
    }
    Ok(Patched { system_calls: flow.system_calls.len(), undefined: flow.refused.len() })
}

struct Patcher<'a> {
    object: &'a Object,
    coverage: &'a Coverage,
    flow: &'a Flow,
    /// What to write where; all that is read is the object as it was.
    edits: Vec<(u64, Vec<u8>)>,
    /// The bytes of the edits.
    taken: Ranges,
}

/// The instructions around a site, in order.
struct Neighbourhood {
    instructions: Vec<Instruction>,
    /// The index of the site.
    site: usize,
    /// Where jump tables of its function lead.
    table_targets: Vec<u64>,
}

/// Instructions that move, by index, and whether control flow goes on behind them. What follows the last one that moves
/// and belongs to the room all the same is padding.
struct Room {
    moved: Range<usize>,
    bytes: Range<u64>,
    goes_on: bool,
}

impl Patcher<'_> {
    fn system_call(&mut self, site: u64, stubs: &mut Stubs) -> Result<(), PackError> {
        let around = self.around(site);
        let place = || self.coverage.place_of(self.object, site);
        let no_room = || PackError::NoRoom { place: place() };
        let around = around.ok_or_else(no_room)?;
        let mut reason = None;
        // A call that moves leaves a return address that unwinding does not know.
        for with_calls in [false, true] {
            let Some(room) = self.room(&around, with_calls) else { continue };
            let back = room.goes_on.then_some(room.bytes.end);
            match stubs.add(&around.instructions[room.moved], back, place()) {
                Ok(stub) => {
                    self.jump(room.bytes, stub);
                    return Ok(());
                }
                Err(error) => reason = Some(error.to_string()),
            }
        }
        if let Some(cave) = self.cave(&around) {
            let alone = &around.instructions[around.site..=around.site];
            let back = site + SHORT_JUMP_BYTES;
            match stubs.add(alone, Some(back), place()) {
                Ok(stub) => {
                    // The cave lies within reach.
                    let distance = cave.start.wrapping_sub(back) as u8;
                    self.edit(site, vec![SHORT_JUMP, distance]);
                    self.jump(cave, stub);
                    return Ok(());
                }
                Err(error) => reason = Some(error.to_string()),
            }
        }
        Err(match reason {
            Some(reason) => PackError::Immovable { place: place(), reason },
            None => no_room(),
        })
    }

    fn around(&self, site: u64) -> Option<Neighbourhood> {
        let code = self.coverage.code.holding(site)?;
        let from = self.flow.boundary_before(site.saturating_sub(REACH_BYTES).max(code.start), code);
        let until = (site + REACH_BYTES).min(code.end);
        let segment = self.object.code_at(site)?;
        let instructions: Vec<Instruction> = Sweep::new(segment, from..until, &self.flow.starts).collect();
        let index = instructions.iter().position(|decoded| decoded.ip() == site)?;
        Some(Neighbourhood { instructions, site: index, table_targets: self.table_targets(site, code) })
    }

    /// Where the jump tables lead that the function around a site uses.
    fn table_targets(&self, site: u64, code: &Range<u64>) -> Vec<u64> {
        let starts = &self.flow.starts;
        let index = starts.partition_point(|start| *start <= site);
        let start = index.checked_sub(1).map_or(code.start, |index| starts[index]).max(code.start);
        let from = start.max(self.flow.boundary_before(site.saturating_sub(FUNCTION_BYTES_MAX).max(start), code));
        let end = starts.get(index).map_or(code.end, |start| *start).min(code.end);
        let until = end.min(site + FUNCTION_BYTES_MAX);
        let Some(segment) = self.object.code_at(site) else { return Vec::new() };
        let function: Vec<Instruction> = Sweep::new(segment, from..until, starts).collect();
        table_targets(&function, self.object, &self.coverage.code)
    }

    /// Room for a jump that takes the site along, as few instructions in front of it as can be.
    fn room(&self, around: &Neighbourhood, with_calls: bool) -> Option<Room> {
        let instructions = &around.instructions;
        for first in (0..=around.site).rev() {
            let one = &instructions[first];
            if first < around.site {
                let next = instructions[first + 1].ip();
                if !falls_through(one) || one.next_ip() != next || self.is_held(around, next) || self.is_taken(one) {
                    return None;
                }
            }
            if let Some(room) = self.room_from(around, first, with_calls) {
                return Some(room);
            }
            if instructions[around.site].next_ip() - one.ip() >= JUMP_BYTES {
                return None;
            }
        }
        None
    }

    /// The same from a given instruction on: as many as the jump needs, the site at least.
    fn room_from(&self, around: &Neighbourhood, first: usize, with_calls: bool) -> Option<Room> {
        let instructions = &around.instructions;
        let start = instructions[first].ip();
        let mut last = around.site;
        let mut moved = first..last + 1;
        let mut is_followed = goes_on(&instructions[last]);
        while instructions[last].next_ip() - start < JUMP_BYTES {
            let next = instructions.get(last + 1)?;
            if next.ip() != instructions[last].next_ip() || self.is_held(around, next.ip()) || self.is_taken(next) {
                return None;
            }
            last += 1;
            match is_followed {
                true if is_call(next) && !with_calls => return None,
                true => {
                    moved.end = last + 1;
                    is_followed = goes_on(next);
                }
                false if is_padding(next) => {}
                false => return None,
            }
        }
        Some(Room { moved, bytes: start..instructions[last].next_ip(), goes_on: is_followed })
    }

    /// Padding that no control flow gets to, within reach of a short jump from the site.
    fn cave(&self, around: &Neighbourhood) -> Option<Range<u64>> {
        let back = around.instructions[around.site].next_ip();
        let is_near = |address: u64| i8::try_from(address.wrapping_sub(back) as i64).is_ok();
        let mut start = None;
        for pair in around.instructions.windows(2) {
            let (previous, one) = (&pair[0], &pair[1]);
            let is_reached = one.ip() != previous.next_ip() || self.is_held(around, one.ip());
            if !is_padding(one) || self.is_taken(one) || (is_reached && start.is_some()) {
                start = None;
            } else if start.is_none() && !is_reached && !goes_on(previous) {
                start = Some(one.ip());
            }
            if let Some(start) = start.filter(|start| is_near(*start) && one.next_ip() - *start >= JUMP_BYTES) {
                return Some(start..one.next_ip());
            }
        }
        None
    }

    /// Whether control flow may arrive at an address, which then has to stay an instruction's.
    fn is_held(&self, around: &Neighbourhood, address: u64) -> bool {
        self.flow.is_arrived_at(address) || around.table_targets.binary_search(&address).is_ok()
    }

    fn is_taken(&self, decoded: &Instruction) -> bool {
        self.taken.meets(&(decoded.ip()..decoded.next_ip()))
    }

    /// Puts a jump at the start of some bytes, and traps behind it.
    fn jump(&mut self, room: Range<u64>, stub: u64) {
        let mut bytes = vec![INT3; (room.end - room.start) as usize];
        bytes[0] = JUMP;
        // All code lies in the lowest 2 GiB.
        let distance = stub.wrapping_sub(room.start + JUMP_BYTES) as u32;
        bytes[1..JUMP_BYTES as usize].copy_from_slice(&distance.to_le_bytes());
        self.edit(room.start, bytes);
    }

    fn undefined(&mut self, refused: &Range<u64>) {
        let mut bytes = vec![NOP; (refused.end - refused.start) as usize];
        match bytes.len() {
            // INT1, the only one as short as this: INT3 traps as well.
            1 => bytes[0] = INT3,
            _ => bytes[..UNDEFINED.len()].copy_from_slice(&UNDEFINED),
        }
        self.edit(refused.start, bytes);
    }

    fn edit(&mut self, address: u64, bytes: Vec<u8>) {
        self.taken.add(address..address + bytes.len() as u64);
        self.edits.push((address, bytes));
    }
}

fn is_padding(decoded: &Instruction) -> bool {
    matches!(decoded.mnemonic(), Mnemonic::Nop | Mnemonic::Int3)
}
