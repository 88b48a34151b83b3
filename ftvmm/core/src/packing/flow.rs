//! Follows control flow through an object's code: it finds what is code although nothing says so, where jumps lead, and
//! the instructions that cannot stay.
//!
//! Every range of code is read once. Where an instruction goes on, or jumps or calls, into bytes that nothing calls code
//! (glibc's `clone3` lies partly outside of its unwind entry), these are read on from there until control flow leaves
//! them, and so on until nothing new is found. The VMM reads the finished image in the same way, and refuses it where any
//! code leads into what the image calls data.

use std::ops::Range;

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, Register};

use super::coverage::{Coverage, Function};
use super::object::Object;
use crate::determinism::{Class, Sweep, classify, direct_target, falls_through};
use crate::image::{Ranges, Segment};

/// From any address it is at most so far back to a boundary that is remembered.
const BOUNDARY_BYTES: u64 = 1024;
/// No switch has more cases than this; what follows a table may look like one more case, and does no harm.
const TABLE_ENTRIES_MAX: usize = 4096;

/// What control flow shows of an object. All addresses are guest addresses, ascending.
#[derive(Default)]
pub(super) struct Flow {
    /// where direct jumps and calls lead
    pub targets: Vec<u64>,
    /// SYSCALL instructions
    pub system_calls: Vec<u64>,
    /// other instructions that the VMM refuses
    pub refused: Vec<Range<u64>>,
    /// where functions and the pieces of code that were found start
    pub starts: Vec<u64>,
    /// some of the addresses where instructions start
    boundaries: Vec<u64>,
}

impl Flow {
    /// Reads all code of an object, and adds what is found to `coverage`.
    pub fn follow(object: &Object, coverage: &mut Coverage) -> Flow {
        let mut flow = Flow { starts: coverage.functions.keys().copied().collect(), ..Flow::default() };
        let mut pending: Vec<Range<u64>> = coverage.code.iter().cloned().collect();
        let mut reached = std::mem::take(&mut coverage.roots);
        loop {
            for address in reached.drain(..) {
                pending.extend(flow.found(object, coverage, address));
            }
            let Some(range) = pending.pop() else { break };
            flow.read(object, &range, &mut coverage.code, &mut reached);
        }
        flow.targets.sort_unstable();
        flow.targets.dedup();
        flow.system_calls.sort_unstable();
        flow.refused.sort_unstable_by_key(|range| range.start);
        flow.boundaries.sort_unstable();
        flow
    }

    /// Whether control flow may arrive at an address otherwise than from the instruction in front of it.
    pub fn is_arrived_at(&self, address: u64) -> bool {
        self.targets.binary_search(&address).is_ok() || self.starts.binary_search(&address).is_ok()
    }

    /// The last address up to `address` where an instruction is known to start, not in front of `code`.
    pub fn boundary_before(&self, address: u64, code: &Range<u64>) -> u64 {
        let last = |list: &[u64]| list[..list.partition_point(|one| *one <= address)].last().copied();
        [last(&self.starts), last(&self.boundaries)].into_iter().flatten().fold(code.start, u64::max)
    }

    /// Reads a range of code; what it leads to goes to `reached`.
    fn read(&mut self, object: &Object, range: &Range<u64>, code: &mut Ranges, reached: &mut Vec<u64>) {
        let Some(segment) = object.code_at(range.start) else { return };
        let mut boundary = range.start;
        let mut tail = None;
        for decoded in Sweep::new(segment, range.clone(), &self.starts) {
            if decoded.ip() >= boundary {
                self.boundaries.push(decoded.ip());
                boundary = decoded.ip() + BOUNDARY_BYTES;
            }
            match classify(&decoded) {
                Class::Refuse(_) if decoded.mnemonic() == Mnemonic::Syscall => self.system_calls.push(decoded.ip()),
                Class::Refuse(_) => self.refused.push(decoded.ip()..decoded.next_ip()),
                Class::Deterministic | Class::IfShown | Class::Depends(_) | Class::Rewrite(_) => {}
            }
            if let Some(target) = direct_target(&decoded) {
                self.targets.push(target);
                if !code.contains(target) {
                    reached.push(target);
                }
            }
            if decoded.next_ip() >= range.end {
                tail = Some(range.end..decoded.next_ip());
                if falls_through(&decoded) {
                    reached.push(decoded.next_ip());
                }
            }
        }
        // An instruction that crosses the end of what is known is code to its last byte.
        if let Some(tail) = tail {
            code.add(tail.start..tail.end.min(segment.content().end));
        }
    }

