//! System calls that read and write descriptors. The table finds all calls on files here.

use alloc::borrow::Cow;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::mem::size_of;

use linux_raw_sys::general::{
    O_ACCMODE, O_APPEND, O_DSYNC, O_RDWR, O_WRONLY, RWF_DSYNC, RWF_HIPRI, RWF_SYNC, S_IFIFO, S_IFMT, S_IFSOCK,
    SEEK_END, SEEK_MAX, UIO_MAXIOV,
};

use super::open_node::OpenNode;
use super::{Files, OpenFile};
use crate::kernel::Kernel;
use crate::system_calls::{Call, Errno, Outcome, Stop, errno};

pub use super::copies::{copy_file_range, sendfile};
pub use super::descriptors::{close, close_range, dup, dup2, dup3, fcntl, flock, ioctl};
pub use super::directories::{chdir, fchdir, getcwd, getdents64};
pub use super::lengths::{fadvise64, fallocate, fsync, ftruncate, sync, sync_file_range, syncfs, truncate};
pub use super::names::{
    link, linkat, mkdir, mkdirat, rename, renameat, renameat2, rmdir, symlink, symlinkat, unlink, unlinkat,
};
pub use super::open::{creat, open, openat};
pub use super::pipes::{pipe, pipe2};
pub use super::properties::{
    chmod, chown, fchmod, fchmodat, fchown, fchownat, futimesat, lchown, umask, utime, utimensat, utimes,
};
pub use super::status::{
    access, faccessat, faccessat2, fstat, fstatfs, lstat, newfstatat, readlink, readlinkat, stat, statfs, statx,
};

/// Linux moves no more at once (MAX_RW_COUNT).
pub const BYTES_MAX: u64 = 0x7fff_f000;
/// So much of several buffers is gathered for one write, in bytes: all of any datagram.
const WINDOW_BYTES: u64 = 256 << 10;

impl Files {
    /// A file that can be read.
    ///
    /// # Errors
    /// EBADF.
    pub fn readable(&self, descriptor: i32) -> Result<Rc<OpenFile>, Errno> {
        let file = self.get_usable(descriptor)?;
        if can_read(&file) { Ok(file) } else { Err(errno::EBADF) }
    }

    /// A file that can be written.
    ///
    /// # Errors
    /// EBADF.
    pub fn writable(&self, descriptor: i32) -> Result<Rc<OpenFile>, Errno> {
        let file = self.get_usable(descriptor)?;
        if can_write(&file) { Ok(file) } else { Err(errno::EBADF) }
    }
}

/// Whether a file was opened for reading. (The fourth access mode is for neither.)
pub fn can_read(file: &OpenFile) -> bool {
    !matches!(file.flags.get() & O_ACCMODE, O_WRONLY | O_ACCMODE)
}

/// Whether a file was opened for writing.
pub fn can_write(file: &OpenFile) -> bool {
    matches!(file.flags.get() & O_ACCMODE, O_WRONLY | O_RDWR)
}

/// A buffer of the program: address and length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    address: u64,
    length: u64,
}

/// The buffer of a call that has one.
fn one_part(call: &Call) -> [Part; 1] {
    [Part { address: call.word(1), length: call.word(2).min(BYTES_MAX) }]
}

/// The buffers of a call that has several (struct iovec), without empty ones.
fn parts(kernel: &Kernel, address: u64, count: u64) -> Result<Vec<Part>, Errno> {
    if count > u64::from(UIO_MAXIOV) {
        return Err(errno::EINVAL);
    }
    let mut parts = Vec::new();
    let mut left = BYTES_MAX;
    for index in 0..count {
        let place = address.checked_add(index * size_of::<[u64; 2]>() as u64).ok_or(errno::EFAULT)?;
        let [address, length] = kernel.memory.get::<[u64; 2]>(place)?;
        if length > i64::MAX as u64 {
            return Err(errno::EINVAL);
        }
        let length = length.min(left);
        left -= length;
        if length > 0 {
            parts.push(Part { address, length });
        }
    }
    Ok(parts)
}

fn total(parts: &[Part]) -> u64 {
    parts.iter().map(|part| part.length).sum()
}

/// The part at a place behind the first byte, from there on, and those behind it.
fn behind(parts: &[Part], mut done: u64) -> impl Iterator<Item = Part> + '_ {
    parts.iter().filter_map(move |part| {
        let skipped = done.min(part.length);
        done -= skipped;
        let rest = Part { address: part.address.wrapping_add(skipped), length: part.length - skipped };
        (rest.length > 0).then_some(rest)
    })
}

