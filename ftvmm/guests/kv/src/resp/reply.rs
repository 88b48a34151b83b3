//! Replies: RESP2, and what RESP3 writes otherwise (nil and maps) for clients that ask for it with HELLO 3, as some do
//! unasked.

use alloc::vec::Vec;
use core::fmt::Display;

/// Replies in the order of their requests, as bytes for the client.
#[derive(Debug, Default)]
pub struct Replies {
    bytes: Vec<u8>,
    /// whether the client asked for RESP3
    pub resp3: bool,
}

impl Replies {
    /// The bytes so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Takes back what was written behind that length.
    pub fn truncate(&mut self, length: usize) {
        self.bytes.truncate(length);
    }

    /// A simple string.
    pub fn simple(&mut self, text: &str) {
        self.line(b'+', text);
    }

    /// An error; line ends in the message become spaces.
    pub fn error(&mut self, message: impl Display) {
        let start = self.bytes.len() + 1;
        self.line(b'-', message);
        let end = self.bytes.len() - 2;
        self.bytes[start..end].iter_mut().filter(|byte| matches!(byte, b'\r' | b'\n')).for_each(|byte| *byte = b' ');
    }

    /// A whole number.
    pub fn integer(&mut self, number: i64) {
        self.line(b':', number);
    }

    /// A bulk string.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.line(b'$', bytes.len());
        self.bytes.extend_from_slice(bytes);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// A bulk string, or nil.
    pub fn bulk_or_nil(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None if self.resp3 => self.bytes.extend_from_slice(b"_\r\n"),
            None => self.bytes.extend_from_slice(b"$-1\r\n"),
        }
    }

    /// The head of an array; its elements follow.
    pub fn array(&mut self, count: usize) {
        self.line(b'*', count);
    }

    /// The head of a map of so many pairs; names and values follow in turn.
    pub fn map(&mut self, count: usize) {
        if self.resp3 { self.line(b'%', count) } else { self.array(2 * count) }
    }

    fn line(&mut self, kind: u8, content: impl Display) {
        use core::fmt::Write;
        self.bytes.push(kind);
        let _ = write!(Text(&mut self.bytes), "{content}");
        self.bytes.extend_from_slice(b"\r\n");
    }
}

struct Text<'a>(&'a mut Vec<u8>);

impl core::fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}
