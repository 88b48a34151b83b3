//! Reading a log file.

use std::fmt;
use std::fs;
use std::path::Path;

use super::file::{
    CHECKSUM_BYTES, END_BODY_BYTES, HEADER_BODY_BYTES_MAX, HEADER_FIXED_BYTES, MAGIC, TAG_END, TAG_ENTRY, VERSION,
    checksum,
};
use super::{End, Entry, EntryError, Fingerprint, Header, LogError, LogPosition};
use crate::determinism;

/// Where the body of the header starts: a foreign image or configuration is to be found there.
const HEADER_BODY_OFFSET: u64 = HEADER_FIXED_BYTES as u64;

/// One record of a log, with where it stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Entry { offset: u64, entry: Entry },
    Close(Close),
}

/// How a log comes to its last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// The recorded run came to its end.
    End(End),
    /// There is no end record: the recording process was killed, or still runs.
    Cut(Cut),
}

/// Where a log without an end record stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Position of the last whole entry; 0: there is none.
    pub position: LogPosition,
    /// Where the file's last whole record ends.
    pub offset: u64,
    /// What is there of the record that was being written.
    pub torn_bytes: u64,
}

impl fmt::Display for Cut {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the log has no end record: its last whole entry is {}", self.position)?;
        match self.torn_bytes {
            0 => Ok(()),
            torn => write!(formatter, ", and {torn} bytes of a torn record at offset {} are left out", self.offset),
        }
    }
}

/// A log being read. It is checked as it is read; what was returned before an error was right.
pub struct LogReader {
    bytes: Vec<u8>,
    header: Header,
    offset: usize,
    position: LogPosition,
    /// Whether the last bytes are an end record: then all before it must be whole.
    ended: bool,
}

fn malformed(offset: usize, reason: impl Into<String>) -> LogError {
    LogError::Malformed { offset: offset as u64, reason: reason.into() }
}

impl LogReader {
    /// Reads the file and checks its header.
    pub fn open(path: &Path) -> Result<LogReader, LogError> {
        LogReader::from_bytes(fs::read(path).map_err(|source| LogError::Io { operation: "read", source })?)
    }

    /// The same for a log in memory.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<LogReader, LogError> {
        if bytes.get(..8) != Some(&MAGIC) {
            return Err(malformed(0, "this is no ftvmm log"));
        }
        let version = word(&bytes, 8).ok_or_else(|| malformed(8, "the log is cut off in its header"))?;
        if version != VERSION {
            return Err(malformed(8, format!("the log has version {version}, not {VERSION}")));
        }
        let length = word(&bytes, 12).ok_or_else(|| malformed(12, "the log is cut off in its header"))? as usize;
        if length > HEADER_BODY_BYTES_MAX {
            return Err(malformed(12, format!("the header says that it has {length} bytes, which is too many")));
        }
        let end = HEADER_FIXED_BYTES + length;
        let found = bytes.get(end..end + CHECKSUM_BYTES);
        let found = found.ok_or_else(|| malformed(bytes.len(), "the log is cut off in its header"))?;
        if checksum(&[&bytes[..end]]) != found {
            return Err(malformed(end, "the checksum of the header does not match"));
        }
        let header: Header = serde_json::from_slice(&bytes[HEADER_FIXED_BYTES..end])
            .map_err(|error| malformed(HEADER_FIXED_BYTES, format!("the header makes no sense: {error}")))?;
        if header.config.digest() != header.config_digest {
            let reason = "the configuration does not match its digest: the log is of another version of ftvmm";
            return Err(malformed(HEADER_FIXED_BYTES, reason));
        }
        if header.determinism_pass != determinism::VERSION {
            let (recorded, own) = (header.determinism_pass, determinism::VERSION);
            let reason = format!("it was recorded with version {recorded} of the determinism pass, and this is {own}");
            return Err(LogError::Foreign { offset: HEADER_BODY_OFFSET, reason });
        }
        let ended = ends_with_end_record(&bytes);
        Ok(LogReader { bytes, header, offset: end + CHECKSUM_BYTES, position: LogPosition::START, ended })
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Checks that the log was recorded with the image of this digest.
    pub fn check_image(&self, digest: Fingerprint) -> Result<(), LogError> {
        match digest == self.header.image_digest {
            true => Ok(()),
            false => Err(LogError::Foreign {
                offset: HEADER_BODY_OFFSET,
                reason: format!("it was recorded with image {}, and this one is {digest}", self.header.image_digest),
            }),
        }
    }

    /// Reads all records to the end without keeping them: afterwards no error can come up half-way through a replay.
    pub fn check_all(&self) -> Result<Close, LogError> {
        let mut cursor = self.cursor();
        loop {
            if let Record::Close(close) = cursor.next()? {
                return Ok(close);
            }
        }
    }

