//! System calls on descriptors themselves: closing and copying them, their flags, and locks.

use alloc::rc::Rc;

use linux_raw_sys::general::{
    F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_GETFL, F_GETLEASE, F_GETLK, F_GETOWN, F_GETOWN_EX, F_GETPIPE_SZ, F_GETSIG,
    F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW, F_OWNER_TID, F_RDLCK, F_SETFD, F_SETFL, F_SETLK, F_SETLKW, F_SETOWN,
    F_SETOWN_EX, F_SETPIPE_SZ, F_SETSIG, F_UNLCK, F_WRLCK, FD_CLOEXEC, LOCK_EX, LOCK_MAND, LOCK_NB, LOCK_SH, LOCK_UN,
    O_APPEND, O_CLOEXEC, O_DIRECT, O_NOATIME, O_NONBLOCK, O_PATH, SEEK_CUR, SEEK_END, SEEK_SET, f_owner_ex,
    flock as Flock,
};
use linux_raw_sys::ioctl::{FIOASYNC, FIOCLEX, FIONBIO, FIONCLEX};

use super::OpenFile;
use super::calls::{can_read, can_write};
use super::locks::{Owner, RangeLock};
use super::open_node::OpenNode;
use super::pipes::PipeEnd;
use crate::kernel::Kernel;
use crate::system_calls::{Call, Errno, Outcome, Stop, errno};
use crate::threads::PROCESS;

/// Flags of close_range (`include/uapi/linux/close_range.h`).
const CLOSE_RANGE_UNSHARE: u32 = 2;
const CLOSE_RANGE_CLOEXEC: u32 = 4;
/// Flags that F_SETFL sets; it leaves the others as they are.
const FLAGS_TO_SET: u32 = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME;

/// close(descriptor)
///
/// # Errors
/// EBADF.
pub fn close(kernel: &mut Kernel, call: Call) -> Outcome {
    kernel.close(call.int(0))?;
    Ok(0)
}

/// close_range(first, last, flags)
///
/// # Errors
/// EINVAL.
pub fn close_range(kernel: &mut Kernel, call: Call) -> Outcome {
    let (first, last, flags) = (call.unsigned(0), call.unsigned(1), call.unsigned(2));
    if flags & !(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC) != 0 || first > last {
        return Err(errno::EINVAL.into());
    }
    let open = kernel.files.open_descriptors().filter(|descriptor| (first..=last).contains(&(*descriptor as u32)));
    for descriptor in open.collect::<alloc::vec::Vec<i32>>() {
        if flags & CLOSE_RANGE_CLOEXEC != 0 {
            kernel.files.descriptor_mut(descriptor)?.closes_on_exec = true;
        } else {
            kernel.close(descriptor)?;
        }
    }
    Ok(0)
}

/// dup(descriptor)
///
/// # Errors
/// EBADF, EMFILE.
pub fn dup(kernel: &mut Kernel, call: Call) -> Outcome {
    let file = kernel.files.get(call.int(0))?;
    Ok(kernel.files.install(file, false, 0)? as u64)
}

fn dup_to(kernel: &mut Kernel, old: i32, new: i32, closes_on_exec: bool) -> Outcome {
    let place = usize::try_from(new).ok().filter(|new| *new < kernel.files.limit()).ok_or(errno::EBADF)?;
    let file = kernel.files.get(old)?;
    // The new one may not be open.
    let _ = kernel.close(new);
    Ok(kernel.files.install(file, closes_on_exec, place)? as u64)
}

/// dup2(old, new)
///
/// # Errors
/// EBADF.
pub fn dup2(kernel: &mut Kernel, call: Call) -> Outcome {
    if call.int(0) == call.int(1) {
        kernel.files.get(call.int(0))?;
        return Ok(call.int(1) as u64);
    }
    dup_to(kernel, call.int(0), call.int(1), false)
}

