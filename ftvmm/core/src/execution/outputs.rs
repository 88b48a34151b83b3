//! Where the outputs of a replay go: the console's to people, all of them as JSON lines to programs.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};

use serde_json::{Value, json};

use super::{ExecutionError, Outcome};
use crate::devices::Console;
use crate::log::{Fingerprint, LogPosition};
use crate::machine::Request;
use crate::node::outputs::Content;

/// Takes the outputs of a replay; `docs/architecture.md` has the lines.
pub struct Outputs {
    console: Option<Console>,
    lines: Option<BufWriter<File>>,
    /// Outputs so far: the index of the newest.
    count: u64,
    /// The state is wanted where the guest waits for the input behind these.
    states_at: BTreeSet<LogPosition>,
}

impl Outputs {
    /// Console text goes to `console`, a line for each output to `lines`.
    pub fn new(console: Option<Console>, lines: Option<File>) -> Outputs {
        Outputs { console, lines: lines.map(BufWriter::new), count: 0, states_at: BTreeSet::new() }
    }

    /// There is a line, too, for the state of the guest behind each of these entries.
    #[must_use]
    pub fn with_states_at(mut self, positions: impl IntoIterator<Item = LogPosition>) -> Outputs {
        self.states_at.extend(positions);
        self
    }

    pub(super) fn wants_state(&self, position: LogPosition) -> bool {
        self.states_at.contains(&position)
    }

    /// Takes the digest of the guest's state, as a primary tells it that has stopped there for a joiner.
    pub(super) fn state(&mut self, position: LogPosition, digest: Fingerprint) -> Result<(), ExecutionError> {
        self.line(|| json!({ "state": digest.to_string(), "position": position }))
    }

    /// Takes one output; `depends_on` is the position of the last entry before it.
    pub(super) fn take(&mut self, depends_on: LogPosition, request: Request) -> Result<(), ExecutionError> {
        let content = match request {
            Request::Console { data } => Content::Console { bytes: data },
            Request::NetworkWrite { device, frame } => Content::Frame { device, bytes: frame },
            Request::BlockWrite { device, offset, data } => Content::Block { device, offset, bytes: data },
            _ => return Ok(()),
        };
        self.count += 1;
        let index = self.count;
        self.line(|| {
            json!({
                "index": index, "kind": content.kind(), "device": content.device(), "offset": content.offset(),
                "depends_on": depends_on, "length": content.bytes().len(), "digest": content.digest(),
            })
        })?;
        if let (Some(console), Content::Console { bytes }) = (&mut self.console, &content) {
            console.write(bytes)?;
        }
        Ok(())
    }

    /// Writes the last line; a replay that failed otherwise than by a divergence has none.
    pub(super) fn end(
        &mut self,
        outcome: &Result<Outcome, ExecutionError>,
        fingerprint: Fingerprint,
    ) -> Result<(), ExecutionError> {
        let (end, position, reason) = match outcome {
            Ok(outcome) => (outcome.ending.word(), outcome.position, Value::Null),
            Err(ExecutionError::Divergence { position, reason }) => ("diverged", *position, reason.as_str().into()),
            Err(_) => return self.flush(),
        };
        let (outputs, fingerprint) = (self.count, fingerprint.to_string());
        self.line(|| {
            json!({
                "end": end, "position": position, "outputs": outputs, "fingerprint": fingerprint, "reason": reason,
            })
        })?;
        self.flush()
    }

    fn line(&mut self, line: impl FnOnce() -> Value) -> Result<(), ExecutionError> {
        match &mut self.lines {
            Some(lines) => writeln!(lines, "{}", line()).map_err(ExecutionError::Outputs),
            None => Ok(()),
        }
    }

    fn flush(&mut self) -> Result<(), ExecutionError> {
        self.lines.as_mut().map_or(Ok(()), BufWriter::flush).map_err(ExecutionError::Outputs)
    }
}