    fn cursor(&self) -> Cursor<'_> {
        Cursor { bytes: &self.bytes, offset: self.offset, position: self.position, ended: self.ended }
    }

    /// The next record. After [`Record::Close`] there is none.
    pub fn read(&mut self) -> Result<Record, LogError> {
        let mut cursor = self.cursor();
        let record = cursor.next()?;
        (self.offset, self.position) = (cursor.offset, cursor.position);
        Ok(record)
    }
}

fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..offset + 4)?.try_into().ok().map(u32::from_le_bytes)
}

/// A damaged length can make an entry look torn. It cannot be one where the file goes on to an end record.
fn ends_with_end_record(bytes: &[u8]) -> bool {
    let Some(start) = bytes.len().checked_sub(1 + END_BODY_BYTES + CHECKSUM_BYTES) else { return false };
    let (record, found) = bytes[start..].split_at(1 + END_BODY_BYTES);
    record[0] == TAG_END && checksum(&[record]) == found
}

struct Cursor<'a> {
    bytes: &'a [u8],
    offset: usize,
    position: LogPosition,
    ended: bool,
}

impl Cursor<'_> {
    fn next(&mut self) -> Result<Record, LogError> {
        match self.bytes.get(self.offset) {
            None => self.cut().ok_or_else(|| malformed(self.offset, "nothing follows the end record")),
            Some(&TAG_ENTRY) => self.entry(),
            Some(&TAG_END) => self.end(),
            Some(tag) => Err(malformed(self.offset, format!("{tag} is no kind of record"))),
        }
    }

    /// The end of a log that stops behind the last record or within the next; `None` where it must not.
    fn cut(&self) -> Option<Record> {
        let torn_bytes = (self.bytes.len() - self.offset) as u64;
        let cut = Cut { position: self.position, offset: self.offset as u64, torn_bytes };
        (!self.ended).then_some(Record::Close(Close::Cut(cut)))
    }

    fn entry(&mut self) -> Result<Record, LogError> {
        let offset = self.offset + 1;
        let (entry, length) = match Entry::decode(&self.bytes[offset..]) {
            Ok(decoded) => decoded,
            Err(source) => {
                let torn = if matches!(source, EntryError::Truncated { .. }) { self.cut() } else { None };
                return torn.ok_or(LogError::Entry { offset: offset as u64, source });
            }
        };
        if entry.position != self.position.next() {
            let reason = match self.position {
                LogPosition::START => format!(
                    "it begins with entry {}: those before it, that another node told, are missing",
                    entry.position
                ),
                previous => format!("entry {} follows entry {previous}", entry.position),
            };
            return Err(malformed(offset, reason));
        }
        self.position = entry.position;
        self.offset = offset + length;
        Ok(Record::Entry { offset: offset as u64, entry })
    }

    fn end(&mut self) -> Result<Record, LogError> {
        let body_at = self.offset + 1;
        let checksum_at = body_at + END_BODY_BYTES;
        let file_end = checksum_at + CHECKSUM_BYTES;
        let (Some(body), Some(found)) = (
            self.bytes.get(body_at..checksum_at).and_then(|body| <&[u8; END_BODY_BYTES]>::try_from(body).ok()),
            self.bytes.get(checksum_at..file_end),
        ) else {
            return self.cut().ok_or_else(|| malformed(self.bytes.len(), "the log is cut off in its end record"));
        };
        if checksum(&[&[TAG_END], body]) != found {
            return Err(malformed(checksum_at, "the checksum of the end record does not match"));
        }
        let end = End::decode(body).ok_or_else(|| malformed(body_at, format!("{} is no kind of end", body[0])))?;
        if end.position != self.position {
            let reason = format!("the end record counts {} entries, and there are {}", end.position, self.position);
            return Err(malformed(body_at + 5, reason));
        }
        if file_end != self.bytes.len() {
            return Err(malformed(file_end, "something follows the end record"));
        }
        self.offset = file_end;
        Ok(Record::Close(Close::End(end)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{EndKind, LogWriter};
    use super::*;
    use crate::machine::{Answer, HostKind, HypercallResult, MachineConfig};

    fn small_log() -> Vec<u8> {
        log_of_pass(determinism::VERSION)
    }

    fn log_of_pass(determinism_pass: u32) -> Vec<u8> {
        // One a test: they run side by side, and each removes its own.
        let thread = format!("{:?}", std::thread::current().id());
        let directory = std::env::temp_dir().join(format!("ftvmm-log-{}-{thread}", std::process::id()));
        let path = directory.join("run.log");
        fs::create_dir_all(&directory).unwrap();
        let config = MachineConfig::new(1 << 21).with_block("storage", 4096);
        let header = Header {
            image_path: "image.hvt".into(),
            image_digest: Fingerprint::of(b"image"),
            config_digest: config.digest(),
            config,
            determinism_pass,
            host: HostKind::default(),
        };
        let mut writer = LogWriter::create(&path, &header).unwrap();
        let answers = [
            Answer::Walltime { nanoseconds: 1 },
            Answer::Poll { ready_set: 2 },
            Answer::BlockRead { result: HypercallResult::Ok, data: vec![7; 16] },
            Answer::NetworkRead { frame: None },
            Answer::NetworkRead { frame: Some(vec![9; 20]) },
            Answer::CounterWithAux { value: 3, aux: 4 },
        ];
        for (index, answer) in answers.into_iter().enumerate() {
            let position = LogPosition(index as u64 + 1);
            let fingerprint = Fingerprint::of(&position.0.to_le_bytes());
            writer.append(&Entry { position, fingerprint, answer }).unwrap();
        }
        let end = End {
            kind: EndKind::Halted { exit_status: -3 },
            position: LogPosition(6),
            fingerprint: Fingerprint::of(b"end"),
            state_digest: Fingerprint::of(b"state"),
        };
        writer.end(&end).unwrap();
        let bytes = fs::read(&path).unwrap();
        fs::remove_dir_all(&directory).ok();
        bytes
    }

    fn read_all(bytes: Vec<u8>) -> Result<(Header, Vec<Record>), LogError> {
        let mut reader = LogReader::from_bytes(bytes)?;
        reader.check_all()?;
        let mut records = Vec::new();
        loop {
            records.push(reader.read()?);
            if let Some(Record::Close(_)) = records.last() {
                return Ok((reader.header().clone(), records));
            }
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let (header, records) = read_all(small_log()).unwrap();
        assert_eq!(header.image_path, "image.hvt");
        assert_eq!(records.len(), 7);
        let Record::Close(Close::End(end)) = &records[6] else { panic!("{records:?}") };
        assert_eq!(end.kind, EndKind::Halted { exit_status: -3 });
        let Record::Entry { entry, .. } = &records[4] else { panic!("{records:?}") };
        assert_eq!(entry.answer, Answer::NetworkRead { frame: Some(vec![9; 20]) });
    }

    #[test]
    fn a_change_of_any_byte_is_found() {
        let log = small_log();
        for offset in 0..log.len() {
            for flip in [1, 0x80] {
                let mut damaged = log.clone();
                damaged[offset] ^= flip;
                let error = read_all(damaged).map(|_| ()).expect_err(&format!("byte {offset} was changed"));
                assert!(error.to_string().contains("offset"), "{error}");
            }
        }
    }

    #[test]
    fn a_cut_at_any_byte_is_found() {
        let log = small_log();
        let (_, records) = read_all(log.clone()).unwrap();
        let offsets = records.iter().filter_map(|record| match record {
            Record::Entry { offset, .. } => Some(*offset as usize - 1),
            Record::Close(_) => None,
        });
        // Where each record starts, the end record last.
        let end_at = log.len() - 1 - END_BODY_BYTES - CHECKSUM_BYTES;
        let starts: Vec<usize> = offsets.chain([end_at]).collect();
        for length in 0..log.len() {
            let read = read_all(log[..length].to_vec());
            if length < starts[0] {
                let error = read.map(|_| ()).expect_err(&format!("cut to {length} bytes"));
                assert!(error.to_string().contains("offset"), "{error}");
                continue;
            }
            let whole = starts.iter().filter(|start| **start <= length).count() - 1;
            let offset = starts[whole];
            let cut = Cut {
                position: LogPosition(whole as u64),
                offset: offset as u64,
                torn_bytes: (length - offset) as u64,
            };
            assert_eq!(read.unwrap().1.last(), Some(&Record::Close(Close::Cut(cut))), "cut to {length} bytes");
        }
    }

    #[test]
    fn damage_in_a_log_without_an_end_is_found() {
        let mut log = small_log();
        log.truncate(log.len() - 1 - END_BODY_BYTES - CHECKSUM_BYTES);
        let last = log.len() - 1;
        log[last] ^= 1;
        assert!(matches!(read_all(log), Err(LogError::Entry { source: EntryError::Checksum, .. })));
    }

    #[test]
    fn bytes_behind_the_end_are_found() {
        let mut log = small_log();
        log.push(0);
        assert!(read_all(log).is_err());
    }

    #[test]
    fn a_log_of_another_version_of_the_determinism_pass_is_refused() {
        let error = LogReader::from_bytes(log_of_pass(determinism::VERSION - 1)).err().unwrap().to_string();
        assert!(error.contains("another VM") && error.contains("version 1 of the determinism pass"), "{error}");
    }

    #[test]
    fn a_log_of_another_image_is_refused() {
        let reader = LogReader::from_bytes(small_log()).unwrap();
        assert!(reader.check_image(Fingerprint::of(b"image")).is_ok());
        assert!(matches!(reader.check_image(Fingerprint::of(b"other")), Err(LogError::Foreign { .. })));
    }
}