/// dup3(old, new, flags)
///
/// # Errors
/// EINVAL where both are the same and for other flags than O_CLOEXEC, EBADF.
pub fn dup3(kernel: &mut Kernel, call: Call) -> Outcome {
    if call.unsigned(2) & !O_CLOEXEC != 0 || call.int(0) == call.int(1) {
        return Err(errno::EINVAL.into());
    }
    dup_to(kernel, call.int(0), call.int(1), call.unsigned(2) & O_CLOEXEC != 0)
}

/// fcntl(descriptor, command, argument)
///
/// # Errors
/// As fcntl(2); EINVAL for new leases, notes and seals.
pub fn fcntl(kernel: &mut Kernel, call: Call) -> Outcome {
    let (descriptor, command, argument) = (call.int(0), call.unsigned(1), call.word(2));
    let file = kernel.files.get(descriptor)?;
    let is_for_paths = matches!(command, F_DUPFD | F_DUPFD_CLOEXEC | F_GETFD | F_SETFD | F_GETFL);
    if file.flags.get() & O_PATH != 0 && !is_for_paths {
        return Err(errno::EBADF.into());
    }
    match command {
        F_DUPFD | F_DUPFD_CLOEXEC => {
            let from = usize::try_from(argument).ok().filter(|from| *from < kernel.files.limit());
            Ok(kernel.files.install(file, command == F_DUPFD_CLOEXEC, from.ok_or(errno::EINVAL)?)? as u64)
        }
        F_GETFD => Ok(u64::from(kernel.files.descriptor(descriptor)?.closes_on_exec)),
        F_SETFD => {
            kernel.files.descriptor_mut(descriptor)?.closes_on_exec = argument & u64::from(FD_CLOEXEC) != 0;
            Ok(0)
        }
        F_GETFL => Ok(u64::from(file.flags.get())),
        F_SETFL => {
            file.flags.set(file.flags.get() & !FLAGS_TO_SET | argument as u32 & FLAGS_TO_SET);
            // Others may wait by this descriptor, and wait no more.
            kernel.change();
            Ok(0)
        }
        F_GETLK | F_OFD_GETLK => get_lock(kernel, &file, argument, command == F_OFD_GETLK),
        F_SETLK | F_SETLKW => set_lock(kernel, &file, argument, Some(Owner::Process), command == F_SETLKW),
        F_OFD_SETLK | F_OFD_SETLKW => set_lock(kernel, &file, argument, None, command == F_OFD_SETLKW),
        F_GETPIPE_SZ => Ok(file.kind::<PipeEnd>().ok_or(errno::EBADF)?.capacity() as u64),
        F_SETPIPE_SZ => {
            let capacity = file.kind::<PipeEnd>().ok_or(errno::EBADF)?.set_capacity(argument as u32)?;
            kernel.change();
            Ok(capacity as u64)
        }
        // Who gets SIGIO: nobody does.
        F_SETOWN | F_GETOWN | F_SETOWN_EX | F_SETSIG | F_GETSIG => Ok(0),
        F_GETOWN_EX => {
            kernel.memory.put(argument, f_owner_ex { type_: F_OWNER_TID as i32, pid: 0 })?;
            Ok(0)
        }
        // There is no lease.
        F_GETLEASE => Ok(u64::from(F_UNLCK)),
        _ => Err(errno::EINVAL.into()),
    }
}

/// The range that a lock of the program's names; its owner is the caller's business.
///
/// # Errors
/// EINVAL, EOVERFLOW.
fn range(lock: &Flock, position: u64, size: u64, owner: Owner) -> Result<RangeLock, Errno> {
    let base = match lock.l_whence as u32 {
        SEEK_SET => 0,
        SEEK_CUR => position,
        SEEK_END => size,
        _ => return Err(errno::EINVAL),
    };
    let start = (base as i64).checked_add(lock.l_start).ok_or(errno::EOVERFLOW)?;
    // A negative length lies before the start; none goes to the end, wherever that will be.
    let (start, end) = match lock.l_len {
        0 => (start, None),
        length if length > 0 => (start, Some(start.checked_add(length - 1).ok_or(errno::EOVERFLOW)?)),
        length => (start.checked_add(length).ok_or(errno::EINVAL)?, Some(start - 1)),
    };
    let start = u64::try_from(start).map_err(|_| errno::EINVAL)?;
    let end = end.map_or(Ok(u64::MAX), |last| u64::try_from(last).map(|last| last + 1)).map_err(|_| errno::EINVAL)?;
    Ok(RangeLock { owner, is_exclusive: lock.l_type as u32 == F_WRLCK, start, end })
}

