//! Writing a log file.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::file::{HEADER_BODY_BYTES_MAX, MAGIC, TAG_END, TAG_ENTRY, VERSION, checksum};
use super::{End, Entry, Header, LogError};

/// A log being written. Without [`LogWriter::end`] it stays a truncated one, which a reader refuses.
pub struct LogWriter {
    file: BufWriter<File>,
    entry: Vec<u8>,
    bytes: u64,
}

fn failed(source: std::io::Error) -> LogError {
    LogError::Io { operation: "written", source }
}

impl LogWriter {
    /// Creates the file, or empties the one that is there.
    ///
    /// # Errors
    /// [`LogError::Io`] where the file cannot be made or written.
    pub fn create(path: &Path, header: &Header) -> Result<LogWriter, LogError> {
        let body = serde_json::to_vec(header).map_err(|error| failed(error.into()))?;
        if body.len() > HEADER_BODY_BYTES_MAX {
            return Err(failed(std::io::Error::other("the configuration is too long for a log's header")));
        }
        let fixed = [&MAGIC[..], &VERSION.to_le_bytes(), &(body.len() as u32).to_le_bytes()].concat();
        let mut file = BufWriter::new(File::create(path).map_err(failed)?);
        let mut bytes = 0;
        for part in [&fixed, &body, &checksum(&[&fixed, &body]).to_vec()] {
            file.write_all(part).map_err(failed)?;
            bytes += part.len() as u64;
        }
        Ok(LogWriter { file, entry: Vec::new(), bytes })
    }

    /// Length of what was written so far, in bytes, what is still buffered included.
    pub fn length_bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends an entry.
    pub fn append(&mut self, entry: &Entry) -> Result<(), LogError> {
        let mut encoded = std::mem::take(&mut self.entry);
        encoded.clear();
        entry.encode(&mut encoded);
        let appended = self.append_encoded(&encoded);
        self.entry = encoded;
        appended
    }

    /// Appends what [`Entry::encode`] has made.
    pub fn append_encoded(&mut self, entry: &[u8]) -> Result<(), LogError> {
        self.bytes += 1 + entry.len() as u64;
        self.file.write_all(&[TAG_ENTRY]).and_then(|()| self.file.write_all(entry)).map_err(failed)
    }

    /// Hands everything to the operating system: what a process that is killed then has written stays written.
    pub fn flush(&mut self) -> Result<(), LogError> {
        self.file.flush().map_err(failed)
    }

    /// Writes the end record and brings everything to the disk.
    pub fn end(mut self, end: &End) -> Result<(), LogError> {
        let body = end.encode();
        let tag = [TAG_END];
        for part in [&tag[..], &body, &checksum(&[&tag, &body])] {
            self.file.write_all(part).map_err(failed)?;
        }
        self.file.flush().map_err(failed)?;
        self.file.get_ref().sync_all().map_err(failed)
    }
}
