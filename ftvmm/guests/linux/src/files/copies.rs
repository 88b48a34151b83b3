//! System calls that copy from file to file.

use alloc::vec;

use linux_raw_sys::general::{O_APPEND, SEEK_SET};

use super::calls::{BYTES_MAX, can_read, can_write};
use super::file_system::{Kind, Node};
use super::open_node::OpenNode;
use super::{Files, OpenFile};
use crate::kernel::Kernel;
use crate::system_calls::{Call, Errno, Outcome, Stop, errno};

/// So much is copied at once, in bytes.
const PIECE_BYTES: u64 = 64 << 10;

/// Where a copy reads or writes: at a place of its own, or where the file is.
#[derive(Clone, Copy)]
struct Place {
    /// where the program keeps it, 0 for the file's own
    address: u64,
    at: u64,
}

impl Place {
    /// The place at that address, or the file's own (which is looked up later).
    fn get(kernel: &Kernel, address: u64) -> Result<Place, Errno> {
        let at = if address == 0 { 0 } else { kernel.memory.get(address)? };
        Ok(Place { address, at })
    }

    /// Moves it on, so that a call that is tried again goes on there.
    fn advance(&mut self, kernel: &mut Kernel, file: &OpenFile, count: u64) -> Result<(), Errno> {
        self.at += count;
        match self.address {
            0 => file.object.seek(kernel, self.at as i64, SEEK_SET).map(|_| ()),
            address => kernel.memory.put(address, self.at),
        }
    }
}

/// The opened node that bytes can be copied from.
fn source(file: &OpenFile) -> Result<&OpenNode, Errno> {
    let opened = file.kind::<OpenNode>().filter(|opened| opened.has_places() && !opened.kind.is_directory());
    opened.ok_or(errno::EINVAL)
}

/// sendfile(to, from, offset, count)
///
/// # Errors
/// As sendfile(2).
pub fn sendfile(kernel: &mut Kernel, call: Call) -> Outcome {
    let mut place = Place::get(kernel, call.word(2))?;
    let from = kernel.files.readable(call.int(1))?;
    let opened = match source(&from) {
        Err(_) if place.address != 0 && from.kind::<OpenNode>().is_none() => return Err(errno::ESPIPE.into()),
        other => other,
    };
    let to = kernel.files.writable(call.int(0))?;
    if to.flags.get() & O_APPEND != 0 {
        return Err(errno::EINVAL.into());
    }
    let opened = opened?;
    if place.address == 0 {
        place.at = opened.position();
    }
    if place.at > i64::MAX as u64 {
        return Err(errno::EINVAL.into());
    }
    let count = call.word(3).min(BYTES_MAX);
    let mut piece = vec![0; count.min(PIECE_BYTES) as usize];
    loop {
        let done = kernel.threads.current().pending.progress as u64;
        let wanted = (count - done).min(PIECE_BYTES) as usize;
        let read = match from.object.read_at(kernel, place.at, &mut piece[..wanted]) {
            Ok(0) => return Ok(done),
            Ok(read) => read,
            Err(_) if done > 0 => return Ok(done),
            Err(stop) => return Err(stop),
        };
        let result = to.object.write(kernel, &piece[..read]);
        let written = match to.unless_nonblocking(result) {
            Ok(0) => return Ok(done),
            Ok(written) => written,
            Err(Stop::Error(_)) if done > 0 => return Ok(done),
            Err(stop) => return Err(stop),
        };
        place.advance(kernel, &from, written as u64)?;
        kernel.threads.current_mut().pending.progress += written;
        if written < read && to.is_nonblocking() {
            return Ok(done + written as u64);
        }
    }
}

/// The regular file behind a descriptor.
fn regular(files: &Files, file: &OpenFile) -> Result<(Node, u64), Errno> {
    let opened = file.kind::<OpenNode>().ok_or(errno::EINVAL)?;
    match opened.kind {
        Kind::Directory | Kind::Descriptors => Err(errno::EISDIR),
        Kind::File | Kind::Image(_) => Ok((opened.node, files.tree.attributes(opened.node)?.size)),
        _ => Err(errno::EINVAL),
    }
}

/// copy_file_range(from, offset, to, offset, count, flags)
///
/// # Errors
/// As copy_file_range(2).
pub fn copy_file_range(kernel: &mut Kernel, call: Call) -> Outcome {
    let from = kernel.files.get_usable(call.int(0))?;
    let to = kernel.files.get_usable(call.int(2))?;
    let (mut source, mut target) = (Place::get(kernel, call.word(1))?, Place::get(kernel, call.word(3))?);
    if call.unsigned(5) != 0 {
        return Err(errno::EINVAL.into());
    }
    let (from_node, from_size) = regular(&kernel.files, &from)?;
    let (to_node, _) = regular(&kernel.files, &to)?;
    if !can_read(&from) || !can_write(&to) || to.flags.get() & O_APPEND != 0 {
        return Err(errno::EBADF.into());
    }
    if from_node.mount != to_node.mount {
        return Err(errno::EXDEV.into());
    }
    for (place, file) in [(&mut source, &from), (&mut target, &to)] {
        if place.address == 0 {
            place.at = file.kind::<OpenNode>().map_or(0, OpenNode::position);
        }
        if place.at > i64::MAX as u64 {
            return Err(errno::EINVAL.into());
        }
    }
    let count = call.word(4).min(BYTES_MAX).min(from_size.saturating_sub(source.at));
    let overlaps = source.at < target.at.saturating_add(count) && target.at < source.at.saturating_add(count);
    if from_node == to_node && overlaps {
        return Err(errno::EINVAL.into());
    }
    let mut piece = vec![0; count.min(PIECE_BYTES) as usize];
    let mut done = 0;
    while done < count {
        let wanted = (count - done).min(PIECE_BYTES) as usize;
        let copied = from
            .object
            .read_at(kernel, source.at, &mut piece[..wanted])
            .and_then(|read| to.object.write_at(kernel, target.at, &piece[..read]));
        match copied {
            Ok(0) => break,
            Ok(copied) => {
                done += copied as u64;
                source.advance(kernel, &from, copied as u64)?;
                target.advance(kernel, &to, copied as u64)?;
            }
            Err(_) if done > 0 => break,
            Err(stop) => return Err(stop),
        }
    }
    Ok(done)
}
