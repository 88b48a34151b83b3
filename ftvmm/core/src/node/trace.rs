//! The node's trace: one JSON object a line, written before the thing that it tells of is done.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value};

use super::clock;

/// Writes `trace.jsonl`. One write(2) an event and no buffer: what a killed node did is in its trace.
pub struct Trace {
    node: String,
    incarnation: String,
    generation: AtomicU64,
    file: Mutex<File>,
}

impl Trace {
    /// Opens the trace for appending.
    ///
    /// # Errors
    /// The operating system's, when the file cannot be opened.
    pub fn open(path: &Path, node: &str, incarnation: u64) -> std::io::Result<Trace> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Trace {
            node: node.to_owned(),
            incarnation: format!("{incarnation:016x}"),
            generation: AtomicU64::new(0),
            file: Mutex::new(file),
        })
    }

    /// The generation that later events carry.
    pub fn set_generation(&self, generation: u64) {
        self.generation.store(generation, Ordering::Relaxed);
    }

    /// Writes one event. A trace that cannot be written is evidence lost, not a reason to stop the VM: the error goes
    /// to standard error, once for each event.
    pub fn write(&self, event: &str, fields: Value) {
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
        let written = match self.file.lock() {
            Ok(mut file) => file.write_all(line.as_bytes()),
            Err(poisoned) => poisoned.into_inner().write_all(line.as_bytes()),
        };
        if let Err(error) = written {
            eprintln!("ftvmm: the trace could not be written: {error}: {line}");
        }
    }
}
