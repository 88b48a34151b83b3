//! What a packed image tells its personality: the program, where its objects lie, and its files; and what the personality
//! tells the VMM of the program's threads.
//!
//! The packer (`ftvmm pack`, in the core) encodes a [`Package`] by postcard, lays the bytes into a read-only segment and
//! writes their place into the personality's [`Place`], which it finds by the symbol [`PLACE_SYMBOL`]. The personality
//! decodes it at start-up, in place: names and contents stay where they lie. Where the personality keeps its
//! [`ThreadRecord`], the packer writes into the image's notes.
#![no_std]

extern crate alloc;

use alloc::vec::Vec;
use core::mem::offset_of;

use serde::{Deserialize, Serialize};

/// The symbol of the personality's [`Place`], in its data segment.
pub const PLACE_SYMBOL: &str = "PACKAGE_PLACE";
/// The symbol of the function that a stub calls in place of SYSCALL: the registers are as at the instruction, and it
/// preserves all but RAX, RCX and R11.
pub const ENTRY_SYMBOL: &str = "linux_system_call";

/// The symbol of the personality's [`ThreadRecord`], in its data segment.
pub const RECORD_SYMBOL: &str = "THREAD_RECORD";

/// Where the encoded package lies: zero in a personality that nobody packed.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// guest address of the first byte
    pub address: u64,
    /// length in bytes
    pub length_bytes: u64,
}

/// All that the personality needs to know of the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package<'a> {
    /// the program's arguments, its own name first
    #[serde(borrow)]
    pub arguments: Vec<&'a str>,
    /// the environment, `NAME=value`
    #[serde(borrow)]
    pub environment: Vec<&'a str>,
    /// what is started
    #[serde(borrow)]
    pub program: Program<'a>,
    /// the guest addresses from the lowest to behind the highest byte of all objects
    pub objects: (u64, u64),
    /// every file, a directory before what is in it
    #[serde(borrow)]
    pub files: Vec<File<'a>>,
    /// whether each look at the clock is a real one
    pub has_exact_clock: bool,
}

/// The program as its start-up code finds it (System V ABI for AMD64, section 3.4.3: the auxiliary vector).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program<'a> {
    /// its path in the guest
    pub path: &'a str,
    /// AT_PHDR: the guest address of its program headers
    pub headers: u64,
    /// AT_PHNUM
    pub header_count: u64,
    /// AT_ENTRY
    pub entry: u64,
    /// AT_BASE: where the dynamic loader lies, 0 for a static program
    pub loader: u64,
    /// where the first thread starts: the loader's entry point, or the program's
    pub start: u64,
}

/// A file, directory or symbolic link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File<'a> {
    /// its path in the guest, absolute and without `.`, `..` or a slash at the end
    pub path: &'a str,
    /// permission bits of its mode
    pub permissions: u16,
    /// when its content changed last, in whole seconds since 1970; None says that it is as old as the VM
    pub modified_s: Option<u64>,
    /// what is in it
    #[serde(borrow)]
    pub content: Content<'a>,
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content<'a> {
    /// a regular file's bytes
    Bytes(&'a [u8]),
    /// a directory
    Directory,
    /// where a symbolic link leads
    Link(&'a str),
    /// An ELF object that lies in the image already, its segments at their places relative to `base`.
    Object {
        /// guest address of its first page
        base: u64,
        /// length from its first to behind its last page, in bytes
        span_bytes: u64,
        /// length of the file in bytes
        file_bytes: u64,
        /// the file's first bytes: header, program headers and notes, as the dynamic loader reads them
        head: &'a [u8],
        /// its writable segments as they were in the file, for a program that maps it a second time
        #[serde(borrow)]
        writable: Vec<Pristine<'a>>,
    },
}

/// A writable segment's first content; behind it, up to the segment's end, is zero.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pristine<'a> {
    /// guest address
    pub address: u64,
    /// length in memory, in bytes
    pub memory_bytes: u64,
    /// the file's content
    pub bytes: &'a [u8],
}

/// A package that cannot be written or read.
pub type PackageError = postcard::Error;

impl<'a> Package<'a> {
    /// The encoded package.
    ///
    /// # Errors
    /// Where the encoder runs out of memory.
    pub fn encode(&self) -> Result<Vec<u8>, PackageError> {
        postcard::to_allocvec(self)
    }

    /// The package that `bytes` hold; names and contents are borrowed from them.
    ///
    /// # Errors
    /// Where the bytes are cut off or hold something else.
    pub fn decode(bytes: &'a [u8]) -> Result<Package<'a>, PackageError> {
        postcard::from_bytes(bytes)
    }
}

/// What the VMM may know of the program's threads, all of it about the time of the last way out of the personality: it
/// reads this when the program has not come back for long. Times are those of the monotonic clock, in nanoseconds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadRecord {
    /// grows on each way into and out of the personality: even while the program runs
    pub turn: u64,
    /// the time
    pub now: u64,
    /// what has happened that a waiting thread may be waiting for, counted
    pub news: u64,
    /// when the first of the other threads' waits ends by itself; `u64::MAX` for never
    pub first_end: u64,
    /// the least of it that one of the listening threads has seen
    pub oldest_seen: u64,
    /// the number of the thread that runs; 0 before there is one
    pub thread: u64,
    /// how many others can run
    pub ready: u32,
    /// how many others wait for something that changes: data, a connection, room
    pub listening: u32,
    /// the name of the thread that runs, with zeros behind it
    pub name: [u8; 16],
}

impl ThreadRecord {
    /// That of a program which has not started.
    pub const EMPTY: ThreadRecord = ThreadRecord {
        turn: 0,
        now: 0,
        news: 0,
        first_end: u64::MAX,
        oldest_seen: u64::MAX,
        thread: 0,
        ready: 0,
        listening: 0,
        name: [0; 16],
    };
    /// Its size in bytes.
    pub const BYTES: usize = size_of::<ThreadRecord>();

    /// The record that lies in guest memory as these bytes.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> ThreadRecord {
        let word = |at: usize| bytes[at..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
        let half = |at: usize| bytes[at..].first_chunk().map_or(0, |half| u32::from_le_bytes(*half));
        ThreadRecord {
            turn: word(offset_of!(ThreadRecord, turn)),
            now: word(offset_of!(ThreadRecord, now)),
            news: word(offset_of!(ThreadRecord, news)),
            first_end: word(offset_of!(ThreadRecord, first_end)),
            oldest_seen: word(offset_of!(ThreadRecord, oldest_seen)),
            thread: word(offset_of!(ThreadRecord, thread)),
            ready: half(offset_of!(ThreadRecord, ready)),
            listening: half(offset_of!(ThreadRecord, listening)),
            name: bytes[offset_of!(ThreadRecord, name)..].first_chunk().copied().unwrap_or_default(),
        }
    }
}
