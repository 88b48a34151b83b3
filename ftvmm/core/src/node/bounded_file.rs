//! A file that is only appended to, and keeps what is newest within a bound: a VM that runs for months must not fill its host's disk.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A file that has come to half of its bound is rotated: it becomes `<name>.1`, in place of the one before.
#[derive(Debug)]
pub struct BoundedFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    half: u64,
    /// It is rotated before it grows beyond this; `None`: not a regular file, which grows nowhere.
    rotated_at: Option<u64>,
}

impl BoundedFile {
    /// Opens it for appending to what is there.
    ///
    /// # Arguments
    /// `bytes_max` is the bound for both files together. What is larger at once, a file of before or a single append, stays whole until it
    /// is replaced.
    ///
    /// # Errors
    /// The operating system's, when the file cannot be opened.
    pub fn open(path: &Path, bytes_max: u64) -> io::Result<BoundedFile> {
        let file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        let (metadata, half) = (file.metadata()?, bytes_max / 2);
        let rotated_at = metadata.is_file().then_some(half);
        Ok(BoundedFile { path: path.to_owned(), file, bytes: metadata.len(), half, rotated_at })
    }

    /// Appends the bytes by one write(2).
    ///
    /// # Arguments
    /// `rotates` is called before the file is rotated for them. What it gives comes before the bytes, and a process that is killed leaves
    /// no file without it.
    ///
    /// # Errors
    /// The operating system's. A file that cannot be rotated grows on, and is tried again later.
    pub fn append(&mut self, bytes: &[u8], rotates: impl FnOnce() -> Vec<u8>) -> io::Result<()> {
        let grown = self.bytes + bytes.len() as u64;
        if self.bytes > 0 && self.rotated_at.is_some_and(|at| grown > at) {
            self.rotated_at = match self.rotate(&rotates()) {
                Ok(()) => Some(self.half),
                Err(_) => Some(grown + self.half),
            };
        }
        self.write(bytes)
    }

    /// Ends the line that a killed process left torn, if there is one.
    ///
    /// # Errors
    /// The operating system's.
    pub fn end_torn_line(&mut self) -> io::Result<()> {
        if self.bytes == 0 {
            return Ok(());
        }
        let mut last = [0];
        self.file.seek(SeekFrom::End(-1))?;
        self.file.read_exact(&mut last)?;
        if last == *b"\n" { Ok(()) } else { self.write(b"\n") }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(bytes);
        self.bytes = match written {
            Ok(()) => self.bytes + bytes.len() as u64,
            Err(_) => self.file.metadata().map_or(self.bytes, |metadata| metadata.len()),
        };
        written
    }

    /// There is a file of this name at every moment: the old one, or the new one with its heading.
    fn rotate(&mut self, heading: &[u8]) -> io::Result<()> {
        let (next, previous) = (self.beside("new"), self.beside("1"));
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(&next)?;
        file.set_len(0)?;
        file.write_all(heading)?;
        // Its blocks are freed when nobody has it open, which takes a while: not in here.
        let replaced = File::open(&previous).ok();
        match fs::remove_file(&previous) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::hard_link(&self.path, &previous)?,
        }
        fs::rename(&next, &self.path)?;
        let _ = std::thread::Builder::new().spawn(move || drop(replaced));
        (self.file, self.bytes) = (file, heading.len() as u64);
        Ok(())
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        [self.path.as_os_str(), OsStr::new("."), OsStr::new(suffix)].into_iter().collect::<std::ffi::OsString>().into()
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn content(directory: &TempDir, name: &str) -> String {
        fs::read_to_string(directory.path().join(name)).unwrap_or_default()
    }

    #[test]
    fn a_file_keeps_what_is_newest_within_its_bound() {
        let directory = TempDir::new().unwrap();
        let mut kept = Vec::new();
        for line in ["one\n", "two\n", "three\n", "a line that is larger than all of it\n", "five\n"] {
            let mut file = BoundedFile::open(&directory.path().join("log"), 20).unwrap();
            file.append(line.as_bytes(), || b"-\n".to_vec()).unwrap();
            kept.push([content(&directory, "log.1"), content(&directory, "log")]);
        }
        let large = "-\na line that is larger than all of it\n";
        assert_eq!(kept[..2], [["", "one\n"], ["", "one\ntwo\n"]]);
        assert_eq!(kept[2..], [["one\ntwo\n", "-\nthree\n"], ["-\nthree\n", large], [large, "-\nfive\n"]]);
    }

    #[test]
    fn a_file_that_cannot_be_rotated_grows_on_until_it_can() {
        let directory = TempDir::new().unwrap();
        let mut file = BoundedFile::open(&directory.path().join("log"), 8).unwrap();
        fs::create_dir(directory.path().join("log.new")).unwrap();
        let mut append = |line: &[u8]| file.append(line, Vec::new).unwrap();
        append(b"one\n");
        append(b"two\n");
        fs::remove_dir(directory.path().join("log.new")).unwrap();
        append(b"3\n");
        append(b"four\n");
        assert_eq!([content(&directory, "log.1"), content(&directory, "log")], ["one\ntwo\n3\n", "four\n"]);
    }
}
