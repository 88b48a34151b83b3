//! The outputs of the VM that have not left yet, in program order.

use std::collections::VecDeque;

use crate::lab::rule;
use crate::lock::{Condvar, Mutex};
use crate::log::Fingerprint;
use crate::protocol::{LogPosition, OutputIndex, OutputMark};

/// What leaves the VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// an Ethernet frame
    Frame {
        /// manifest index
        device: u8,
        /// the frame without its check sequence
        bytes: Vec<u8>,
    },
    /// a write to a disk
    Block {
        /// manifest index
        device: u8,
        /// first byte
        offset: u64,
        /// what is written
        bytes: Vec<u8>,
    },
    /// console text
    Console {
        /// what the guest printed
        bytes: Vec<u8>,
    },
}

impl Content {
    /// The word that traces use.
    pub fn kind(&self) -> &'static str {
        match self {
            Content::Frame { .. } => "frame",
            Content::Block { .. } => "block",
            Content::Console { .. } => "console",
        }
    }

    /// The bytes that leave.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Content::Frame { bytes, .. } | Content::Block { bytes, .. } | Content::Console { bytes } => bytes,
        }
    }

    /// The manifest index of the device; `None` for the console.
    pub fn device(&self) -> Option<u8> {
        match self {
            Content::Frame { device, .. } | Content::Block { device, .. } => Some(*device),
            Content::Console { .. } => None,
        }
    }

    /// First byte on the disk; `None` for what does not go there.
    pub fn offset(&self) -> Option<u64> {
        match self {
            Content::Block { offset, .. } => Some(*offset),
            Content::Frame { .. } | Content::Console { .. } => None,
        }
    }

    /// BLAKE3 of the bytes, first 16 bytes in hexadecimal: how traces and captures tell outputs apart.
    pub fn digest(&self) -> String {
        blake3::hash(self.bytes()).to_hex()[..32].to_owned()
    }

    /// Whether it writes to a unit of the disk that such a transfer touches, too.
    fn overlaps(&self, on: u8, start: u64, length: u64, unit_bytes: u64) -> bool {
        let units = |start: u64, length: u64| (start / unit_bytes, (start + length).div_ceil(unit_bytes));
        match self {
            Content::Block { device, offset, bytes } => {
                let (own, other) = (units(*offset, bytes.len() as u64), units(start, length));
                *device == on && own.0 < other.1 && other.0 < own.1
            }
            Content::Frame { .. } | Content::Console { .. } => false,
        }
    }
}

/// One output, numbered from 1 over all devices of the VM.
#[derive(Clone, Debug)]
pub struct Produced {
    /// its number in program order
    pub index: OutputIndex,
    /// the guest's fingerprint as it produced it
    pub fingerprint: Fingerprint,
    /// position of the last log entry before it
    pub depends_on: LogPosition,
    /// the newest write beneath this one that may be re-issued yet, if any (R23)
    pub overlaps: OutputIndex,
    /// what leaves
    pub content: Content,
}

impl Produced {
    /// As the protocol knows it.
    pub fn mark(&self) -> OutputMark {
        OutputMark { index: self.index, fingerprint: self.fingerprint }
    }

    /// What it takes up, in bytes, its own fields included.
    fn size(&self) -> usize {
        size_of::<Produced>() + self.content.bytes().len()
    }
}

/// Where an output writes.
#[derive(Debug)]
struct Extent {
    index: OutputIndex,
    device: u8,
    offset: u64,
    length: u64,
}

/// An output on its way out.
#[derive(Clone, Debug)]
pub struct Taken {
    /// the output
    pub output: Produced,
    /// it was uncertain at a go-live, and is emitted again
    pub again: bool,
}

#[derive(Debug, Default)]
struct State {
    pending: VecDeque<Produced>,
    /// Taken and not completed yet.
    in_flight: Option<Produced>,
    produced: OutputIndex,
    /// Writes that may be re-issued yet, oldest first.
    extents: VecDeque<Extent>,
    /// Backup: outputs up to here need not be kept. The primary may have completed what replay has yet to produce.
    forgotten: OutputIndex,
    /// The last frames of those, for mutants that emit them again.
    #[cfg(feature = "lab")]
    forgotten_frames: Vec<Produced>,
    outlet: Outlet,
    /// Bytes in `pending` and `in_flight`.
    bytes: usize,
}