/// The range of a lock on an open file.
fn range_on(kernel: &Kernel, file: &OpenFile, lock: &Flock, owner: Owner) -> Result<RangeLock, Errno> {
    let position = file.kind::<OpenNode>().map_or(0, OpenNode::position);
    let size = file.object.metadata(kernel).st_size as u64;
    range(lock, position, size, owner)
}

fn opening(file: &OpenFile) -> Owner {
    Owner::Opening(file.kind::<OpenNode>().map_or(0, |opened| opened.opening))
}

fn get_lock(kernel: &mut Kernel, file: &OpenFile, address: u64, is_opening: bool) -> Outcome {
    let mut lock: Flock = kernel.memory.get(address)?;
    match lock.l_type as u32 {
        F_RDLCK | F_WRLCK => {}
        F_UNLCK if is_opening => {}
        _ => return Err(errno::EINVAL.into()),
    }
    let owner = if is_opening { opening(file) } else { Owner::Process };
    let wanted = range_on(kernel, file, &lock, owner)?;
    if is_opening && lock.l_pid != 0 {
        return Err(errno::EINVAL.into());
    }
    let conflict = file.kind::<OpenNode>().and_then(|opened| kernel.files.locks.conflict(opened.node, &wanted));
    match conflict {
        None => lock.l_type = F_UNLCK as i16,
        Some(other) => {
            lock.l_type = if other.is_exclusive { F_WRLCK } else { F_RDLCK } as i16;
            lock.l_whence = SEEK_SET as i16;
            lock.l_start = other.start as i64;
            lock.l_len = if other.end == u64::MAX { 0 } else { (other.end - other.start) as i64 };
            lock.l_pid = if other.owner == Owner::Process { PROCESS } else { -1 };
        }
    }
    kernel.memory.put(address, lock)?;
    Ok(0)
}

/// Sets a lock of the given owner, or of the opening itself.
fn set_lock(kernel: &mut Kernel, file: &OpenFile, address: u64, owner: Option<Owner>, waits: bool) -> Outcome {
    let lock: Flock = kernel.memory.get(address)?;
    let wanted = range_on(kernel, file, &lock, owner.unwrap_or_else(|| opening(file)))?;
    match lock.l_type as u32 {
        F_UNLCK => {}
        F_RDLCK if !can_read(file) => return Err(errno::EBADF.into()),
        F_WRLCK if !can_write(file) => return Err(errno::EBADF.into()),
        F_RDLCK | F_WRLCK => {}
        _ => return Err(errno::EINVAL.into()),
    }
    if owner.is_none() && lock.l_pid != 0 {
        return Err(errno::EINVAL.into());
    }
    // Other files than those of the tree have no second opening that a lock could keep out.
    let Some(opened) = file.kind::<OpenNode>() else { return Ok(0) };
    let locks = &mut kernel.files.locks;
    if lock.l_type as u32 == F_UNLCK {
        locks.release(opened.node, wanted.owner, wanted.start, wanted.end);
        kernel.change();
        return Ok(0);
    }
    match locks.conflict(opened.node, &wanted) {
        Some(_) if waits => Err(Stop::wait(None)),
        Some(_) => Err(errno::EAGAIN.into()),
        None => {
            locks.take(opened.node, wanted);
            // It may have taken the place of a stronger one.
            kernel.change();
            Ok(0)
        }
    }
}

