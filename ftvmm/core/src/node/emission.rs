//! Lets outputs leave, one after the other: asks the protocol right before each system call, and tells it what came of it.
//!
//! Frames leave from the node's thread, for a TAP takes a frame or loses it at once. What may take time, block writes and console lines,
//! leaves from the disk's thread, which asks nobody: it is told until when the output may leave.

use std::sync::Arc;
#[cfg(feature = "lab")]
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use serde_json::json;

use crate::devices::{Devices, clock};
use crate::lab::{failpoint, mutant, rule};
use crate::lock::Mutex;
use crate::protocol::{Instant, Node, OutputMark, OutputResult};

use super::bounded_file::BoundedFile;
#[cfg(feature = "lab")]
use super::broken_emission;
use super::config::OutputPolicy;
#[cfg(feature = "lab")]
use super::failpoints::{self, Gate, Point};
#[cfg(feature = "lab")]
use super::holding;
use super::outputs::{Content, OutputQueue, Produced, Taken};
use super::thread::Urgency;
use super::trace::Trace;

/// Until when the protocol lets an output leave; `None`: not now (R5).
fn released_until(node: &Node, output: &Produced) -> Option<Instant> {
    let now = clock::now();
    #[cfg(not(feature = "lab"))]
    return node.released_until(output.index, output.depends_on, output.overlaps, now);
    #[cfg(feature = "lab")]
    {
        if holding::outputs_are_held() {
            return None;
        }
        let (depends_on, asked_at) = broken_emission::asked_as(output, now);
        let until = node.released_until(output.index, depends_on, output.overlaps, asked_at)?;
        Some(until.after(now.since(asked_at)))
    }
}

/// What became of an output that the disk's thread was given.
#[derive(Debug)]
pub enum Emitted {
    /// the system call is over
    Done(OutputMark, OutputResult),
    /// it could not leave in time, and waits again
    Withheld(OutputMark),
    /// it is about to leave, and counts as completed: the mutant `completed-at-submission`
    #[cfg(feature = "lab")]
    Submitted(OutputMark),
}

/// An output for the disk's thread.
#[derive(Debug)]
pub struct Job {
    taken: Taken,
    /// It may leave before this moment.
    until: Instant,
}

/// How outputs leave, whichever thread they leave from.
pub struct Emitter {
    /// where they go; empty until attached
    pub devices: Arc<Mutex<Option<Arc<Devices>>>>,
    /// the console's file
    pub console: Mutex<BoundedFile>,
    /// written before each emission
    pub trace: Arc<Trace>,
    /// what becomes of uncertain frames
    pub policy: OutputPolicy,
    /// an output that changes places with the next
    #[cfg(feature = "lab")]
    pub waiting: Mutex<Option<Produced>>,
}

impl Emitter {
    /// The disk's thread: lets outputs leave until there are no more, and tells what became of each.
    pub fn run(&self, jobs: &Receiver<Job>, urgency: &mut Urgency, mut tell: impl FnMut(Emitted)) {
        loop {
            urgency.rest();
            let Ok(Job { taken, until }) = jobs.recv() else { return };
            urgency.look();
            let emitted = self.emit_until(&taken, until, &mut tell);
            tell(emitted);
        }
    }

    /// R5: looks at the time right before the system call. A node that was frozen since it was asked has lost its lease.
    #[cfg_attr(not(feature = "lab"), expect(unused_variables, reason = "mutants tell before it has left"))]
    fn emit_until(&self, taken: &Taken, until: Instant, tell: &mut impl FnMut(Emitted)) -> Emitted {
        let mark = taken.output.mark();
        if !taken.again {
            failpoint!(BeforeSecondCheck, taken.output.index.0, taken.output.content.kind());
            #[cfg(feature = "lab")]
            let until = if holding::outputs_are_held() { Instant(0) } else { until };
            if !mutant!(SkipSecondCheck) && clock::now() >= until {
                return Emitted::Withheld(mark);
            }
            failpoint!(AfterSecondCheck, taken.output.index.0, taken.output.content.kind());
            #[cfg(feature = "lab")]
            if matches!(taken.output.content, Content::Block { .. }) && mutant!(CompletedAtSubmission) {
                tell(Emitted::Submitted(mark));
            }
        }
        Emitted::Done(mark, self.emit(taken))
    }

