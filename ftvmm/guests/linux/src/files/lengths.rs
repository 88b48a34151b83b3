//! System calls on the length and the room of files, and on when they are on their device.

use linux_raw_sys::general::{
    AT_FDCWD, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE, POSIX_FADV_NOREUSE, S_IFDIR, S_IFIFO,
    S_IFMT,
};

use super::calls::can_write;
use super::file_system::{FILE_BYTES_MAX, Kind, Node};
use super::open_node::OpenNode;
use super::walk::{Last, Target};
use crate::kernel::Kernel;
use crate::system_calls::{Call, Errno, Outcome, errno};

fn set_length(kernel: &mut Kernel, node: Node, length: i64) -> Outcome {
    let length = u64::try_from(length).map_err(|_| errno::EINVAL)?;
    if length > FILE_BYTES_MAX {
        return Err(errno::EFBIG.into());
    }
    let time = kernel.file_time();
    kernel.files.tree.truncate(node, length, time)?;
    Ok(0)
}

/// truncate(path, length)
///
/// # Errors
/// As truncate(2).
pub fn truncate(kernel: &mut Kernel, call: Call) -> Outcome {
    let length = call.word(1) as i64;
    if length < 0 {
        return Err(errno::EINVAL.into());
    }
    let Target::Node(node) = kernel.walk_at(AT_FDCWD, call.word(0), Last::Follow)?.found()? else {
        return Err(errno::EINVAL.into());
    };
    match kernel.files.tree.attributes(node)?.kind {
        Kind::File => set_length(kernel, node, length),
        Kind::Image(_) => Err(errno::ETXTBSY.into()),
        kind if kind.is_directory() => Err(errno::EISDIR.into()),
        _ => Err(errno::EINVAL.into()),
    }
}

/// ftruncate(descriptor, length)
///
/// # Errors
/// As ftruncate(2).
pub fn ftruncate(kernel: &mut Kernel, call: Call) -> Outcome {
    let length = call.word(1) as i64;
    if length < 0 {
        return Err(errno::EINVAL.into());
    }
    let file = kernel.files.get_usable(call.int(0))?;
    match file.kind::<OpenNode>() {
        Some(opened) if matches!(opened.kind, Kind::File) && can_write(&file) => {
            set_length(kernel, opened.node, length)
        }
        _ => Err(errno::EINVAL.into()),
    }
}

/// Checks the mode of fallocate: a part of the file gets room, becomes a hole, or becomes zero.
fn check_allocation(mode: u32, offset: i64, length: i64) -> Result<(), Errno> {
    if offset < 0 || length <= 0 {
        return Err(errno::EINVAL);
    }
    match mode & !FALLOC_FL_KEEP_SIZE {
        0 | FALLOC_FL_ZERO_RANGE => Ok(()),
        FALLOC_FL_PUNCH_HOLE if mode & FALLOC_FL_KEEP_SIZE != 0 => Ok(()),
        _ => Err(errno::EOPNOTSUPP),
    }
}

/// fallocate(descriptor, mode, offset, length)
///
/// # Errors
/// As fallocate(2); EOPNOTSUPP for parts that are to be taken out or put in. Room is taken when it is written.
pub fn fallocate(kernel: &mut Kernel, call: Call) -> Outcome {
    let (mode, offset, length) = (call.unsigned(1), call.word(2) as i64, call.word(3) as i64);
    let file = kernel.files.get_usable(call.int(0))?;
    check_allocation(mode, offset, length)?;
    if !can_write(&file) {
        return Err(errno::EBADF.into());
    }
    let opened = match file.kind::<OpenNode>() {
        Some(opened) if matches!(opened.kind, Kind::File) => opened,
        _ => {
            return Err(match file.object.metadata(kernel).st_mode & S_IFMT {
                S_IFIFO => errno::ESPIPE.into(),
                S_IFDIR => errno::EISDIR.into(),
                _ => errno::ENODEV.into(),
            });
        }
    };
    let (node, offset) = (opened.node, offset as u64);
    let end = offset.checked_add(length as u64).filter(|end| *end <= FILE_BYTES_MAX).ok_or(errno::EFBIG)?;
    let size = kernel.files.tree.attributes(node)?.size;
    let space = kernel.files.tree.space(node);
    let time = kernel.file_time();
    if mode & FALLOC_FL_PUNCH_HOLE == 0 && end.saturating_sub(size) / space.block_bytes > space.free_blocks {
        return Err(errno::ENOSPC.into());
    }
    if mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) != 0 && offset < size {
        kernel.files.tree.clear(node, offset, end.min(size) - offset, time)?;
    }
    if mode & FALLOC_FL_KEEP_SIZE == 0 && end > size {
        kernel.files.tree.truncate(node, end, time)?;
    }
    Ok(0)
}