/// flock(descriptor, operation)
///
/// # Errors
/// As flock(2).
pub fn flock(kernel: &mut Kernel, call: Call) -> Outcome {
    let operation = call.unsigned(1);
    if operation & LOCK_MAND != 0 {
        // Linux does nothing any more for these, not even look at the descriptor.
        return Ok(0);
    }
    let exclusive = match operation & !LOCK_NB {
        LOCK_SH => Some(false),
        LOCK_EX => Some(true),
        LOCK_UN => None,
        _ => return Err(errno::EINVAL.into()),
    };
    let file = kernel.files.get_usable(call.int(0))?;
    if exclusive.is_some() && !can_read(&file) && !can_write(&file) {
        return Err(errno::EBADF.into());
    }
    let Some(opened) = file.kind::<OpenNode>() else { return Ok(0) };
    let is_done = kernel.files.locks.lock_whole(opened.node, opened.opening, exclusive);
    // Even where it is not: what the opening had is gone.
    if is_done || !kernel.threads.current().pending.has_waited {
        kernel.change();
    }
    match is_done {
        true => Ok(0),
        false if operation & LOCK_NB != 0 => Err(errno::EAGAIN.into()),
        false => Err(Stop::wait(None)),
    }
}

/// ioctl(descriptor, request, argument)
///
/// # Errors
/// EBADF, EFAULT; ENOTTY for what the file does not know.
pub fn ioctl(kernel: &mut Kernel, call: Call) -> Outcome {
    let (descriptor, request, argument) = (call.int(0), call.unsigned(1), call.word(2));
    let file: Rc<OpenFile> = kernel.files.get_usable(descriptor)?;
    match request {
        FIOCLEX | FIONCLEX => {
            kernel.files.descriptor_mut(descriptor)?.closes_on_exec = request == FIOCLEX;
            Ok(0)
        }
        FIONBIO => {
            let is_on = kernel.memory.get::<i32>(argument)? != 0;
            file.flags.set(file.flags.get() & !O_NONBLOCK | if is_on { O_NONBLOCK } else { 0 });
            kernel.change();
            Ok(0)
        }
        FIOASYNC => {
            kernel.memory.get::<i32>(argument)?;
            Ok(0)
        }
        _ => file.object.control(kernel, request, argument),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(whence: u32, start: i64, length: i64) -> Flock {
        Flock { l_type: F_WRLCK as i16, l_whence: whence as i16, l_start: start, l_len: length, l_pid: 0 }
    }

    fn bounds(whence: u32, start: i64, length: i64) -> Result<(u64, u64), Errno> {
        range(&lock(whence, start, length), 100, 1000, Owner::Process).map(|range| (range.start, range.end))
    }

    #[test]
    fn ranges_are_counted_from_the_start_the_position_or_the_end() {
        assert_eq!(bounds(SEEK_SET, 5, 10), Ok((5, 15)));
        assert_eq!(bounds(SEEK_CUR, 5, 10), Ok((105, 115)));
        assert_eq!(bounds(SEEK_END, -5, 10), Ok((995, 1005)));
        assert_eq!(bounds(SEEK_SET, 5, 0), Ok((5, u64::MAX)));
        assert_eq!(bounds(SEEK_SET, 15, -5), Ok((10, 15)));
    }

    #[test]
    fn ranges_that_are_none_are_refused() {
        assert_eq!(bounds(99, 0, 1), Err(errno::EINVAL));
        assert_eq!(bounds(SEEK_SET, -1, 1), Err(errno::EINVAL));
        assert_eq!(bounds(SEEK_SET, 5, -6), Err(errno::EINVAL));
        assert_eq!(bounds(SEEK_SET, i64::MAX, 2), Err(errno::EOVERFLOW));
        assert_eq!(bounds(SEEK_CUR, i64::MAX, 0), Err(errno::EOVERFLOW));
        assert_eq!(bounds(SEEK_SET, i64::MIN, i64::MIN), Err(errno::EINVAL));
    }
}
