//! The node's trace: one JSON object a line, written before the thing that it tells of is done.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Map, Value, json};

use crate::devices::clock;
use crate::lock::Mutex;
use crate::protocol::{Generation, Incarnation};
use crate::remark::remark;

use super::bounded_file::BoundedFile;

/// Writes `trace.jsonl`. One write(2) an event and no buffer: what a killed node did is in its trace.
pub struct Trace {
    node: String,
    incarnation: String,
    generation: AtomicU64,
    file: Mutex<BoundedFile>,
    /// A write has failed.
    ended: AtomicBool,
}

impl Trace {
    /// Opens the trace for appending, within a bound in bytes. What a killed node left of a line stays a line of its own, and spoils no other.
    ///
    /// # Errors
    /// The operating system's, when the file cannot be opened.
    pub fn open(path: &Path, bytes_max: u64, node: &str, incarnation: Incarnation) -> std::io::Result<Trace> {
        let mut file = BoundedFile::open(path, bytes_max)?;
        file.end_torn_line()?;
        Ok(Trace {
            node: node.to_owned(),
            incarnation: incarnation.to_string(),
            generation: AtomicU64::new(Generation::NONE.0),
            file: Mutex::new(file),
            ended: AtomicBool::new(false),
        })
    }

    /// The generation that later events carry.
    pub fn set_generation(&self, generation: Generation) {
        self.generation.store(generation.0, Ordering::Relaxed);
    }

    /// Writes one event. A trace that cannot be written is evidence lost, not a reason to stop the VM. It ends there:
    /// one with a hole in it would be taken for whole.
    pub fn write(&self, event: &str, fields: Value) {
        if self.ended.load(Ordering::Relaxed) {
            return;
        }
        let line = self.line(event, fields);
        let rotates = || self.line("rotated", json!({ "file": "trace.jsonl" })).into_bytes();
        if let Err(error) = self.file.lock().append(line.as_bytes(), rotates)
            && !self.ended.swap(true, Ordering::Relaxed)
        {
            remark(format!("ftvmm: the trace ends here, since it could not be written: {error}: {}", line.trim_end()));
        }
    }

    fn line(&self, event: &str, fields: Value) -> String {
        let mut object = Map::new();
        object.insert("event".into(), event.into());
        object.insert("node".into(), self.node.as_str().into());
        object.insert("incarnation".into(), self.incarnation.as_str().into());
        object.insert("generation".into(), self.generation.load(Ordering::Relaxed).into());
        object.insert("monotonic_ns".into(), clock::boottime_nanoseconds().into());
        object.insert("wall_ns".into(), clock::wall_nanoseconds().into());
        if let Value::Object(fields) = fields {
            object.extend(fields);
        }
        let mut line = Value::Object(object).to_string();
        line.push('\n');
        line
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_trace_that_cannot_be_written_ends_and_stops_nothing() {
        let trace = Trace::open(Path::new("/dev/full"), 1 << 20, "host-a", Incarnation(7)).unwrap();
        for _ in 0..3 {
            trace.write("role", Value::Null);
        }
        assert!(trace.ended.load(Ordering::Relaxed));
    }

    #[test]
    fn a_torn_line_of_a_killed_node_spoils_no_other() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("trace.jsonl");
        std::fs::write(&path, "{\"event\":\"role\"}\n{\"event\":\"outp").unwrap();
        for _ in 0..2 {
            Trace::open(&path, 1 << 20, "host-a", Incarnation(7)).unwrap().write("node-started", Value::Null);
        }
        let content = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = content.lines().map(|line| serde_json::from_str::<Value>(line).is_ok()).collect();
        assert_eq!(lines, [true, false, true, true]);
        assert!(content.ends_with('\n'));
    }

    #[test]
    fn a_trace_that_is_rotated_says_so() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("trace.jsonl");
        let trace = Trace::open(&path, 800, "host-a", Incarnation(7)).unwrap();
        for event in ["one", "two", "three"] {
            trace.write(event, Value::Null);
        }
        let events = |name: &str| {
            let content = std::fs::read_to_string(directory.path().join(name)).unwrap();
            let events = content.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["event"].clone());
            events.collect::<Vec<_>>()
        };
        assert_eq!(events("trace.jsonl.1"), ["one", "two"]);
        assert_eq!(events("trace.jsonl"), ["rotated", "three"]);
    }
}