/// fadvise64(descriptor, offset, length, advice): there is nothing to be done better.
///
/// # Errors
/// EBADF; ESPIPE for a pipe; EINVAL.
pub fn fadvise64(kernel: &mut Kernel, call: Call) -> Outcome {
    let file = kernel.files.get_usable(call.int(0))?;
    if file.object.metadata(kernel).st_mode & S_IFMT == S_IFIFO {
        return Err(errno::ESPIPE.into());
    }
    if (call.word(2) as i64) < 0 || call.unsigned(3) > POSIX_FADV_NOREUSE {
        return Err(errno::EINVAL.into());
    }
    Ok(0)
}

/// fsync(descriptor), fdatasync too
///
/// # Errors
/// EBADF; EINVAL for what has no device; EIO.
pub fn fsync(kernel: &mut Kernel, call: Call) -> Outcome {
    let file = kernel.files.get_usable(call.int(0))?;
    file.object.synchronise(kernel)?;
    Ok(0)
}

/// sync_file_range(descriptor, offset, length, flags): the whole file.
///
/// # Errors
/// As fsync; EINVAL for unknown flags and negative numbers; ESPIPE for what is no file.
pub fn sync_file_range(kernel: &mut Kernel, call: Call) -> Outcome {
    const FLAGS: u32 = 7;
    let file = kernel.files.get_usable(call.int(0))?;
    if call.unsigned(3) & !FLAGS != 0 || (call.word(1) as i64) < 0 || (call.word(2) as i64) < 0 {
        return Err(errno::EINVAL.into());
    }
    file.object.synchronise(kernel).map_err(|error| if error == errno::EINVAL { errno::ESPIPE } else { error })?;
    Ok(0)
}

/// sync()
///
/// # Errors
/// None: nobody could be told.
pub fn sync(kernel: &mut Kernel, _: Call) -> Outcome {
    let _ = kernel.files.tree.synchronise(None);
    Ok(0)
}

/// syncfs(descriptor)
///
/// # Errors
/// EBADF, EIO.
pub fn syncfs(kernel: &mut Kernel, call: Call) -> Outcome {
    kernel.files.get_usable(call.int(0))?;
    kernel.files.tree.synchronise(None)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_ranges_of_a_file_can_be_allocated_or_cleared() {
        assert_eq!(check_allocation(0, 0, 10), Ok(()));
        assert_eq!(check_allocation(0, 0, 0), Err(errno::EINVAL));
        assert_eq!(check_allocation(0, -1, 10), Err(errno::EINVAL));
        assert_eq!(check_allocation(FALLOC_FL_PUNCH_HOLE, 0, 10), Err(errno::EOPNOTSUPP));
        assert_eq!(check_allocation(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 10), Ok(()));
        assert_eq!(check_allocation(FALLOC_FL_ZERO_RANGE | FALLOC_FL_PUNCH_HOLE, 0, 10), Err(errno::EOPNOTSUPP));
        assert_eq!(check_allocation(0x80, 0, 10), Err(errno::EOPNOTSUPP));
    }
}
