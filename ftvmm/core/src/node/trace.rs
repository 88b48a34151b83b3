//! The node's trace: one JSON object a line, written before the thing that it tells of is done.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Map, Value};

use crate::devices::clock;
use crate::protocol::{Generation, Incarnation};
use crate::remark::remark;

/// Writes `trace.jsonl`. One write(2) an event and no buffer: what a killed node did is in its trace.
pub struct Trace {
    node: String,
    incarnation: String,
    generation: AtomicU64,
    file: File,
    /// A write has failed.
    ended: AtomicBool,
}

impl Trace {
    /// Opens the trace for appending. What a killed node left of a line stays a line of its own, and spoils no other.
    ///
    /// # Errors
    /// The operating system's, when the file cannot be opened.
    pub fn open(path: &Path, node: &str, incarnation: Incarnation) -> std::io::Result<Trace> {
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        if file.metadata()?.len() > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
            }
        }
        Ok(Trace {
            node: node.to_owned(),
            incarnation: incarnation.to_string(),
            generation: AtomicU64::new(Generation::NONE.0),
            file,
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
        // Appended by one call, so the lines of two threads do not mix; and no thread that the peer waits for waits here for one that is
        // not running.
        if let Err(error) = (&self.file).write_all(line.as_bytes())
            && !self.ended.swap(true, Ordering::Relaxed)
        {
            remark(format!("ftvmm: the trace ends here, since it could not be written: {error}: {}", line.trim_end()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_that_cannot_be_written_ends_and_stops_nothing() {
        let trace = Trace::open(Path::new("/dev/full"), "host-a", Incarnation(7)).unwrap();
        for _ in 0..3 {
            trace.write("role", Value::Null);
        }
        assert!(trace.ended.load(Ordering::Relaxed));
    }

    #[test]
    fn a_torn_line_of_a_killed_node_spoils_no_other() {
        let path = std::env::temp_dir().join(format!("ftvmm-torn-trace-{}", std::process::id()));
        std::fs::write(&path, "{\"event\":\"role\"}\n{\"event\":\"outp").unwrap();
        for _ in 0..2 {
            Trace::open(&path, "host-a", Incarnation(7)).unwrap().write("node-started", Value::Null);
        }
        let content = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let lines: Vec<_> = content.lines().map(|line| serde_json::from_str::<Value>(line).is_ok()).collect();
        assert_eq!(lines, [true, false, true, true]);
        assert!(content.ends_with('\n'));
    }
}