/// Whether outputs leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Outlet {
    /// A backup holds them all.
    #[default]
    Holding,
    /// They leave as the protocol allows.
    Releasing {
        /// Those up to here are re-issued.
        reissue_through: OutputIndex,
    },
    /// The node stops: nothing leaves any more.
    Stopped,
}

impl State {
    fn is_stopped(&self) -> bool {
        self.outlet == Outlet::Stopped
    }

    /// Outputs up to here are re-issued.
    fn reissue_through(&self) -> OutputIndex {
        match self.outlet {
            Outlet::Releasing { reissue_through } => reissue_through,
            Outlet::Holding | Outlet::Stopped => OutputIndex::NONE,
        }
    }

    /// Opens the outlet, unless the node stops.
    fn open(&mut self, reissue_through: OutputIndex) {
        if !self.is_stopped() {
            self.outlet = Outlet::Releasing { reissue_through };
        }
    }

    fn drop_while(&mut self, needless: impl Fn(&Produced) -> bool) {
        while self.pending.front().is_some_and(&needless)
            && let Some(output) = self.pending.pop_front()
        {
            self.bytes -= output.size();
            #[cfg(feature = "lab")]
            self.forgotten_frames.extend(matches!(output.content, Content::Frame { .. }).then_some(output));
        }
        #[cfg(feature = "lab")]
        self.forgotten_frames.drain(..self.forgotten_frames.len().saturating_sub(10));
    }
}

/// A live guest waits with its next output while so many bytes of earlier ones are held or slow to leave.
const HELD_BYTES_MAX: usize = 64 << 20;

/// The queue between the guest's thread and the node's.
#[derive(Debug, Default)]
pub struct OutputQueue {
    state: Mutex<State>,
    changed: Condvar,
}

impl OutputQueue {
    /// Queues the next output. Returns it, and the write beneath it that may be re-issued yet: one that touches the same unit of
    /// `unit_bytes` bytes of its disk, for a write reads, changes and writes whole units (`BlockFile`).
    pub fn produce(
        &self,
        fingerprint: Fingerprint,
        depends_on: LogPosition,
        unit_bytes: u64,
        content: Content,
    ) -> (OutputMark, OutputIndex) {
        let mut state = self.state.lock();
        state.produced = state.produced.next();
        let index = state.produced;
        let is_beneath = |one: &&Extent| content.overlaps(one.device, one.offset, one.length, unit_bytes);
        let beneath = state.extents.iter().rev().find(is_beneath);
        let overlaps = beneath.map_or(OutputIndex::NONE, |one| one.index);
        if index > state.forgotten {
            if let Content::Block { device, offset, bytes } = &content {
                let extent = Extent { index, device: *device, offset: *offset, length: bytes.len() as u64 };
                state.extents.push_back(extent);
            }
            let output = Produced { index, fingerprint, depends_on, overlaps, content };
            state.bytes += output.size();
            state.pending.push_back(output);
        }
        (OutputMark { index, fingerprint }, overlaps)
    }

    /// Primary: waits until another output may be held. Returns `false` when the node stops.
    pub fn wait_for_room(&self) -> bool {
        let mut state = self.state.lock();
        while state.bytes > HELD_BYTES_MAX && !state.is_stopped() {
            self.changed.wait(&mut state);
        }
        !state.is_stopped()
    }

    /// The guest has come here from another node, which has let out all that it had said: this many outputs.
    pub fn begin_at(&self, produced: OutputIndex) {
        let mut state = self.state.lock();
        (state.produced, state.forgotten) = (produced, produced);
    }

    /// Outputs produced so far.
    pub fn produced(&self) -> OutputIndex {
        self.state.lock().produced
    }