    fn is_dropped(&self, taken: &Taken) -> bool {
        let dropped = self.policy == OutputPolicy::Drop && matches!(taken.output.content, Content::Frame { .. });
        #[cfg(feature = "lab")]
        let dropped = dropped || self.is_left_out(&taken.output);
        taken.again && dropped
    }

    pub(super) fn record(&self, output: &Produced, why: &str) {
        let content = &output.content;
        self.trace.write(
            "output",
            json!({
                "index": output.index, "kind": content.kind(), "device": content.device(), "offset": content.offset(),
                "depends_on": output.depends_on, "length": content.bytes().len(), "digest": content.digest(), "why": why,
            }),
        );
    }

    fn emit(&self, taken: &Taken) -> OutputResult {
        #[cfg(feature = "lab")]
        return if taken.again {
            self.reissue_broken(taken.output.clone())
        } else {
            self.deliver_broken(&taken.output)
        };
        #[cfg(not(feature = "lab"))]
        self.deliver(&taken.output)
    }

    pub(super) fn deliver(&self, output: &Produced) -> OutputResult {
        let devices = self.devices.lock().clone();
        match (&output.content, devices) {
            (Content::Console { bytes }, _) => {
                // The console is for people; a full disk under it must not stop the VM.
                let _ = self.console.lock().append(bytes, || {
                    self.trace.write("rotated", json!({ "file": "console.log" }));
                    Vec::new()
                });
                OutputResult::Completed
            }
            (Content::Frame { device, bytes }, Some(devices)) => {
                let Err(error) = devices.send_frame(*device, bytes) else { return OutputResult::Completed };
                self.trace.write(
                    "frame-refused",
                    json!({ "index": output.index, "device": device, "reason": error.to_string() }),
                );
                OutputResult::Refused
            }
            (Content::Block { device, offset, bytes }, Some(devices)) => {
                failpoint!(BlockWriteBegun, output.index.0, "block");
                match devices.write_block(*device, *offset, bytes) {
                    Ok(()) => {
                        failpoint!(BlockWriteEnded, output.index.0, "block");
                        OutputResult::Completed
                    }
                    Err(error) => {
                        self.trace.write(
                            "disk-error",
                            json!({ "device": device, "offset": offset, "reason": error.to_string() }),
                        );
                        OutputResult::Failed
                    }
                }
            }
            (_, None) => OutputResult::Failed,
        }
    }
}

/// Where the output is that leaves next.
#[derive(Debug)]
enum Stage {
    /// still in the queue
    Waiting,
    /// with the disk's thread
    AtDisk,
    /// a frame that a failpoint holds, before or behind the second look
    #[cfg(feature = "lab")]
    Held { gate: Gate, frame: Taken, looked: bool },
}

/// The node's thread's side: what leaves next.
pub struct Emission {
    queue: Arc<OutputQueue>,
    emitter: Arc<Emitter>,
    disk: Sender<Job>,
    stage: Stage,
}

impl Emission {
    /// Nothing is on its way.
    pub fn new(queue: Arc<OutputQueue>, emitter: Arc<Emitter>, disk: Sender<Job>) -> Emission {
        Emission { queue, emitter, disk, stage: Stage::Waiting }
    }

