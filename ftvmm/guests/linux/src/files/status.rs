//! System calls that tell what is known of a file.

use alloc::format;
use alloc::string::String;

use linux_raw_sys::general::{
    __kernel_fsid_t, ANON_INODE_FS_MAGIC, AT_EACCESS, AT_EMPTY_PATH, AT_FDCWD, AT_NO_AUTOMOUNT, AT_STATX_SYNC_TYPE,
    AT_SYMLINK_NOFOLLOW, O_ACCMODE, O_RDONLY, O_WRONLY, PIPEFS_MAGIC, R_OK, S_IFIFO, S_IFLNK, S_IFMT, S_IFSOCK,
    SOCKFS_MAGIC, STATX__RESERVED, STATX_BASIC_STATS, W_OK, X_OK, stat as Status, statfs as SpaceStatus,
    statx as MoreStatus, statx_timestamp,
};

use super::file_system::{BLOCK_BYTES, Kind, NAME_BYTES_MAX, Space, empty_status};
use super::open_node::OpenNode;
use super::tree::is_executable;
use super::walk::{Last, Target};
use crate::kernel::Kernel;
use crate::system_calls::{Call, Errno, Outcome, errno};

/// What stat says of a target.
fn status_of(kernel: &Kernel, target: Target) -> Result<Status, Errno> {
    match target {
        Target::Node(node) => Ok(kernel.files.tree.attributes(node)?.status(node)),
        Target::Object(descriptor) => Ok(kernel.files.get(descriptor)?.object.metadata(kernel)),
        Target::Link(descriptor) => {
            // proc(5): the permissions tell how the file was opened.
            const LENGTH: i64 = 64;
            let permissions = match kernel.files.get(descriptor)?.flags.get() & O_ACCMODE {
                O_RDONLY => 0o500,
                O_WRONLY => 0o300,
                _ => 0o700,
            };
            let mut status = empty_status(S_IFLNK | permissions, descriptor as u64 + 1);
            status.st_size = LENGTH;
            Ok(status)
        }
    }
}

fn stat_at(kernel: &mut Kernel, directory: i32, path: u64, address: u64, flags: u32) -> Outcome {
    let target = kernel.target_at(directory, path, flags)?;
    kernel.memory.put(address, status_of(kernel, target)?)?;
    Ok(0)
}

/// stat(path, structure)
///
/// # Errors
/// As stat(2).
pub fn stat(kernel: &mut Kernel, call: Call) -> Outcome {
    stat_at(kernel, AT_FDCWD, call.word(0), call.word(1), 0)
}

/// lstat(path, structure)
///
/// # Errors
/// As lstat(2).
pub fn lstat(kernel: &mut Kernel, call: Call) -> Outcome {
    stat_at(kernel, AT_FDCWD, call.word(0), call.word(1), AT_SYMLINK_NOFOLLOW)
}

/// fstat(descriptor, structure)
///
/// # Errors
/// EBADF, EFAULT.
pub fn fstat(kernel: &mut Kernel, call: Call) -> Outcome {
    let file = kernel.files.get(call.int(0))?;
    kernel.memory.put(call.word(1), file.object.metadata(kernel))?;
    Ok(0)
}

/// newfstatat(directory, path, structure, flags)
///
/// # Errors
/// As fstatat(2).
pub fn newfstatat(kernel: &mut Kernel, call: Call) -> Outcome {
    let flags = call.unsigned(3);
    if flags & !(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE) != 0 {
        return Err(errno::EINVAL.into());
    }
    stat_at(kernel, call.int(0), call.word(1), call.word(2), flags)
}

/// The parts of a device number (`include/linux/kdev_t.h`, `new_decode_dev`).
fn device_parts(device: u64) -> (u32, u32) {
    let major = device >> 8 & 0xfff;
    let minor = device & 0xff | device >> 12 & 0xf_ff00;
    (major as u32, minor as u32)
}

