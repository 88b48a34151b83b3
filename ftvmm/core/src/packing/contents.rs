//! What goes into an image: the request, as the command line makes it, and the files that it names, read.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use package::Pristine;
use serde::Deserialize;

use super::error::PackError;
use super::object::{Object, PAGE_BYTES};

/// What to pack. All paths in the guest are absolute and canonical, as the package's.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The personality's image.
    pub personality: PathBuf,
    /// What the program is called in the guest.
    pub program: String,
    /// The packed file that it is: links are followed.
    pub program_file: String,
    /// The packed file that is its dynamic loader.
    pub loader_file: Option<String>,
    /// The program's arguments, its own name first.
    pub arguments: Vec<String>,
    /// `NAME=value`.
    pub environment: Vec<String>,
    pub files: Vec<RequestedFile>,
    /// Whether the image declares the network device `service`.
    pub has_network: bool,
    /// Whether it declares the block device `storage`.
    pub has_disk: bool,
    /// Whether each look at the clock is a real one.
    pub has_exact_clock: bool,
}

/// A file in the guest.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestedFile {
    pub path: String,
    /// Permission bits.
    pub permissions: u16,
    /// When its content changed last, in whole seconds since 1970; without it the file is as old as the VM.
    pub modified_s: Option<u64>,
    pub content: RequestedContent,
}

/// What a file in the guest is made from.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestedContent {
    Directory,
    /// Where it leads.
    Link(String),
    /// All that is in it.
    Text(String),
    /// A file of this host.
    Host(PathBuf),
    /// An ELF object of this host, to be laid out.
    Object(PathBuf),
}

/// The files of this host that a request names.
pub(super) struct Contents {
    by_path: HashMap<PathBuf, Vec<u8>>,
}

impl Contents {
    /// Reads them all.
    ///
    /// # Errors
    /// [`PackError::Read`] names the file.
    pub fn read(files: &[RequestedFile]) -> Result<Contents, PackError> {
        let mut by_path = HashMap::new();
        for file in files {
            if let RequestedContent::Host(path) | RequestedContent::Object(path) = &file.content
                && !by_path.contains_key(path)
            {
                let bytes = std::fs::read(path).map_err(|reason| PackError::Read { path: path.clone(), reason })?;
                by_path.insert(path.clone(), bytes);
            }
        }
        Ok(Contents { by_path })
    }

    /// The bytes of one of them.
    pub fn of(&self, path: &Path) -> &[u8] {
        self.by_path.get(path).map_or(&[], Vec::as_slice)
    }
}

/// The writable segments of an object as they are in its file: where the program may write, and what a library is that
/// the program unloads and loads again.
pub(super) fn pristine(object: &Object) -> Vec<Pristine<'_>> {
    let writable = object.segments.iter().filter(|segment| segment.writable);
    writable
        .map(|segment| Pristine {
            address: segment.address,
            // The rest of the last page is mapped too, and zero.
            memory_bytes: segment.end().next_multiple_of(PAGE_BYTES) - segment.address,
            bytes: &segment.data,
        })
        .collect()
}