    /// Lets the next output leave, if it may, and says what became of it. `None`: nothing leaves now, or it is with the disk's thread.
    pub fn next(&mut self, node: &Node) -> Option<(OutputMark, OutputResult)> {
        match &self.stage {
            Stage::Waiting => {}
            Stage::AtDisk => return None,
            #[cfg(feature = "lab")]
            Stage::Held { gate, .. } if gate.is_closed() => return None,
            #[cfg(feature = "lab")]
            Stage::Held { .. } => {
                let Stage::Held { frame, looked, .. } = std::mem::replace(&mut self.stage, Stage::Waiting) else {
                    return None;
                };
                return if looked { self.finish(&frame) } else { self.look_again(node, frame) };
            }
        }
        let mut until = Instant(0);
        let taken = self.queue.take(|output| {
            let released = released_until(node, output);
            until = released.unwrap_or(until);
            released.is_some()
        })?;
        #[cfg(feature = "lab")]
        self.emitter.emit_forgotten(&self.queue);
        let (mark, content) = (taken.output.mark(), &taken.output.content);
        if self.emitter.is_dropped(&taken) {
            self.emitter.record(&taken.output, "drop");
            return Some(self.done((mark, OutputResult::Completed)));
        }
        self.emitter.record(&taken.output, if taken.again { "re-issue" } else { "release" });
        if let Content::Frame { .. } = content {
            if taken.again {
                return self.finish(&taken);
            }
            #[cfg(feature = "lab")]
            if let Some(gate) = failpoints::gate(Point::BeforeSecondCheck, Some(content.kind()), mark.index.0) {
                self.stage = Stage::Held { gate, frame: taken, looked: false };
                return None;
            }
            return self.look_again(node, taken);
        }
        self.stage = Stage::AtDisk;
        // There is room for the only one that can be on its way, and the thread lives as long as this one.
        let _ = self.disk.try_send(Job { taken, until });
        None
    }

    /// R5: looked at right before the send. Writing the trace took time; a node that was frozen meanwhile has lost its lease.
    fn look_again(&mut self, node: &Node, frame: Taken) -> Option<(OutputMark, OutputResult)> {
        if !mutant!(SkipSecondCheck) && released_until(node, &frame.output).is_none() {
            self.withheld(frame.output.mark());
            return None;
        }
        #[cfg(feature = "lab")]
        {
            let (index, kind) = (frame.output.index.0, frame.output.content.kind());
            if let Some(gate) = failpoints::gate(Point::AfterSecondCheck, Some(kind), index) {
                self.stage = Stage::Held { gate, frame, looked: true };
                return None;
            }
            if mutant!(DelayFrames, every 50 after_go_live) {
                let gate = Gate::closed_for(Duration::from_millis(200));
                self.stage = Stage::Held { gate, frame, looked: true };
                return None;
            }
        }
        self.finish(&frame)
    }

    fn finish(&self, frame: &Taken) -> Option<(OutputMark, OutputResult)> {
        Some(self.done((frame.output.mark(), self.emitter.emit(frame))))
    }

    fn withheld(&self, output: OutputMark) {
        self.emitter.trace.write("output-withheld", json!({ "index": output.index }));
        self.queue.put_back();
    }

    /// The disk's thread tells what became of an output.
    pub fn emitted(&mut self, emitted: Emitted) -> Option<(OutputMark, OutputResult)> {
        let output = match emitted {
            Emitted::Done(output, result) => {
                self.stage = Stage::Waiting;
                return Some(self.done((output, result)));
            }
            Emitted::Withheld(output) => output,
            #[cfg(feature = "lab")]
            Emitted::Submitted(output) => return Some((output, OutputResult::Completed)),
        };
        self.stage = Stage::Waiting;
        self.withheld(output);
        None
    }

    fn done(&self, (output, result): (OutputMark, OutputResult)) -> (OutputMark, OutputResult) {
        // What the interface refused is not tried again here: another host emits it, or nobody does.
        if matches!(result, OutputResult::Completed | OutputResult::Refused) || !rule!(output_completed) {
            self.queue.complete();
        }
        (output, result)
    }
}