    /// Takes an address that control flow reaches, and comes back with the new code there.
    fn found(&mut self, object: &Object, coverage: &mut Coverage, address: u64) -> Option<Range<u64>> {
        if coverage.code.contains(address) {
            return None;
        }
        let range = straight_line(object.code_at(address)?, address, &coverage.code);
        let function = Function { length_bytes: range.end - range.start, name: None };
        let known = coverage.functions.entry(address).or_insert(function);
        known.length_bytes = known.length_bytes.max(range.end - range.start);
        if let Err(index) = self.starts.binary_search(&address) {
            self.starts.insert(index, address);
        }
        coverage.code.add(range.clone());
        Some(range)
    }
}

/// From an address to where control flow leaves for good, or reaches what is code already.
fn straight_line(segment: &Segment, from: u64, code: &Ranges) -> Range<u64> {
    let limit = code.next_start(from).unwrap_or(u64::MAX).min(segment.content().end);
    let mut decoder =
        Decoder::with_ip(64, &segment.data[(from - segment.address) as usize..], from, DecoderOptions::NONE);
    let mut end = from;
    while end < limit {
        let decoded = decoder.decode();
        if decoded.is_invalid() {
            // It traps, and is as long as the VMM takes it to be.
            end += 1;
            break;
        }
        end = decoded.next_ip();
        if !goes_on(&decoded) {
            break;
        }
    }
    from..end.min(limit)
}

/// Whether the instruction behind this one is ever executed, calls counted as returning.
pub(super) fn goes_on(decoded: &Instruction) -> bool {
    falls_through(decoded) || is_call(decoded)
}

/// Whether an instruction pushes the address of the next one.
pub(super) fn is_call(decoded: &Instruction) -> bool {
    matches!(decoded.flow_control(), FlowControl::Call | FlowControl::IndirectCall)
        && decoded.mnemonic() == Mnemonic::Call
}

/// Where the jump tables lead that a function's instructions use.
///
/// Compilers make two kinds: offsets of 4 bytes from the table, whose address an LEA loads, and addresses of 8 bytes at a
/// fixed address. A table ends where an entry leads out of the object's code.
pub(super) fn table_targets(function: &[Instruction], object: &Object, code: &Ranges) -> Vec<u64> {
    if !function.iter().any(|decoded| decoded.flow_control() == FlowControl::IndirectBranch) {
        return Vec::new();
    }
    let mut targets = Vec::new();
    for decoded in function {
        if decoded.code() == Code::Lea_r64_m && decoded.is_ip_rel_memory_operand() {
            let table = decoded.ip_rel_memory_address();
            let entries = object.bytes_at(table).unwrap_or_default().chunks_exact(4).filter_map(<[u8]>::first_chunk);
            let leads = entries.map(|entry| table.wrapping_add_signed(i32::from_le_bytes(*entry).into()));
            targets.extend(leads.take(TABLE_ENTRIES_MAX).take_while(|target| code.contains(*target)));
        } else if decoded.memory_base() == Register::None && decoded.memory_index_scale() == 8 {
            let table = decoded.memory_displacement64();
            let entries = object.bytes_at(table).unwrap_or_default().chunks_exact(8).filter_map(<[u8]>::first_chunk);
            let leads = entries.map(|entry| u64::from_le_bytes(*entry));
            targets.extend(leads.take(TABLE_ENTRIES_MAX).take_while(|target| code.contains(*target)));
        }
    }
    targets.sort_unstable();
    targets
}