/// What is to be written next: a part in place, or several small ones in one piece. It ends before a part that the
/// program does not have.
fn window(kernel: &Kernel, parts: &[Part], done: u64) -> Result<Cow<'static, [u8]>, Errno> {
    let mut rest = behind(parts, done);
    let Some(first) = rest.next() else { return Ok(Cow::Borrowed(&[])) };
    let bytes = kernel.memory.bytes(first.address, first.length)?;
    let Some(mut next) = rest.next().filter(|_| first.length < WINDOW_BYTES) else { return Ok(Cow::Borrowed(bytes)) };
    let mut gathered = bytes.to_vec();
    loop {
        let length = next.length.min(WINDOW_BYTES - gathered.len() as u64);
        match kernel.memory.bytes(next.address, length) {
            Ok(bytes) => gathered.extend_from_slice(bytes),
            Err(_) => return Ok(Cow::Owned(gathered)),
        }
        match rest.next().filter(|_| (gathered.len() as u64) < WINDOW_BYTES) {
            Some(part) => next = part,
            None => return Ok(Cow::Owned(gathered)),
        }
    }
}

/// Whether a write that could not put everything in goes on when there is room again.
fn is_stream(kernel: &Kernel, file: &OpenFile) -> bool {
    matches!(file.object.metadata(kernel).st_mode & S_IFMT, S_IFIFO | S_IFSOCK)
}

/// Writes parts, at a place or where the file is; waits until all of a stream's bytes are in.
fn write_parts(kernel: &mut Kernel, file: &OpenFile, parts: &[Part], at: Option<u64>) -> Outcome {
    let appends = file.flags.get() & O_APPEND != 0;
    let at = match at {
        // As Linux does, against POSIX: pwrite(2).
        Some(_) if appends => Some(file.object.metadata(kernel).st_size as u64),
        at => at,
    };
    if appends && at.is_none() {
        // What has no places is appended to anyhow.
        let _ = file.object.seek(kernel, 0, SEEK_END);
    }
    let total = total(parts);
    let outcome = loop {
        let done = kernel.threads.current().pending.progress as u64;
        let bytes = match window(kernel, parts, done) {
            Ok(bytes) => bytes,
            Err(_) if done > 0 => break Ok(done),
            Err(error) => return Err(error.into()),
        };
        let result = match at {
            None => file.object.write(kernel, &bytes),
            Some(at) => file.object.write_at(kernel, at.saturating_add(done), &bytes),
        };
        match file.unless_nonblocking(result) {
            Ok(count) => {
                let now_done = done + count as u64;
                let goes_on = count == bytes.len() || (!file.is_nonblocking() && is_stream(kernel, file));
                if now_done >= total || count == 0 || !goes_on {
                    break Ok(now_done);
                }
                kernel.threads.current_mut().pending.progress = now_done as usize;
            }
            Err(Stop::Error(_)) if done > 0 => break Ok(done),
            Err(stop) => break Err(stop),
        }
    };
    if outcome.is_ok_and(|count| count > 0) && file.flags.get() & O_DSYNC != 0 {
        file.object.synchronise(kernel)?;
    }
    outcome
}

/// The program's buffer to read into. Where it is none, that does not matter if there is nothing to be read: a directory
/// says that it cannot be read, and at the end of a file nothing is.
fn buffer(kernel: &mut Kernel, file: &OpenFile, part: Part, at: Option<u64>) -> Result<&'static mut [u8], Stop> {
    match (kernel.memory.bytes_mut(part.address, part.length), file.kind::<OpenNode>()) {
        (Err(error), Some(opened)) if opened.has_places() => {
            match file.object.read_at(kernel, at.unwrap_or(opened.position()), &mut [0])? {
                0 => Ok(&mut []),
                _ => Err(error.into()),
            }
        }
        (found, _) => Ok(found?),
    }
}

fn read_once(kernel: &mut Kernel, file: &OpenFile, into: &mut [u8], at: Option<u64>) -> Result<usize, Stop> {
    let result = match at {
        None => file.object.read(kernel, into),
        Some(at) => file.object.read_at(kernel, at, into),
    };
    file.unless_nonblocking(result)
}

/// Reads into parts, from a place or where the file is.
fn read_parts(kernel: &mut Kernel, file: &OpenFile, parts: &[Part], at: Option<u64>) -> Outcome {
    match parts {
        [] => Ok(0),
        [part] => {
            let into = buffer(kernel, file, *part, at)?;
            Ok(read_once(kernel, file, into, at)? as u64)
        }
        _ if file.kind::<OpenNode>().is_some() => read_parts_of_node(kernel, file, parts, at),
        _ => read_and_scatter(kernel, file, parts, at),
    }
}