    /// The outputs up to `through` have completed, and nobody re-issues them.
    pub fn forget(&self, through: OutputIndex) {
        let mut state = self.state.lock();
        while state.extents.front().is_some_and(|extent| extent.index <= through) {
            state.extents.pop_front();
        }
        let before = state.bytes;
        state.drop_while(|output| output.index <= through);
        state.forgotten = state.forgotten.max(through);
        if state.bytes != before {
            self.changed.notify_all();
        }
    }

    /// For the mutant `lose-log-tail`: what comes is kept, although the primary completed outputs of these numbers.
    #[cfg(feature = "lab")]
    pub fn forget_nothing(&self) {
        self.state.lock().forgotten = OutputIndex::NONE;
    }

    /// This node owns the VM: outputs leave as the protocol allows.
    pub fn release(&self) {
        let mut state = self.state.lock();
        let reissue_through = state.reissue_through();
        state.open(reissue_through);
        self.changed.notify_all();
    }

    /// Go-live: outputs from `from` to `through` are emitted again, before any newer one; those before `from` are done.
    pub fn reissue(&self, from: OutputIndex, through: OutputIndex) {
        let mut state = self.state.lock();
        state.drop_while(|output| output.index < from);
        state.open(through);
        self.changed.notify_all();
    }

    /// Takes the next output, if none is on its way and `may_release` lets it go.
    pub fn take(&self, may_release: impl FnOnce(&Produced) -> bool) -> Option<Taken> {
        let mut state = self.state.lock();
        let Outlet::Releasing { reissue_through } = state.outlet else { return None };
        if state.in_flight.is_some() || !state.pending.front().is_some_and(may_release) {
            return None;
        }
        let output = state.pending.pop_front()?;
        state.in_flight = Some(output.clone());
        Some(Taken { again: output.index <= reissue_through, output })
    }

    /// For mutants: the last frames that the primary completed, oldest first. Given once.
    #[cfg(feature = "lab")]
    pub fn forgotten_frames(&self) -> Vec<Produced> {
        std::mem::take(&mut self.state.lock().forgotten_frames)
    }

    /// The output that was taken could not leave now: it goes back to the front.
    pub fn put_back(&self) {
        let mut state = self.state.lock();
        if let Some(output) = state.in_flight.take() {
            state.pending.push_front(output);
        }
    }

    /// The output that was taken has completed.
    pub fn complete(&self) {
        let mut state = self.state.lock();
        if let Some(output) = state.in_flight.take() {
            state.bytes -= output.size();
        }
        self.changed.notify_all();
    }

    /// R17: waits until no held write overlaps a read. Returns `false` when the node stops.
    pub fn wait_for_writes(&self, device: u8, offset: u64, length: u64) -> bool {
        let mut state = self.state.lock();
        while !state.is_stopped()
            && state
                .in_flight
                .iter()
                .chain(&state.pending)
                // R17: those that are re-issued too.
                .filter(|output| rule!(reissue_before_run) || output.index > state.reissue_through())
                .any(|output| output.content.overlaps(device, offset, length, 1))
        {
            self.changed.wait(&mut state);
        }
        !state.is_stopped()
    }

