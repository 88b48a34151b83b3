//! Reads code from its first byte to its last, and tells where an instruction leads.

use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction as Decoded, Mnemonic, OpKind};

use crate::image::Segment;

/// The instructions of a range of code, one behind the other.
///
/// A known start of code is right: an instruction that runs across one is misread data, and not among them. Neither is
/// what no processor can decode, of which one byte is left out.
pub(crate) struct Sweep<'a> {
    decoder: Decoder<'a>,
    /// The address of the decoder's first byte.
    origin: u64,
    end: u64,
    /// The starts that are still to come.
    starts: &'a [u64],
}

impl<'a> Sweep<'a> {
    /// Begins at the start of `code`, which lies in the segment's content; `starts` are ascending.
    pub fn new(segment: &'a Segment, code: Range<u64>, starts: &'a [u64]) -> Sweep<'a> {
        let bytes = &segment.data[(code.start - segment.address) as usize..];
        let first = starts.partition_point(|start| *start <= code.start);
        Sweep {
            decoder: Decoder::with_ip(64, bytes, code.start, DecoderOptions::NONE),
            origin: code.start,
            end: code.end,
            starts: &starts[first..],
        }
    }
}

impl Iterator for Sweep<'_> {
    type Item = Decoded;

    fn next(&mut self) -> Option<Decoded> {
        while self.decoder.can_decode() && self.decoder.ip() < self.end {
            let address = self.decoder.ip();
            while let Some((first, rest)) = self.starts.split_first()
                && *first <= address
            {
                self.starts = rest;
            }
            let decoded = self.decoder.decode();
            let misread = self.starts.first().copied().filter(|start| *start < decoded.next_ip());
            let next = match (misread, decoded.is_invalid()) {
                (Some(start), _) => start,
                (None, true) => address + 1,
                (None, false) => return Some(decoded),
            };
            self.decoder.set_position((next - self.origin) as usize).ok()?;
            self.decoder.set_ip(next);
        }
        None
    }
}

/// Whether the instruction behind this one may come next.
///
/// A call is not counted: where code ends in one, it calls what does not return, and tables may follow.
pub(crate) fn falls_through(decoded: &Decoded) -> bool {
    match decoded.flow_control() {
        FlowControl::Next | FlowControl::ConditionalBranch | FlowControl::XbeginXabortXend => {
            // Privileged, so that it traps.
            decoded.mnemonic() != Mnemonic::Hlt
        }
        // To the decoder it is a call.
        FlowControl::Call => decoded.mnemonic() == Mnemonic::Syscall,
        _ => false,
    }
}

/// Where a jump or call leads that names its target.
pub(crate) fn direct_target(decoded: &Decoded) -> Option<u64> {
    (decoded.op0_kind() == OpKind::NearBranch64).then(|| decoded.near_branch_target())
}