/// Part by part: a file gives less than asked for at its end only.
fn read_parts_of_node(kernel: &mut Kernel, file: &OpenFile, parts: &[Part], at: Option<u64>) -> Outcome {
    let mut done = 0;
    for part in parts {
        let at = at.map(|at| at.saturating_add(done));
        let outcome = buffer(kernel, file, *part, at).and_then(|into| read_once(kernel, file, into, at));
        match outcome {
            Ok(count) => done += count as u64,
            Err(_) if done > 0 => break,
            Err(stop) => return Err(stop),
        }
        if outcome.is_ok_and(|count| (count as u64) < part.length) {
            break;
        }
    }
    Ok(done)
}

/// One read for all parts: a datagram is not to be torn.
fn read_and_scatter(kernel: &mut Kernel, file: &OpenFile, parts: &[Part], at: Option<u64>) -> Outcome {
    for part in parts {
        kernel.memory.bytes_mut(part.address, part.length)?;
    }
    let mut whole = alloc::vec![0; total(parts).min(WINDOW_BYTES) as usize];
    let count = read_once(kernel, file, &mut whole, at)?;
    let mut rest = &whole[..count.min(whole.len())];
    for part in parts {
        let (bytes, behind) = rest.split_at(rest.len().min(part.length as usize));
        kernel.memory.bytes_mut(part.address, bytes.len() as u64)?.copy_from_slice(bytes);
        rest = behind;
    }
    Ok(count as u64)
}

/// Checks that an offset is one.
fn offset(argument: u64) -> Result<u64, Errno> {
    if argument > i64::MAX as u64 { Err(errno::EINVAL) } else { Ok(argument) }
}

/// A file that has places: EBADF comes before ESPIPE, and that before EBADF for the access mode.
fn placed(kernel: &Kernel, descriptor: i32) -> Result<Rc<OpenFile>, Errno> {
    let file = kernel.files.get_usable(descriptor)?;
    let has_places = match file.kind::<OpenNode>() {
        Some(opened) => opened.has_places(),
        None => false,
    };
    if has_places { Ok(file) } else { Err(errno::ESPIPE) }
}

fn placed_to_read(kernel: &Kernel, descriptor: i32) -> Result<Rc<OpenFile>, Errno> {
    placed(kernel, descriptor).and_then(|file| if can_read(&file) { Ok(file) } else { Err(errno::EBADF) })
}

fn placed_to_write(kernel: &Kernel, descriptor: i32) -> Result<Rc<OpenFile>, Errno> {
    placed(kernel, descriptor).and_then(|file| if can_write(&file) { Ok(file) } else { Err(errno::EBADF) })
}

/// read(descriptor, buffer, length)
///
/// # Errors
/// As read(2).
pub fn read(kernel: &mut Kernel, call: Call) -> Outcome {
    let file = kernel.files.readable(call.int(0))?;
    read_parts(kernel, &file, &one_part(&call), None)
}

/// write(descriptor, buffer, length)
///
/// # Errors
/// As write(2).
pub fn write(kernel: &mut Kernel, call: Call) -> Outcome {
    let file = kernel.files.writable(call.int(0))?;
    write_parts(kernel, &file, &one_part(&call), None)
}

/// pread64(descriptor, buffer, length, offset)
///
/// # Errors
/// As pread(2).
pub fn pread64(kernel: &mut Kernel, call: Call) -> Outcome {
    let at = offset(call.word(3))?;
    let file = placed_to_read(kernel, call.int(0))?;
    read_parts(kernel, &file, &one_part(&call), Some(at))
}

/// pwrite64(descriptor, buffer, length, offset)
///
/// # Errors
/// As pwrite(2).
pub fn pwrite64(kernel: &mut Kernel, call: Call) -> Outcome {
    let at = offset(call.word(3))?;
    let file = placed_to_write(kernel, call.int(0))?;
    write_parts(kernel, &file, &one_part(&call), Some(at))
}

/// readv(descriptor, parts, count)
///
/// # Errors
/// As readv(2).
pub fn readv(kernel: &mut Kernel, call: Call) -> Outcome {
    let file = kernel.files.readable(call.int(0))?;
    let parts = parts(kernel, call.word(1), call.word(2))?;
    // Nothing is never looked for, not even where nothing can be read.
    if parts.is_empty() { Ok(0) } else { read_parts(kernel, &file, &parts, None) }
}