/// What statx says where stat says this.
fn more(status: &Status) -> MoreStatus {
    let time = |seconds: u64, nanoseconds: u64| statx_timestamp {
        tv_sec: seconds as i64,
        tv_nsec: nanoseconds as u32,
        __reserved: 0,
    };
    // SAFETY: a structure of integers, for which zero is valid.
    let mut more: MoreStatus = unsafe { core::mem::zeroed() };
    more.stx_mask = STATX_BASIC_STATS;
    more.stx_blksize = status.st_blksize as u32;
    more.stx_nlink = status.st_nlink as u32;
    (more.stx_uid, more.stx_gid) = (status.st_uid, status.st_gid);
    more.stx_mode = status.st_mode as u16;
    more.stx_ino = status.st_ino;
    more.stx_size = status.st_size as u64;
    more.stx_blocks = status.st_blocks as u64;
    more.stx_atime = time(status.st_atime, status.st_atime_nsec);
    more.stx_mtime = time(status.st_mtime, status.st_mtime_nsec);
    more.stx_ctime = time(status.st_ctime, status.st_ctime_nsec);
    (more.stx_rdev_major, more.stx_rdev_minor) = device_parts(status.st_rdev);
    (more.stx_dev_major, more.stx_dev_minor) = device_parts(status.st_dev);
    more
}

/// statx(directory, path, flags, mask, structure)
///
/// # Errors
/// As statx(2).
pub fn statx(kernel: &mut Kernel, call: Call) -> Outcome {
    let flags = call.unsigned(2);
    let is_known = flags & !(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE) == 0;
    let is_contradiction = flags & AT_STATX_SYNC_TYPE == AT_STATX_SYNC_TYPE;
    if !is_known || is_contradiction || call.unsigned(3) & STATX__RESERVED != 0 {
        return Err(errno::EINVAL.into());
    }
    let target = kernel.target_at(call.int(0), call.word(1), flags)?;
    kernel.memory.put(call.word(4), more(&status_of(kernel, target)?))?;
    Ok(0)
}

fn access_at(kernel: &mut Kernel, directory: i32, path: u64, mode: u32, flags: u32) -> Outcome {
    if mode & !(R_OK | W_OK | X_OK) != 0 || flags & !(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) != 0 {
        return Err(errno::EINVAL.into());
    }
    // Root may do everything but execute what nobody may.
    match kernel.target_at(directory, path, flags & !AT_EACCESS)? {
        Target::Node(node) if mode & X_OK != 0 && !is_executable(&kernel.files.tree.attributes(node)?) => {
            Err(errno::EACCES.into())
        }
        Target::Object(_) if mode & X_OK != 0 => Err(errno::EACCES.into()),
        _ => Ok(0),
    }
}

/// access(path, mode)
///
/// # Errors
/// As access(2).
pub fn access(kernel: &mut Kernel, call: Call) -> Outcome {
    access_at(kernel, AT_FDCWD, call.word(0), call.unsigned(1), 0)
}

/// faccessat(directory, path, mode)
///
/// # Errors
/// As faccessat(2).
pub fn faccessat(kernel: &mut Kernel, call: Call) -> Outcome {
    access_at(kernel, call.int(0), call.word(1), call.unsigned(2), 0)
}

/// faccessat2(directory, path, mode, flags)
///
/// # Errors
/// As faccessat2(2).
pub fn faccessat2(kernel: &mut Kernel, call: Call) -> Outcome {
    access_at(kernel, call.int(0), call.word(1), call.unsigned(2), call.unsigned(3))
}

/// What the link of a descriptor in /proc/self/fd says.
fn descriptor_path(kernel: &Kernel, descriptor: i32) -> Result<String, Errno> {
    let file = kernel.files.get(descriptor)?;
    if let Some(opened) = file.kind::<OpenNode>() {
        return Ok(opened.path(&kernel.files.tree));
    }
    let status = file.object.metadata(kernel);
    Ok(match status.st_mode & S_IFMT {
        S_IFIFO => format!("pipe:[{}]", status.st_ino),
        S_IFSOCK => format!("socket:[{}]", status.st_ino),
        _ => "anon_inode:[file]".into(),
    })
}

fn readlink_at(kernel: &mut Kernel, directory: i32, path: u64, buffer: u64, length: i32) -> Outcome {
    if length <= 0 {
        return Err(errno::EINVAL.into());
    }
    let path = kernel.memory.text(path)?;
    // An empty path is the descriptor itself, which can be a link only where it was opened as one.
    let target = if path.is_empty() && directory != AT_FDCWD {
        match kernel.files.target(directory)? {
            Target::Node(node) if kernel.files.tree.read_link(node).is_ok() => Target::Node(node),
            _ => return Err(errno::ENOENT.into()),
        }
    } else {
        kernel.files.walk_at(directory, path, Last::Keep)?.found()?
    };
    let text = match target {
        Target::Link(descriptor) => descriptor_path(kernel, descriptor)?,
        Target::Node(node) => match kernel.files.tree.attributes(node)?.kind {
            Kind::WorkingDirectory => kernel.files.tree.path_of(kernel.files.tree.working())?,
            _ => kernel.files.tree.read_link(node)?,
        },
        Target::Object(_) => return Err(errno::EINVAL.into()),
    };
    let bytes = &text.as_bytes()[..text.len().min(length as usize)];
    kernel.memory.bytes_mut(buffer, bytes.len() as u64)?.copy_from_slice(bytes);
    Ok(bytes.len() as u64)
}

