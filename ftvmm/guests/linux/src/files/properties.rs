//! System calls that change what is known of a file: permissions, owners, times.

use linux_raw_sys::general::{__kernel_timespec, AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, UTIME_NOW, UTIME_OMIT};

use super::file_system::Change;
use super::open::PERMISSIONS;
use super::walk::Target;
use crate::clock::NANOSECONDS;
use crate::kernel::Kernel;
use crate::system_calls::{Call, Errno, Outcome, errno};

/// setuid, setgid, and the bit that makes setgid mean what it says.
const SET_USER: u32 = 0o4000;
const SET_GROUP: u32 = 0o2000;
const GROUP_EXECUTES: u32 = 0o010;

fn change(kernel: &mut Kernel, target: Target, change: &Change) -> Outcome {
    let time = kernel.file_time();
    match target {
        Target::Node(node) => kernel.files.tree.change(node, change, time)?,
        Target::Link(_) => return Err(errno::EPERM.into()),
        // What has no name looks the same to all.
        Target::Object(_) => {}
    }
    Ok(0)
}

fn change_permissions(kernel: &mut Kernel, target: Target, mode: u32) -> Outcome {
    change(kernel, target, &Change { permissions: Some(mode & PERMISSIONS), ..Change::default() })
}

/// What a descriptor stands for, unless it was opened for its path only.
fn usable(kernel: &Kernel, descriptor: i32) -> Result<Target, Errno> {
    kernel.files.get_usable(descriptor)?;
    kernel.files.target(descriptor)
}

/// chmod(path, mode)
///
/// # Errors
/// As chmod(2).
pub fn chmod(kernel: &mut Kernel, call: Call) -> Outcome {
    let target = kernel.target_at(AT_FDCWD, call.word(0), 0)?;
    change_permissions(kernel, target, call.unsigned(1))
}

/// fchmod(descriptor, mode)
///
/// # Errors
/// As fchmod(2).
pub fn fchmod(kernel: &mut Kernel, call: Call) -> Outcome {
    let target = usable(kernel, call.int(0))?;
    change_permissions(kernel, target, call.unsigned(1))
}

/// fchmodat(directory, path, mode)
///
/// # Errors
/// As fchmodat(2).
pub fn fchmodat(kernel: &mut Kernel, call: Call) -> Outcome {
    let target = kernel.target_at(call.int(0), call.word(1), 0)?;
    change_permissions(kernel, target, call.unsigned(2))
}

/// umask(permissions): the old ones.
///
/// # Errors
/// None.
pub fn umask(kernel: &mut Kernel, call: Call) -> Outcome {
    const BITS: u32 = 0o777;
    let old = core::mem::replace(&mut kernel.files.tree.umask, call.unsigned(0) & BITS);
    Ok(u64::from(old))
}

fn change_owner(kernel: &mut Kernel, target: Target, owner: u32, group: u32) -> Outcome {
    const STAYS: u32 = u32::MAX;
    let given = |number: u32| (number != STAYS).then_some(number);
    let mut wanted = Change { owner: given(owner), group: given(group), ..Change::default() };
    if let Target::Node(node) = target {
        let attributes = kernel.files.tree.attributes(node)?;
        if !attributes.kind.is_directory() {
            // A program that ran as the old owner must not run as the new one.
            let executes = attributes.permissions & GROUP_EXECUTES != 0;
            let lost = SET_USER | if executes { SET_GROUP } else { 0 };
            wanted.permissions = Some(attributes.permissions & !lost);
        }
    }
    change(kernel, target, &wanted)
}

/// chown(path, owner, group)
///
/// # Errors
/// As chown(2).
pub fn chown(kernel: &mut Kernel, call: Call) -> Outcome {
    let target = kernel.target_at(AT_FDCWD, call.word(0), 0)?;
    change_owner(kernel, target, call.unsigned(1), call.unsigned(2))
}

/// lchown(path, owner, group)
///
/// # Errors
/// As lchown(2).
pub fn lchown(kernel: &mut Kernel, call: Call) -> Outcome {
    let target = kernel.target_at(AT_FDCWD, call.word(0), AT_SYMLINK_NOFOLLOW)?;
    change_owner(kernel, target, call.unsigned(1), call.unsigned(2))
}

/// fchown(descriptor, owner, group)
///
/// # Errors
/// As fchown(2).
pub fn fchown(kernel: &mut Kernel, call: Call) -> Outcome {
    let target = usable(kernel, call.int(0))?;
    change_owner(kernel, target, call.unsigned(1), call.unsigned(2))
}

/// fchownat(directory, path, owner, group, flags)
///
/// # Errors
/// As fchownat(2).
pub fn fchownat(kernel: &mut Kernel, call: Call) -> Outcome {
    let flags = call.unsigned(4);
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(errno::EINVAL.into());
    }
    let target = kernel.target_at(call.int(0), call.word(1), flags)?;
    change_owner(kernel, target, call.unsigned(2), call.unsigned(3))
}

