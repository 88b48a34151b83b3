//! What this node tells its guest live, in a log file: evidence for whoever judges the VM from outside.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use crate::log::{End, Header, LogError, LogWriter};
use crate::protocol::{Incarnation, LogPosition};

use super::config::RecordConfig;
use super::trace::Trace;

/// A recording under way. Nothing that becomes of it stops the VM: where it cannot go on it ends, and the trace says why.
pub struct Recording {
    /// `None` once the recording has ended.
    log: Option<LogWriter>,
    bytes_max: u64,
    /// Newest position recorded.
    position: LogPosition,
    /// Whether something was recorded that a kill would lose.
    buffered: bool,
    trace: Arc<Trace>,
}

/// The file of this process's recording.
pub fn path(directory: &Path, incarnation: Incarnation) -> PathBuf {
    directory.join(format!("recorded-{incarnation}.log"))
}

impl Recording {
    /// Creates the file, with its header in it.
    ///
    /// # Errors
    /// [`LogError::Io`] where there can be no such file.
    pub fn start(
        config: &RecordConfig,
        incarnation: Incarnation,
        header: &Header,
        trace: Arc<Trace>,
    ) -> Result<Recording, LogError> {
        std::fs::create_dir_all(&config.directory).map_err(|source| LogError::Io { operation: "written", source })?;
        let mut log = LogWriter::create(&path(&config.directory, incarnation), header)?;
        log.flush()?;
        let bytes_max = config.size_mib_max << 20;
        Ok(Recording { log: Some(log), bytes_max, position: LogPosition::START, buffered: false, trace })
    }

    /// No recording.
    pub fn off(trace: Arc<Trace>) -> Recording {
        Recording { log: None, bytes_max: 0, position: LogPosition::START, buffered: false, trace }
    }

    /// Whether entries are recorded.
    pub fn is_on(&self) -> bool {
        self.log.is_some()
    }

    /// Records an encoded entry. It is in the file behind the next [`Recording::flush`].
    pub fn append(&mut self, position: LogPosition, entry: &[u8]) {
        let Some(log) = &mut self.log else { return };
        if log.length_bytes() + 1 + entry.len() as u64 > self.bytes_max {
            let reason = format!("the file has come to its greatest size, {} MiB", self.bytes_max >> 20);
            self.flush();
            return self.give_up(&reason);
        }
        match log.append_encoded(entry) {
            Ok(()) => (self.position, self.buffered) = (position, true),
            Err(error) => self.give_up(&error.to_string()),
        }
    }

    /// Writes what was recorded: to be called before anything leaves that depends on it.
    pub fn flush(&mut self) {
        if !std::mem::take(&mut self.buffered) {
            return;
        }
        if let Some(log) = &mut self.log
            && let Err(error) = log.flush()
        {
            self.give_up(&error.to_string());
        }
    }

    /// The guest has come to its own end.
    pub fn end(&mut self, end: &End) {
        if let Some(log) = self.log.take()
            && let Err(error) = log.end(end)
        {
            self.give_up(&error.to_string());
        }
    }

    fn give_up(&mut self, reason: &str) {
        self.log = None;
        self.trace.write("recording-ended", json!({ "position": self.position, "reason": reason }));
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::log::{Entry, Fingerprint};
    use crate::machine::{Answer, MachineConfig};

    struct Directory(TempDir);

    impl Directory {
        fn new() -> Directory {
            Directory(TempDir::new().unwrap())
        }

        fn start(&self) -> Recording {
            let config = RecordConfig { directory: self.0.path().to_owned(), size_mib_max: 1 };
            let header = Header::new(Path::new("image"), Fingerprint::of(b"image"), MachineConfig::new(1 << 21));
            let trace = Trace::open(&self.0.path().join("trace.jsonl"), 1 << 20, "host", Incarnation(1)).unwrap();
            Recording::start(&config, Incarnation(0xab), &header, Arc::new(trace)).unwrap()
        }

        fn length_bytes(&self) -> u64 {
            std::fs::metadata(self.0.path().join("recorded-00000000000000ab.log")).unwrap().len()
        }

        fn trace(&self) -> String {
            std::fs::read_to_string(self.0.path().join("trace.jsonl")).unwrap()
        }
    }

    fn frame(position: u64, length: usize) -> Vec<u8> {
        let answer = Answer::NetworkRead { frame: Some(vec![7; length]) };
        let mut bytes = Vec::new();
        Entry { position: LogPosition(position), fingerprint: Fingerprint::default(), answer }.encode(&mut bytes);
        bytes
    }

    #[test]
    fn what_was_flushed_is_in_the_file_while_the_node_runs_on() {
        let directory = Directory::new();
        let mut recording = directory.start();
        let header_bytes = directory.length_bytes();
        assert!(header_bytes > 16, "a node that never ran its guest leaves a header");
        recording.append(LogPosition(9), &frame(9, 10));
        assert_eq!(directory.length_bytes(), header_bytes, "what nothing depends on may wait");
        recording.flush();
        assert_eq!(directory.length_bytes(), header_bytes + 1 + frame(9, 10).len() as u64);
    }

    #[test]
    fn a_full_recording_ends_aloud_behind_a_whole_entry() {
        let directory = Directory::new();
        let mut recording = directory.start();
        for position in 1..=30 {
            recording.append(LogPosition(position), &frame(position, 64 << 10));
        }
        assert!(!recording.is_on());
        assert!(directory.length_bytes() <= 1 << 20);
        assert!(directory.trace().contains("\"event\":\"recording-ended\""));
        assert!(directory.trace().contains("greatest size, 1 MiB"));
        let length = directory.length_bytes();
        recording.append(LogPosition(31), &frame(31, 1));
        recording.flush();
        assert_eq!(directory.length_bytes(), length);
    }
}