/// readlink(path, buffer, length)
///
/// # Errors
/// As readlink(2).
pub fn readlink(kernel: &mut Kernel, call: Call) -> Outcome {
    readlink_at(kernel, AT_FDCWD, call.word(0), call.word(1), call.int(2))
}

/// readlinkat(directory, path, buffer, length)
///
/// # Errors
/// As readlinkat(2).
pub fn readlinkat(kernel: &mut Kernel, call: Call) -> Outcome {
    readlink_at(kernel, call.int(0), call.word(1), call.word(2), call.int(3))
}

/// The room where a target is: of what has no file system, only its kind.
fn space_of(kernel: &Kernel, target: Target) -> Result<Space, Errno> {
    let empty = |magic| Space { magic, block_bytes: BLOCK_BYTES, blocks: 0, free_blocks: 0, nodes: 0, free_nodes: 0 };
    match target {
        Target::Node(node) => Ok(kernel.files.tree.space(node)),
        Target::Link(descriptor) | Target::Object(descriptor) => {
            let mode = kernel.files.get(descriptor)?.object.metadata(kernel).st_mode;
            Ok(empty(match mode & S_IFMT {
                S_IFIFO => PIPEFS_MAGIC,
                S_IFSOCK => SOCKFS_MAGIC,
                _ => ANON_INODE_FS_MAGIC,
            }))
        }
    }
}

fn put_space(kernel: &Kernel, target: Target, address: u64) -> Outcome {
    /// The flags are valid, and times of access are not kept (ST_VALID, ST_NOATIME: `include/linux/statfs.h`).
    const FLAGS: i64 = 0x20 | 0x400;
    let space = space_of(kernel, target)?;
    let status = SpaceStatus {
        f_type: i64::from(space.magic),
        f_bsize: space.block_bytes as i64,
        f_blocks: space.blocks as i64,
        f_bfree: space.free_blocks as i64,
        f_bavail: space.free_blocks as i64,
        f_files: space.nodes as i64,
        f_ffree: space.free_nodes as i64,
        f_fsid: __kernel_fsid_t { val: [0; 2] },
        f_namelen: NAME_BYTES_MAX as i64,
        f_frsize: space.block_bytes as i64,
        f_flags: FLAGS,
        f_spare: [0; 4],
    };
    kernel.memory.put(address, status)?;
    Ok(0)
}

/// statfs(path, structure)
///
/// # Errors
/// As statfs(2).
pub fn statfs(kernel: &mut Kernel, call: Call) -> Outcome {
    let target = kernel.target_at(AT_FDCWD, call.word(0), 0)?;
    put_space(kernel, target, call.word(1))
}

/// fstatfs(descriptor, structure)
///
/// # Errors
/// EBADF, EFAULT.
pub fn fstatfs(kernel: &mut Kernel, call: Call) -> Outcome {
    let target = kernel.files.target(call.int(0))?;
    put_space(kernel, target, call.word(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statx_says_what_stat_says() {
        let mut status = empty_status(S_IFIFO | 0o600, 17);
        (status.st_dev, status.st_rdev, status.st_size) = (33, 0x109, 5);
        (status.st_mtime, status.st_mtime_nsec) = (7, 8);
        let more = more(&status);
        assert_eq!((more.stx_ino, more.stx_size, u32::from(more.stx_mode)), (17, 5, S_IFIFO | 0o600));
        assert_eq!((more.stx_dev_major, more.stx_dev_minor), (0, 33));
        assert_eq!((more.stx_rdev_major, more.stx_rdev_minor), (1, 9));
        assert_eq!((more.stx_mtime.tv_sec, more.stx_mtime.tv_nsec), (7, 8));
        assert_eq!(more.stx_mask & STATX_BASIC_STATS, STATX_BASIC_STATS);
    }

    #[test]
    fn device_numbers_have_two_parts() {
        assert_eq!(device_parts(0x0501), (5, 1));
        assert_eq!(device_parts(0x1231_0345), (259, 0x1_2345));
    }
}