/// Two times, of access and of modification, as a call gives them: seconds, and nanoseconds or what stands for them.
type Times = [(i64, i64); 2];

/// The time that is meant: None where it stays.
fn meant(time: (i64, i64), now: u64) -> Result<Option<u64>, Errno> {
    match time {
        (_, nanoseconds) if nanoseconds == i64::from(UTIME_NOW) => Ok(Some(now)),
        (_, nanoseconds) if nanoseconds == i64::from(UTIME_OMIT) => Ok(None),
        (seconds, nanoseconds) if (0..NANOSECONDS as i64).contains(&nanoseconds) => {
            // Nothing is older than 1970 here.
            let seconds = u64::try_from(seconds).unwrap_or(0);
            Ok(Some(seconds.saturating_mul(NANOSECONDS).saturating_add(nanoseconds as u64)))
        }
        _ => Err(errno::EINVAL),
    }
}

/// Sets times; None is now, both.
fn set_times(kernel: &mut Kernel, target: Target, times: Option<Times>) -> Outcome {
    let now = kernel.file_time();
    let [accessed, modified] = match times {
        Some([accessed, modified]) => [meant(accessed, now)?, meant(modified, now)?],
        None => [Some(now); 2],
    };
    change(kernel, target, &Change { accessed, modified, ..Change::default() })
}

/// utimensat(directory, path, times, flags): without a path, the descriptor itself.
///
/// # Errors
/// As utimensat(2).
pub fn utimensat(kernel: &mut Kernel, call: Call) -> Outcome {
    let (directory, path, flags) = (call.int(0), call.word(1), call.unsigned(3));
    let times = match call.word(2) {
        0 => None,
        address => {
            let times: [__kernel_timespec; 2] = kernel.memory.get(address)?;
            Some(times.map(|time| (time.tv_sec, time.tv_nsec)))
        }
    };
    if times.is_some_and(|times| times.iter().all(|(_, nanoseconds)| *nanoseconds == i64::from(UTIME_OMIT))) {
        return Ok(0);
    }
    let target = if path == 0 && directory != AT_FDCWD {
        if flags != 0 {
            return Err(errno::EINVAL.into());
        }
        usable(kernel, directory)?
    } else {
        if flags & !(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
            return Err(errno::EINVAL.into());
        }
        kernel.target_at(directory, path, flags)?
    };
    set_times(kernel, target, times)
}

/// Times in seconds and microseconds (struct timeval).
fn microsecond_times(kernel: &Kernel, address: u64) -> Result<Option<Times>, Errno> {
    if address == 0 {
        return Ok(None);
    }
    let times: [[i64; 2]; 2] = kernel.memory.get(address)?;
    let is_valid = times.iter().all(|[_, microseconds]| (0..1_000_000).contains(microseconds));
    match is_valid {
        true => Ok(Some(times.map(|[seconds, microseconds]| (seconds, microseconds * 1000)))),
        false => Err(errno::EINVAL),
    }
}

/// utimes(path, times)
///
/// # Errors
/// As utimes(2).
pub fn utimes(kernel: &mut Kernel, call: Call) -> Outcome {
    let times = microsecond_times(kernel, call.word(1))?;
    let target = kernel.target_at(AT_FDCWD, call.word(0), 0)?;
    set_times(kernel, target, times)
}

/// futimesat(directory, path, times): without a path, the descriptor itself.
///
/// # Errors
/// As futimesat(2).
pub fn futimesat(kernel: &mut Kernel, call: Call) -> Outcome {
    let times = microsecond_times(kernel, call.word(2))?;
    let target = match (call.int(0), call.word(1)) {
        (directory, 0) if directory != AT_FDCWD => usable(kernel, directory)?,
        (directory, path) => kernel.target_at(directory, path, 0)?,
    };
    set_times(kernel, target, times)
}

/// utime(path, times in seconds)
///
/// # Errors
/// As utime(2).
pub fn utime(kernel: &mut Kernel, call: Call) -> Outcome {
    let times = match call.word(1) {
        0 => None,
        address => Some(kernel.memory.get::<[i64; 2]>(address)?.map(|seconds| (seconds, 0))),
    };
    let target = kernel.target_at(AT_FDCWD, call.word(0), 0)?;
    set_times(kernel, target, times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_now_or_stays_or_is_what_it_says() {
        assert_eq!(meant((5, i64::from(UTIME_NOW)), 77), Ok(Some(77)));
        assert_eq!(meant((5, i64::from(UTIME_OMIT)), 77), Ok(None));
        assert_eq!(meant((5, 6), 77), Ok(Some(5_000_000_006)));
        assert_eq!(meant((-5, 6), 77), Ok(Some(6)));
        assert_eq!(meant((i64::MAX, 0), 77), Ok(Some(u64::MAX)));
        assert_eq!(meant((5, NANOSECONDS as i64), 77), Err(errno::EINVAL));
        assert_eq!(meant((5, -1), 77), Err(errno::EINVAL));
    }
}
