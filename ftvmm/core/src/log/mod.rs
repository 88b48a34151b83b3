//! The log of a VM: its entries, the fingerprint chain that ties them to the guest's state, and the log file.

mod entry;
mod file;
mod fingerprint;
mod reader;
mod writer;

pub(crate) use entry::encode_answer;
pub use entry::{ENTRY_BYTES_MAX, Entry, EntryError, LogPosition};
pub use file::{End, EndKind, Header, LogError};
pub use fingerprint::{Chain, Fingerprint};
pub use reader::{Close, Cut, LogReader, Record};
pub use writer::LogWriter;
