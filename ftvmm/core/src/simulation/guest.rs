//! The modelled guest: deterministic between inputs, every output a function of all inputs up to it.

use super::random::mix;
use crate::log::Fingerprint;
use crate::protocol::{Input, LogPosition, OutputIndex, OutputMark};

/// Blocks of the modelled disk.
pub const BLOCKS: usize = 4;

/// Where an output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// A frame to the client.
    Frame,
    /// A write of this block.
    Block(usize),
}

/// An output of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GuestOutput {
    /// From 1, in program order.
    pub index: OutputIndex,
    /// Position of the last entry before it.
    pub depends_on: LogPosition,
    /// The last write of the same block before it, if any.
    pub overlaps: OutputIndex,
    /// Frame or block write.
    pub destination: Destination,
    /// The bytes, or the value written.
    pub content: u64,
}

impl GuestOutput {
    /// What the state machine is told.
    pub fn produced(&self) -> Input {
        Input::OutputProduced { output: self.mark(), depends_on: self.depends_on, overlaps: self.overlaps }
    }

    /// As the state machine knows it.
    pub fn mark(&self) -> OutputMark {
        let bytes = self.content.to_le_bytes();
        OutputMark { index: self.index, fingerprint: Fingerprint(std::array::from_fn(|place| bytes[place % 8])) }
    }
}

/// What the guest asks for next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestRequest {
    /// Any number: time, chance, a frame that came.
    Number,
    /// The value of this block.
    Read(usize),
}

/// The guest's whole state.
#[derive(Clone, Debug, Default, Hash)]
pub struct Guest {
    /// It takes two inputs only, a number and what its disk holds, and writes one block after each.
    pub small: bool,
    chain: u64,
    /// Inputs taken.
    pub position: LogPosition,
    /// The newest output produced.
    pub outputs: OutputIndex,
    /// What each block holds for the guest: its own last write, in program order.
    pub blocks: [u64; BLOCKS],
    /// The output that wrote it.
    writes: [OutputIndex; BLOCKS],
}

impl Guest {
    /// The next input that the guest needs.
    pub fn request(&self) -> GuestRequest {
        if self.small {
            return if self.position == LogPosition::START { GuestRequest::Number } else { GuestRequest::Read(0) };
        }
        let word = mix(self.chain ^ 1);
        if word.is_multiple_of(3) { GuestRequest::Read((word >> 8) as usize % BLOCKS) } else { GuestRequest::Number }
    }

    /// Whether it has come to its end.
    pub fn is_done(&self) -> bool {
        self.small && self.position == LogPosition(2)
    }

    /// Takes an input; returns the outputs that follow it.
    pub fn take(&mut self, input: u64) -> Vec<GuestOutput> {
        self.chain = mix(self.chain ^ mix(input));
        self.position = self.position.next();
        let count = if self.small { 1 } else { mix(self.chain ^ 2) % 3 };
        (0..count).map(|number| self.produce(number)).collect()
    }

    /// A digest of the whole state.
    pub fn digest(&self) -> Fingerprint {
        let blocks = self.blocks.iter().fold(self.chain ^ self.outputs.0, |digest, block| mix(digest ^ block));
        let bytes = blocks.to_le_bytes();
        Fingerprint(std::array::from_fn(|place| bytes[place % 8]))
    }

    /// Damages the state, as a bit flip in memory would.
    pub fn corrupt(&mut self) {
        self.chain ^= 1 << 17;
    }

    fn produce(&mut self, number: u64) -> GuestOutput {
        self.outputs = self.outputs.next();
        let content = mix(self.chain ^ mix(number + 3));
        let (index, depends_on) = (self.outputs, self.position);
        if !self.small && content.is_multiple_of(2) {
            let (overlaps, destination) = (OutputIndex::NONE, Destination::Frame);
            return GuestOutput { index, depends_on, overlaps, destination, content };
        }
        let block = if self.small { 0 } else { (content >> 8) as usize % BLOCKS };
        self.blocks[block] = content;
        let overlaps = std::mem::replace(&mut self.writes[block], index);
        GuestOutput { index, depends_on, overlaps, destination: Destination::Block(block), content }
    }
}
