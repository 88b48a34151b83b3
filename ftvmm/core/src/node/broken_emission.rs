//! What mutants make of outputs on their way out (`mutants.rs`).

use crate::lab::{mutant, rule};
use crate::protocol::{Instant, LogPosition, OutputResult};

use super::config::OutputPolicy;
use super::emission::Emitter;
use super::outputs::{Content, OutputQueue, Produced};

/// As what the protocol is asked whether an output may leave: the position that it depends on, and the time.
pub fn asked_as(output: &Produced, now: Instant) -> (LogPosition, Instant) {
    let unacknowledged = match output.content {
        Content::Frame { .. } => mutant!(UnacknowledgedFrames) && output.index.0.is_multiple_of(50),
        Content::Block { .. } => mutant!(UnacknowledgedWrites),
        Content::Console { .. } => mutant!(UnacknowledgedConsole),
    };
    let unleased = mutant!(UnleasedWrites) && matches!(output.content, Content::Block { .. });
    let depends_on = if unacknowledged { LogPosition::START } else { output.depends_on };
    let depends_on = LogPosition(depends_on.0.saturating_sub(u64::from(mutant!(DependsOnOneTooFew))));
    let late = if mutant!(LongLease) { 5_000_000 } else { 0 };
    (depends_on, Instant(if unleased { 0 } else { now.0.saturating_sub(late) }))
}

impl Emitter {
    /// Whether an uncertain output is not emitted again.
    pub(super) fn is_left_out(&self, output: &Produced) -> bool {
        match output.content {
            Content::Block { .. } => self.policy == OutputPolicy::Drop && mutant!(DropWrites),
            _ => false,
        }
    }

    /// At the first emission after a go-live: what the primary completed is emitted again.
    pub(super) fn emit_forgotten(&self, queue: &OutputQueue) {
        let count = match () {
            () if mutant!(RepeatOutputs) || mutant!(AlterReissue) => 10,
            () if mutant!(RepeatAFrame) => 1,
            () => return,
        };
        let frames = queue.forgotten_frames();
        for mut output in frames.iter().skip(frames.len().saturating_sub(count)).cloned() {
            if mutant!(AlterReissue) {
                alter(&mut output.content);
            }
            if count > 1 {
                self.record(&output, "re-issue");
            }
            self.deliver(&output);
        }
    }

    /// One of the re-issued outputs, as it is emitted.
    pub(super) fn reissue_broken(&self, mut output: Produced) -> OutputResult {
        if matches!(output.content, Content::Frame { .. }) {
            if mutant!(ReissueOneTooFew, once) {
                return OutputResult::Completed;
            }
            if mutant!(AlterReissue) || mutant!(AlterAFrame, once) {
                alter(&mut output.content);
            }
        }
        self.deliver_broken(&output)
    }

    /// Emits an output, or what becomes of it.
    pub(super) fn deliver_broken(&self, output: &Produced) -> OutputResult {
        let mut altered = output.clone();
        match &mut altered.content {
            Content::Frame { bytes, .. } => {
                if mutant!(DuplicateFrames, every 50 after_go_live) {
                    self.deliver(output);
                }
                if mutant!(ShortenFrames, every 50 after_go_live) {
                    bytes.pop();
                }
                if mutant!(SecondMac, every 50 after_go_live) {
                    self.deliver(output);
                    // The last byte of its source address.
                    bytes.get_mut(11).into_iter().for_each(|byte| *byte ^= 1);
                }
            }
            Content::Block { offset, bytes, .. } => {
                if mutant!(LoseWrites) || mutant!(LoseAWrite, once after_go_live) {
                    return OutputResult::Completed;
                }
                if mutant!(TearAWrite, once after_go_live) {
                    bytes.truncate(512);
                }
                if mutant!(MisplaceAWrite, once after_go_live) {
                    *offset += 512;
                }
            }
            Content::Console { .. } => {
                if mutant!(LoseConsole, once after_go_live) {
                    return OutputResult::Completed;
                }
                if mutant!(RepeatConsole, once after_go_live) {
                    self.deliver(output);
                }
            }
        }
        self.deliver_in_turn(&altered)
    }

    /// Outputs of which some change places with their neighbours.
    fn deliver_in_turn(&self, output: &Produced) -> OutputResult {
        // A frame with frames and a write with writes: each kind leaves from a thread of its own.
        let kind = output.content.kind();
        let mut waiting = self.waiting.lock();
        if let Some(earlier) = waiting.take_if(|earlier| earlier.content.kind() == kind) {
            let emitted = self.deliver(output);
            return if self.deliver(&earlier) == OutputResult::Completed { emitted } else { OutputResult::Failed };
        }
        let waits = (kind == "block" && mutant!(SwapWrites, once after_go_live))
            || (kind == "frame" && !rule!(output_order) && output.index.0.is_multiple_of(20));
        if waits {
            *waiting = Some(output.clone());
            return OutputResult::Completed;
        }
        drop(waiting);
        self.deliver(output)
    }
}

fn alter(content: &mut Content) {
    if let Content::Frame { bytes, .. } = content
        && let Some(last) = bytes.last_mut()
    {
        *last ^= 0xff;
    }
}
