//! System calls on directories: the working directory, and what is in one.

use alloc::string::ToString;

use linux_raw_sys::general::{AT_FDCWD, DT_DIR, DT_LNK};

use super::Files;
use super::file_system::{Kind, Node};
use super::open_node::OpenNode;
use super::walk::Last;
use crate::kernel::Kernel;
use crate::system_calls::{Call, Errno, Outcome, errno};

/// Where the entries behind `.` and `..` begin.
const FIRST_PLACE: u64 = 2;

/// getcwd(buffer, length): the length of the path with its zero.
///
/// # Errors
/// ERANGE, EFAULT; ENOENT where the directory has been removed.
pub fn getcwd(kernel: &mut Kernel, call: Call) -> Outcome {
    let mut path = kernel.files.tree.path_of(kernel.files.tree.working())?.into_bytes();
    path.push(0);
    if path.len() as u64 > call.word(1) {
        return Err(errno::ERANGE.into());
    }
    kernel.memory.bytes_mut(call.word(0), path.len() as u64)?.copy_from_slice(&path);
    Ok(path.len() as u64)
}

/// chdir(path)
///
/// # Errors
/// As chdir(2).
pub fn chdir(kernel: &mut Kernel, call: Call) -> Outcome {
    let walk = kernel.walk_at(AT_FDCWD, call.word(0), Last::Follow)?;
    walk.found()?;
    if !walk.is_directory {
        return Err(errno::ENOTDIR.into());
    }
    kernel.files.tree.set_working(walk.node()?);
    Ok(0)
}

/// fchdir(descriptor)
///
/// # Errors
/// EBADF, ENOTDIR.
pub fn fchdir(kernel: &mut Kernel, call: Call) -> Outcome {
    let directory = kernel.files.directory(call.int(0))?;
    kernel.files.tree.set_working(directory);
    Ok(0)
}

/// Writes entries as getdents64 gives them (struct linux_dirent64).
struct Listing<'a> {
    into: &'a mut [u8],
    filled: usize,
    is_full: bool,
}

impl Listing<'_> {
    /// Adds an entry where it fits; `next` is where the directory goes on behind it.
    fn add(&mut self, name: &str, number: u64, kind: u8, next: u64) -> bool {
        const HEAD_BYTES: usize = 8 + 8 + 2 + 1;
        let length = (HEAD_BYTES + name.len() + 1).next_multiple_of(8);
        let Some(record) = self.into.get_mut(self.filled..self.filled + length) else {
            self.is_full = true;
            return false;
        };
        record.fill(0);
        record[..8].copy_from_slice(&number.to_le_bytes());
        record[8..16].copy_from_slice(&next.to_le_bytes());
        record[16..18].copy_from_slice(&(length as u16).to_le_bytes());
        record[18] = kind;
        record[HEAD_BYTES..HEAD_BYTES + name.len()].copy_from_slice(name.as_bytes());
        self.filled += length;
        true
    }
}

/// Lists a directory from a place on; returns where it goes on.
fn list(files: &Files, node: Node, kind: &Kind, from: u64, listing: &mut Listing) -> Result<u64, Errno> {
    let mut place = from;
    if files.tree.attributes(node)?.links == 0 {
        return Err(errno::ENOENT);
    }
    if place == 0 && listing.add(".", node.number, DT_DIR as u8, 1) {
        place = 1;
    }
    if place == 1 && listing.add("..", files.tree.parent(node)?.number, DT_DIR as u8, FIRST_PLACE) {
        place = FIRST_PLACE;
    }
    if place < FIRST_PLACE {
        return Ok(place);
    }
    if matches!(kind, Kind::Descriptors) {
        for descriptor in files.open_descriptors() {
            let next = FIRST_PLACE + 1 + descriptor as u64;
            if next > place {
                if !listing.add(&descriptor.to_string(), next, DT_LNK as u8, next) {
                    break;
                }
                place = next;
            }
        }
        return Ok(place);
    }
    files.tree.list(node, place - FIRST_PLACE, &mut |entry| {
        let next = entry.place.saturating_add(FIRST_PLACE);
        let fits = listing.add(entry.name, entry.number, entry.kind.entry_type(), next);
        if fits {
            place = next;
        }
        fits
    })?;
    Ok(place)
}

/// getdents64(descriptor, buffer, length)
///
/// # Errors
/// EBADF, ENOTDIR, EFAULT; EINVAL where the next entry does not fit; ENOENT where the directory has been removed.
pub fn getdents64(kernel: &mut Kernel, call: Call) -> Outcome {
    let file = kernel.files.get_usable(call.int(0))?;
    let opened = file.kind::<OpenNode>().filter(|opened| opened.kind.is_directory()).ok_or(errno::ENOTDIR)?;
    let into = kernel.memory.bytes_mut(call.word(1), u64::from(call.unsigned(2)))?;
    let mut listing = Listing { into, filled: 0, is_full: false };
    let place = list(&kernel.files, opened.node, &opened.kind, opened.position(), &mut listing)?;
    opened.set_position(place);
    if listing.filled == 0 && listing.is_full { Err(errno::EINVAL.into()) } else { Ok(listing.filled as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_whole_words_and_end_where_the_buffer_does() {
        let mut buffer = [0xaa; 60];
        let mut listing = Listing { into: &mut buffer, filled: 0, is_full: false };
        assert!(listing.add("a", 7, DT_DIR as u8, 3));
        assert!(listing.add("five5", 8, DT_LNK as u8, 4));
        assert_eq!(listing.filled, 24 + 32);
        assert!(!listing.add("b", 9, DT_DIR as u8, 5));
        assert!(listing.is_full);
        assert_eq!(buffer[..8], 7u64.to_le_bytes());
        assert_eq!(buffer[8..16], 3u64.to_le_bytes());
        assert_eq!(buffer[16..24], [24, 0, DT_DIR as u8, b'a', 0, 0, 0, 0]);
        assert_eq!(&buffer[24 + 19..24 + 25], b"five5\0");
    }
}
