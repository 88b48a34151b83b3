//! System calls that make, move and remove names.

use linux_raw_sys::general::{
    AT_EMPTY_PATH, AT_FDCWD, AT_REMOVEDIR, AT_SYMLINK_FOLLOW, AT_SYMLINK_NOFOLLOW, RENAME_NOREPLACE,
};

use super::file_system::New;
use super::walk::{Last, Target};
use crate::kernel::Kernel;
use crate::system_calls::{Call, Outcome, errno};

/// Permission bits that mkdir can set.
const DIRECTORY_PERMISSIONS: u32 = 0o1777;

fn mkdir_at(kernel: &mut Kernel, directory: i32, path: u64, mode: u32) -> Outcome {
    let walk = kernel.walk_at(directory, path, Last::Name)?;
    let permissions = mode & DIRECTORY_PERMISSIONS & !kernel.files.tree.umask;
    let time = kernel.file_time();
    kernel.files.tree.create(&walk, &New::Directory, permissions, time)?;
    Ok(0)
}

fn rmdir_at(kernel: &mut Kernel, directory: i32, path: u64) -> Outcome {
    let walk = kernel.walk_at(directory, path, Last::Name)?;
    let time = kernel.file_time();
    kernel.files.tree.remove_directory(&walk, time)?;
    Ok(0)
}

fn unlink_at(kernel: &mut Kernel, directory: i32, path: u64) -> Outcome {
    let walk = kernel.walk_at(directory, path, Last::Name)?;
    let time = kernel.file_time();
    kernel.files.tree.unlink(&walk, time)?;
    Ok(0)
}

fn rename_at(kernel: &mut Kernel, from: (i32, u64), to: (i32, u64), flags: u32) -> Outcome {
    if flags & !RENAME_NOREPLACE != 0 {
        return Err(errno::EINVAL.into());
    }
    let paths = (kernel.memory.text(from.1)?, kernel.memory.text(to.1)?);
    let from = kernel.files.walk_at(from.0, paths.0, Last::Name)?;
    let to = kernel.files.walk_at(to.0, paths.1, Last::Name)?;
    let time = kernel.file_time();
    kernel.files.tree.rename(&from, &to, flags & RENAME_NOREPLACE != 0, time)?;
    Ok(0)
}

fn link_at(kernel: &mut Kernel, from: (i32, u64), to: (i32, u64), flags: u32) -> Outcome {
    if flags & !(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(errno::EINVAL.into());
    }
    let to_path = kernel.memory.text(to.1);
    let keeps = if flags & AT_SYMLINK_FOLLOW != 0 { 0 } else { AT_SYMLINK_NOFOLLOW };
    let target = kernel.target_at(from.0, from.1, flags & AT_EMPTY_PATH | keeps)?;
    let to = kernel.files.walk_at(to.0, to_path?, Last::Name)?;
    let time = kernel.file_time();
    match target {
        Target::Node(node) => kernel.files.tree.link(node, &to, time)?,
        // What is behind a descriptor is in no file system that the name could be in.
        Target::Link(_) | Target::Object(_) => return Err(errno::EXDEV.into()),
    }
    Ok(0)
}

fn symlink_at(kernel: &mut Kernel, target: u64, directory: i32, path: u64) -> Outcome {
    let target = kernel.memory.text(target)?;
    if target.is_empty() {
        return Err(errno::ENOENT.into());
    }
    let walk = kernel.walk_at(directory, path, Last::Name)?;
    let time = kernel.file_time();
    kernel.files.tree.create(&walk, &New::Link(target), 0o777, time)?;
    Ok(0)
}

/// mkdir(path, mode)
///
/// # Errors
/// As mkdir(2).
pub fn mkdir(kernel: &mut Kernel, call: Call) -> Outcome {
    mkdir_at(kernel, AT_FDCWD, call.word(0), call.unsigned(1))
}

/// mkdirat(directory, path, mode)
///
/// # Errors
/// As mkdir(2).
pub fn mkdirat(kernel: &mut Kernel, call: Call) -> Outcome {
    mkdir_at(kernel, call.int(0), call.word(1), call.unsigned(2))
}

/// rmdir(path)
///
/// # Errors
/// As rmdir(2).
pub fn rmdir(kernel: &mut Kernel, call: Call) -> Outcome {
    rmdir_at(kernel, AT_FDCWD, call.word(0))
}

/// unlink(path)
///
/// # Errors
/// As unlink(2).
pub fn unlink(kernel: &mut Kernel, call: Call) -> Outcome {
    unlink_at(kernel, AT_FDCWD, call.word(0))
}

/// unlinkat(directory, path, flags)
///
/// # Errors
/// As unlink(2) and rmdir(2).
pub fn unlinkat(kernel: &mut Kernel, call: Call) -> Outcome {
    match call.unsigned(2) {
        0 => unlink_at(kernel, call.int(0), call.word(1)),
        AT_REMOVEDIR => rmdir_at(kernel, call.int(0), call.word(1)),
        _ => Err(errno::EINVAL.into()),
    }
}

/// rename(old, new)
///
/// # Errors
/// As rename(2).
pub fn rename(kernel: &mut Kernel, call: Call) -> Outcome {
    rename_at(kernel, (AT_FDCWD, call.word(0)), (AT_FDCWD, call.word(1)), 0)
}

/// renameat(old directory, old, new directory, new)
///
/// # Errors
/// As rename(2).
pub fn renameat(kernel: &mut Kernel, call: Call) -> Outcome {
    rename_at(kernel, (call.int(0), call.word(1)), (call.int(2), call.word(3)), 0)
}

/// renameat2(old directory, old, new directory, new, flags)
///
/// # Errors
/// As rename(2); EINVAL for flags other than RENAME_NOREPLACE.
pub fn renameat2(kernel: &mut Kernel, call: Call) -> Outcome {
    rename_at(kernel, (call.int(0), call.word(1)), (call.int(2), call.word(3)), call.unsigned(4))
}

/// link(old, new)
///
/// # Errors
/// As link(2).
pub fn link(kernel: &mut Kernel, call: Call) -> Outcome {
    link_at(kernel, (AT_FDCWD, call.word(0)), (AT_FDCWD, call.word(1)), 0)
}

/// linkat(old directory, old, new directory, new, flags)
///
/// # Errors
/// As link(2).
pub fn linkat(kernel: &mut Kernel, call: Call) -> Outcome {
    link_at(kernel, (call.int(0), call.word(1)), (call.int(2), call.word(3)), call.unsigned(4))
}

/// symlink(target, path)
///
/// # Errors
/// As symlink(2).
pub fn symlink(kernel: &mut Kernel, call: Call) -> Outcome {
    symlink_at(kernel, call.word(0), AT_FDCWD, call.word(1))
}

/// symlinkat(target, directory, path)
///
/// # Errors
/// As symlink(2).
pub fn symlinkat(kernel: &mut Kernel, call: Call) -> Outcome {
    symlink_at(kernel, call.word(0), call.int(1), call.word(2))
}