/// writev(descriptor, parts, count)
///
/// # Errors
/// As writev(2).
pub fn writev(kernel: &mut Kernel, call: Call) -> Outcome {
    let file = kernel.files.writable(call.int(0))?;
    let parts = parts(kernel, call.word(1), call.word(2))?;
    if parts.is_empty() { Ok(0) } else { write_parts(kernel, &file, &parts, None) }
}

/// preadv(descriptor, parts, count, offset)
///
/// # Errors
/// As preadv(2).
pub fn preadv(kernel: &mut Kernel, call: Call) -> Outcome {
    let at = offset(call.word(3))?;
    let file = placed_to_read(kernel, call.int(0))?;
    let parts = parts(kernel, call.word(1), call.word(2))?;
    if parts.is_empty() { Ok(0) } else { read_parts(kernel, &file, &parts, Some(at)) }
}

/// pwritev(descriptor, parts, count, offset)
///
/// # Errors
/// As pwritev(2).
pub fn pwritev(kernel: &mut Kernel, call: Call) -> Outcome {
    let at = offset(call.word(3))?;
    let file = placed_to_write(kernel, call.int(0))?;
    let parts = parts(kernel, call.word(1), call.word(2))?;
    if parts.is_empty() { Ok(0) } else { write_parts(kernel, &file, &parts, Some(at)) }
}

/// preadv2(descriptor, parts, count, offset, unused, flags): offset -1 is the file's own.
///
/// # Errors
/// As preadv2(2); EOPNOTSUPP for flags that change anything.
pub fn preadv2(kernel: &mut Kernel, call: Call) -> Outcome {
    let is_known = call.unsigned(5) & !RWF_HIPRI == 0;
    match call.word(3) {
        u64::MAX => known(is_known, || kernel.files.readable(call.int(0)).map(|_| ()))?,
        at => known(is_known, || offset(at).and_then(|_| placed_to_read(kernel, call.int(0))).map(|_| ()))?,
    }
    if call.word(3) == u64::MAX { readv(kernel, call) } else { preadv(kernel, call) }
}

/// pwritev2(descriptor, parts, count, offset, unused, flags): offset -1 is the file's own.
///
/// # Errors
/// As pwritev2(2); EOPNOTSUPP for flags other than those of how soon the bytes are on the device.
pub fn pwritev2(kernel: &mut Kernel, call: Call) -> Outcome {
    let is_known = call.unsigned(5) & !(RWF_HIPRI | RWF_DSYNC | RWF_SYNC) == 0;
    match call.word(3) {
        u64::MAX => known(is_known, || kernel.files.writable(call.int(0)).map(|_| ()))?,
        at => known(is_known, || offset(at).and_then(|_| placed_to_write(kernel, call.int(0))).map(|_| ()))?,
    }
    let count = if call.word(3) == u64::MAX { writev(kernel, call) } else { pwritev(kernel, call) }?;
    if call.unsigned(5) & (RWF_DSYNC | RWF_SYNC) != 0 {
        kernel.files.get(call.int(0))?.object.synchronise(kernel)?;
    }
    Ok(count)
}

/// Unknown flags are noticed behind what is wrong with the descriptor.
fn known(is_known: bool, check: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
    if is_known { Ok(()) } else { check().and(Err(errno::EOPNOTSUPP)) }
}

/// lseek(descriptor, offset, whence)
///
/// # Errors
/// As lseek(2).
pub fn lseek(kernel: &mut Kernel, call: Call) -> Outcome {
    let file = kernel.files.get_usable(call.int(0))?;
    if call.unsigned(2) > SEEK_MAX {
        return Err(errno::EINVAL.into());
    }
    Ok(file.object.seek(kernel, call.word(1) as i64, call.unsigned(2))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTS: [Part; 3] =
        [Part { address: 100, length: 10 }, Part { address: 200, length: 5 }, Part { address: 300, length: 1 }];

    #[test]
    fn what_is_done_is_skipped_across_parts() {
        let rest = |done| behind(&PARTS, done).collect::<Vec<_>>();
        assert_eq!(rest(0), PARTS);
        assert_eq!(rest(4), [Part { address: 104, length: 6 }, PARTS[1], PARTS[2]]);
        assert_eq!(rest(10), [PARTS[1], PARTS[2]]);
        assert_eq!(rest(12), [Part { address: 202, length: 3 }, PARTS[2]]);
        assert_eq!(rest(16), []);
        assert_eq!(rest(100), []);
        assert_eq!(total(&PARTS), 16);
    }

    #[test]
    fn negative_offsets_are_refused() {
        assert_eq!(offset(0), Ok(0));
        assert_eq!(offset(-1i64 as u64), Err(errno::EINVAL));
    }
}