    /// The node stops: nothing leaves any more, nobody waits.
    pub fn stop(&self) {
        self.state.lock().outlet = Outlet::Stopped;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(byte: u8) -> Content {
        Content::Frame { device: 1, bytes: vec![byte] }
    }

    fn produce(queue: &OutputQueue, depends_on: u64, content: Content) {
        queue.produce(Fingerprint::default(), LogPosition(depends_on), 1, content);
    }

    /// The index of the next output that leaves, and whether that is again.
    fn take(queue: &OutputQueue) -> Option<(u64, bool)> {
        queue.take(|_| true).map(|taken| (taken.output.index.0, taken.again))
    }

    #[test]
    fn a_go_live_reissues_what_is_uncertain_and_then_releases() {
        let queue = OutputQueue::default();
        for byte in 1..=4 {
            produce(&queue, u64::from(byte), frame(byte));
        }
        queue.forget(OutputIndex(1));
        queue.reissue(OutputIndex(3), OutputIndex(3));
        assert_eq!(take(&queue), Some((3, true)));
        assert_eq!(take(&queue), None, "one at a time");
        queue.complete();
        assert_eq!(take(&queue), Some((4, false)));
        queue.put_back();
        assert_eq!(take(&queue), Some((4, false)));
        queue.complete();
    }

    #[test]
    fn a_write_knows_the_newest_one_beneath_it_that_may_come_again() {
        let queue = OutputQueue::default();
        queue.release();
        let overlaps = |offset| {
            produce(&queue, 0, Content::Block { device: 1, offset, bytes: vec![0; 512] });
            let taken = queue.take(|_| true).unwrap();
            queue.complete();
            taken.output.overlaps.0
        };
        assert_eq!([overlaps(0), overlaps(512), overlaps(256), overlaps(0)], [0, 0, 2, 3]);
        queue.forget(OutputIndex(3));
        assert_eq!([overlaps(512), overlaps(0)], [0, 4]);
    }

    #[test]
    fn writes_to_one_unit_of_the_disk_are_one_beneath_the_other() {
        let queue = OutputQueue::default();
        let overlaps = |unit_bytes, offset| {
            let content = Content::Block { device: 1, offset, bytes: vec![0; 512] };
            queue.produce(Fingerprint::default(), LogPosition::START, unit_bytes, content).1.0
        };
        assert_eq!([overlaps(512, 0), overlaps(512, 512)], [0, 0]);
        assert_eq!([overlaps(4096, 3584), overlaps(4096, 4096), overlaps(4096, 1024)], [2, 0, 3]);
    }

    #[test]
    fn what_the_primary_completed_before_replay_came_to_it_is_not_kept() {
        let queue = OutputQueue::default();
        queue.forget(OutputIndex(2));
        for byte in 1..=3 {
            produce(&queue, 0, frame(byte));
        }
        queue.release();
        assert_eq!(take(&queue), Some((3, false)));
    }

    #[test]
    fn a_read_waits_for_a_held_write_beneath_it_and_for_no_other() {
        let queue = std::sync::Arc::new(OutputQueue::default());
        produce(&queue, 1, Content::Block { device: 1, offset: 512, bytes: vec![0; 512] });
        assert!(queue.wait_for_writes(1, 0, 512));
        assert!(queue.wait_for_writes(2, 512, 512));
        let reader = {
            let queue = queue.clone();
            std::thread::spawn(move || queue.wait_for_writes(1, 1000, 512))
        };
        queue.release();
        assert_eq!(take(&queue), Some((1, false)));
        assert!(!reader.is_finished(), "a write in flight still counts");
        queue.complete();
        assert!(reader.join().unwrap());
    }

    #[test]
    fn a_guest_that_outruns_its_outputs_waits_until_they_have_left() {
        let queue = std::sync::Arc::new(OutputQueue::default());
        produce(&queue, 1, Content::Block { device: 1, offset: 0, bytes: vec![0; HELD_BYTES_MAX] });
        let guest = {
            let queue = queue.clone();
            std::thread::spawn(move || queue.wait_for_room())
        };
        queue.release();
        assert_eq!(take(&queue), Some((1, false)));
        assert!(!guest.is_finished(), "what is on its way out still takes up room");
        queue.complete();
        assert!(guest.join().unwrap());
        produce(&queue, 2, Content::Block { device: 1, offset: 0, bytes: vec![0; HELD_BYTES_MAX] });
        queue.forget(OutputIndex(2));
        assert!(queue.wait_for_room());
    }

    #[test]
    fn a_backup_holds_everything_and_nothing_leaves_once_the_node_stops() {
        let queue = OutputQueue::default();
        produce(&queue, 1, frame(1));
        assert_eq!(take(&queue), None);
        queue.release();
        assert!(queue.take(|_| false).is_none());
        queue.stop();
        queue.release();
        assert_eq!(take(&queue), None);
        assert!(!queue.wait_for_room());
    }
}
