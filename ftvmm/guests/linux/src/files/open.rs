//! System calls that open paths.

use alloc::rc::Rc;

use linux_raw_sys::general::{
    __O_TMPFILE, AT_FDCWD, O_ACCMODE, O_CLOEXEC, O_CREAT, O_DIRECTORY, O_EXCL, O_LARGEFILE, O_NOCTTY, O_NOFOLLOW,
    O_PATH, O_RDONLY, O_TMPFILE, O_TRUNC, O_WRONLY,
};

use super::file_system::{Kind, New, Node};
use super::pipes::PipeEnd;
use super::special::Device;
use super::walk::{Last, Target, Walk};
use crate::kernel::Kernel;
use crate::system_calls::{Call, Errno, Outcome, errno};

/// Flags that say how to open, and are not kept.
const FLAGS_OF_OPENING: u32 = O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC;
/// Permission bits that open and mkdir can set.
pub const PERMISSIONS: u32 = 0o7777;

/// The flags as Linux takes them.
///
/// # Errors
/// EINVAL for flags that contradict each other, EOPNOTSUPP for O_TMPFILE.
fn checked(flags: u32) -> Result<u32, Errno> {
    if flags & __O_TMPFILE != 0 {
        let is_right = flags & (O_TMPFILE | O_CREAT) == O_TMPFILE && flags & O_ACCMODE != O_RDONLY;
        return Err(if is_right { errno::EOPNOTSUPP } else { errno::EINVAL });
    }
    if flags & O_PATH != 0 {
        return Ok(flags & (O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    }
    if flags & O_CREAT != 0 && flags & O_DIRECTORY != 0 {
        return Err(errno::EINVAL);
    }
    Ok(flags | O_LARGEFILE)
}

/// Whether something of that kind can be opened with these flags.
///
/// # Errors
/// ENOTDIR, ELOOP, EISDIR, ENXIO, ETXTBSY.
fn allow(kind: &Kind, flags: u32) -> Result<(), Errno> {
    if flags & O_DIRECTORY != 0 && !kind.is_directory() {
        return Err(errno::ENOTDIR);
    }
    if flags & O_PATH != 0 {
        return Ok(());
    }
    let changes = flags & O_ACCMODE != O_RDONLY || flags & O_TRUNC != 0;
    match kind {
        Kind::Link | Kind::WorkingDirectory => Err(errno::ELOOP),
        Kind::Directory | Kind::Descriptors if changes || flags & O_CREAT != 0 => Err(errno::EISDIR),
        Kind::Socket | Kind::Device(Device::Terminal) => Err(errno::ENXIO),
        Kind::Image(_) if changes => Err(errno::ETXTBSY),
        _ => Ok(()),
    }
}

fn open_at(kernel: &mut Kernel, directory: i32, path: u64, flags: u32, mode: u32) -> Outcome {
    let flags = checked(flags)?;
    let path = kernel.memory.text(path)?;
    if path.is_empty() {
        return Err(errno::ENOENT.into());
    }
    kernel.files.lowest_free(0)?;
    let is_exclusive = flags & O_CREAT != 0 && flags & O_EXCL != 0;
    let last = match flags {
        _ if is_exclusive => Last::Name,
        flags if flags & O_NOFOLLOW != 0 && flags & O_CREAT != 0 => Last::Name,
        flags if flags & O_NOFOLLOW != 0 => Last::Keep,
        flags if flags & O_CREAT != 0 => Last::Make,
        _ => Last::Follow,
    };
    let walk = kernel.files.walk_at(directory, path, last)?;
    if flags & O_CREAT != 0 {
        if walk.has_slash {
            return Err(errno::EISDIR.into());
        }
        if is_exclusive && walk.target.is_some() {
            return Err(errno::EEXIST.into());
        }
        if walk.target.is_none() {
            let permissions = mode & PERMISSIONS & !kernel.files.tree.umask;
            let time = kernel.file_time();
            let node = kernel.files.tree.create(&walk, &New::File, permissions, time)?;
            return Ok(kernel.open_node(node, Some(&walk), flags & !FLAGS_OF_OPENING)? as u64);
        }
    }
    match walk.found()? {
        Target::Node(node) => open_found(kernel, node, &walk, flags),
        Target::Link(_) if flags & O_DIRECTORY != 0 => Err(errno::ENOTDIR.into()),
        Target::Link(_) => Err(errno::ELOOP.into()),
        Target::Object(descriptor) => open_again(kernel, descriptor, flags),
    }
}

fn open_found(kernel: &mut Kernel, node: Node, walk: &Walk, flags: u32) -> Outcome {
    let attributes = kernel.files.tree.attributes(node)?;
    allow(&attributes.kind, flags)?;
    if flags & O_TRUNC != 0 && matches!(attributes.kind, Kind::File) {
        let time = kernel.file_time();
        kernel.files.tree.truncate(node, 0, time)?;
    }
    Ok(kernel.open_node(node, Some(walk), flags & !FLAGS_OF_OPENING)? as u64)
}

/// Opens what a descriptor stands for once more, by its link in /proc/self/fd: pipes only.
fn open_again(kernel: &mut Kernel, descriptor: i32, flags: u32) -> Outcome {
    if flags & O_DIRECTORY != 0 {
        return Err(errno::ENOTDIR.into());
    }
    let file = kernel.files.get(descriptor)?;
    let end = file.kind::<PipeEnd>().ok_or(errno::ENXIO)?;
    let again = match flags & O_ACCMODE {
        O_RDONLY => end.reopen(false),
        O_WRONLY => end.reopen(true),
        // Linux would give both ends as one.
        _ => return Err(errno::ENXIO.into()),
    };
    Ok(kernel.files.open(Rc::new(again), flags & !FLAGS_OF_OPENING)? as u64)
}

/// open(path, flags, mode)
///
/// # Errors
/// As open(2).
pub fn open(kernel: &mut Kernel, call: Call) -> Outcome {
    open_at(kernel, AT_FDCWD, call.word(0), call.unsigned(1), call.unsigned(2))
}

/// openat(directory, path, flags, mode)
///
/// # Errors
/// As openat(2).
pub fn openat(kernel: &mut Kernel, call: Call) -> Outcome {
    open_at(kernel, call.int(0), call.word(1), call.unsigned(2), call.unsigned(3))
}

/// creat(path, mode)
///
/// # Errors
/// As creat(2).
pub fn creat(kernel: &mut Kernel, call: Call) -> Outcome {
    open_at(kernel, AT_FDCWD, call.word(0), O_CREAT | O_WRONLY | O_TRUNC, call.unsigned(1))
}

#[cfg(test)]
mod tests {
    use linux_raw_sys::general::O_RDWR;

    use super::*;

    #[test]
    fn flags_that_contradict_each_other_are_refused() {
        assert_eq!(checked(O_CREAT | O_DIRECTORY), Err(errno::EINVAL));
        assert_eq!(checked(O_TMPFILE | O_RDONLY), Err(errno::EINVAL));
        assert_eq!(checked(O_TMPFILE | O_RDWR), Err(errno::EOPNOTSUPP));
        assert_eq!(checked(__O_TMPFILE | O_RDWR), Err(errno::EINVAL));
        assert_eq!(checked(O_PATH | O_CREAT | O_RDWR), Ok(O_PATH));
        assert_eq!(checked(O_RDWR), Ok(O_RDWR | O_LARGEFILE));
    }

    #[test]
    fn what_cannot_be_opened_says_why() {
        assert_eq!(allow(&Kind::File, O_DIRECTORY), Err(errno::ENOTDIR));
        assert_eq!(allow(&Kind::Link, O_NOFOLLOW), Err(errno::ELOOP));
        assert_eq!(allow(&Kind::Link, O_NOFOLLOW | O_PATH), Ok(()));
        assert_eq!(allow(&Kind::Directory, O_RDWR), Err(errno::EISDIR));
        assert_eq!(allow(&Kind::Directory, O_CREAT), Err(errno::EISDIR));
        assert_eq!(allow(&Kind::Directory, O_RDONLY | O_DIRECTORY), Ok(()));
        assert_eq!(allow(&Kind::Socket, O_RDWR), Err(errno::ENXIO));
        assert_eq!(allow(&Kind::Device(Device::Terminal), O_RDWR), Err(errno::ENXIO));
        assert_eq!(allow(&Kind::File, O_RDWR | O_TRUNC), Ok(()));
    }
}
