//! The thread that lets outputs leave: it asks the protocol right before each system call, and tells it what came of it.

use std::sync::Arc;

use serde_json::json;

use crate::devices::Devices;
use crate::lab::{failpoint, mutant};
use crate::lock::Mutex;
use crate::protocol::{Instant, Node, OutputMark, OutputResult};

use super::bounded_file::BoundedFile;
#[cfg(feature = "lab")]
use super::broken_emission;
use super::config::OutputPolicy;
#[cfg(feature = "lab")]
use super::holding;
use super::outputs::{Content, Next, OutputQueue, Produced};
use super::trace::Trace;

/// Whether the protocol lets an output leave (R5). The clock is read under the protocol's lock: who has waited for it, or was stopped
/// over it, asks by the time of now.
pub fn may_release(protocol: &Mutex<Node>, output: &Produced, clock: impl Fn() -> Instant) -> bool {
    let protocol = protocol.lock();
    #[cfg(feature = "lab")]
    if holding::outputs_are_held() {
        return false;
    }
    #[cfg(not(feature = "lab"))]
    let (depends_on, now) = (output.depends_on, clock());
    #[cfg(feature = "lab")]
    let (depends_on, now) = broken_emission::asked_as(output, clock());
    protocol.may_release(output.index, depends_on, output.overlaps, now)
}

/// Everything that an emission needs.
pub struct Emitter {
    /// where outputs wait
    pub queue: Arc<OutputQueue>,
    /// where they go; `None` until attached
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
    /// Runs until the queue stops.
    ///
    /// # Arguments
    /// `may_release` is the protocol's pure look; `completed` tells it at once that an output has left well; `done` takes each output and what became of it.
    pub fn run(
        &self,
        may_release: impl Fn(&Produced) -> bool,
        completed: impl Fn(OutputMark),
        done: impl Fn(OutputMark, OutputResult),
    ) {
        loop {
            let next = self.queue.next(&may_release);
            #[cfg(feature = "lab")]
            self.emit_forgotten(&next);
            match next {
                Next::Stopped => return,
                Next::Reissue(output) => {
                    let dropped = self.policy == OutputPolicy::Drop && matches!(output.content, Content::Frame { .. });
                    #[cfg(feature = "lab")]
                    let dropped = dropped || self.is_left_out(&output);
                    let emitted = if dropped {
                        self.record(&output, "drop");
                        OutputResult::Completed
                    } else {
                        self.record(&output, "re-issue");
                        #[cfg(feature = "lab")]
                        let emitted = self.reissue_broken(output.clone());
                        #[cfg(not(feature = "lab"))]
                        let emitted = self.emit(&output);
                        emitted
                    };
                    self.finish(output.mark(), emitted, &done);
                }
                Next::Release(output) => {
                    self.record(&output, "release");
                    failpoint!(BeforeSecondCheck, output.index.0, output.content.kind());
                    // R5: looked at right before the send. Writing the trace took time; a node that was frozen
                    // meanwhile has lost its lease.
                    if !mutant!(SkipSecondCheck) && !may_release(&output) {
                        self.trace.write("output-withheld", json!({ "index": output.index }));
                        self.queue.put_back();
                        continue;
                    }
                    failpoint!(AfterSecondCheck, output.index.0, output.content.kind());
                    if matches!(output.content, Content::Block { .. }) && mutant!(CompletedAtSubmission) {
                        completed(output.mark());
                    }
                    let emitted = self.emit(&output);
                    if emitted == OutputResult::Completed {
                        completed(output.mark());
                    }
                    self.finish(output.mark(), emitted, &done);
                }
            }
        }
    }

    fn finish(&self, output: OutputMark, emitted: OutputResult, done: &impl Fn(OutputMark, OutputResult)) {
        // What the interface refused is not tried again here: another host emits it, or nobody does.
        if matches!(emitted, OutputResult::Completed | OutputResult::Refused) {
            self.queue.complete();
        }
        done(output, emitted);
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

    pub(super) fn emit(&self, output: &Produced) -> OutputResult {
        #[cfg(feature = "lab")]
        return self.deliver_broken(output);
        #[cfg(not(feature = "lab"))]
        self.deliver(output)
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::thread;

    use super::*;
    use crate::devices::clock;
    use crate::log::Fingerprint;
    use crate::protocol::{Config, Incarnation, LogPosition, OutputIndex};

    #[test]
    fn an_output_is_looked_at_by_a_time_that_was_read_under_the_lock() {
        let protocol = Mutex::new(Node::new(Config::new([7; 16], [9; 32]), Incarnation(1)));
        let fingerprint = Fingerprint::default();
        let content = Content::Console { bytes: Vec::new() };
        let (index, depends_on, overlaps) = (OutputIndex(1), LogPosition::START, OutputIndex::NONE);
        let output = Produced { index, fingerprint, depends_on, overlaps, content };
        let under_the_lock = Cell::new(false);
        let clock = || {
            // Asked by another thread: the one that holds it may not.
            under_the_lock.set(thread::scope(|scope| scope.spawn(|| protocol.is_locked()).join().unwrap()));
            clock::now()
        };
        may_release(&protocol, &output, clock);
        assert!(under_the_lock.get());
    }
}
