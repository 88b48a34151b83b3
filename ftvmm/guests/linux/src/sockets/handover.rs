//! Control messages: files that are handed over from socket to socket (SCM_RIGHTS, unix(7)).

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::mem::size_of;

use linux_raw_sys::net::{AF_UNIX, MSG_CMSG_CLOEXEC, MSG_CTRUNC, SCM_CREDENTIALS, SCM_RIGHTS, SOL_SOCKET, cmsghdr};

use super::Socket;
use crate::files::OpenFile;
use crate::kernel::Kernel;
use crate::system_calls::{Errno, errno};

const HEADER_BYTES: u64 = size_of::<cmsghdr>() as u64;
const DESCRIPTOR_BYTES: u64 = size_of::<i32>() as u64;
/// SCM_MAX_FD: no more files with one message.
const FILES_MAX: u64 = 253;

/// Where control messages lie in the program's memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// address
    pub address: u64,
    /// length in bytes
    pub length: u64,
}

/// The length of a control message with what fills it up to the next one.
fn aligned(bytes: u64) -> u64 {
    bytes.next_multiple_of(size_of::<usize>() as u64)
}

/// The files that control messages hand over. As scm_send in Linux's net/core/scm.c.
///
/// # Errors
/// EINVAL for one that is malformed or not known, EBADF, EFAULT.
pub(super) fn files_to_send(kernel: &Kernel, socket: &Socket, place: Place) -> Result<Vec<Rc<OpenFile>>, Errno> {
    let mut files = Vec::new();
    if place.length > i32::MAX as u64 {
        return Err(errno::ENOBUFS);
    }
    kernel.memory.bytes(place.address, place.length)?;
    if socket.kind.domain != AF_UNIX {
        return Ok(files);
    }
    let mut offset = 0;
    while offset + HEADER_BYTES <= place.length {
        let header: cmsghdr = kernel.memory.get(place.address + offset)?;
        let length = header.cmsg_len as u64;
        if length < HEADER_BYTES || length > place.length - offset {
            return Err(errno::EINVAL);
        }
        if header.cmsg_level as u32 == SOL_SOCKET {
            match header.cmsg_type as u32 {
                SCM_RIGHTS => {
                    let count = (length - HEADER_BYTES) / DESCRIPTOR_BYTES;
                    if files.len() as u64 + count > FILES_MAX {
                        return Err(errno::EINVAL);
                    }
                    for index in 0..count {
                        let at = place.address + offset + HEADER_BYTES + index * DESCRIPTOR_BYTES;
                        files.push(kernel.files.get(kernel.memory.get(at)?)?);
                    }
                }
                // There is one process, which everybody knows.
                SCM_CREDENTIALS => {}
                _ => return Err(errno::EINVAL),
            }
        }
        offset += aligned(length);
    }
    Ok(files)
}

/// Installs files that were handed over, as far as there is room for their descriptors. Returns the bytes of control
/// messages that were written, and MSG_CTRUNC where files are lost. As scm_detach_fds.
pub(super) fn install(kernel: &mut Kernel, files: Vec<Rc<OpenFile>>, place: Place, flags: u32) -> (u64, u32) {
    let count = files.len() as u64;
    if count == 0 {
        return (0, 0);
    }
    let room = place.length.saturating_sub(HEADER_BYTES) / DESCRIPTOR_BYTES;
    let mut installed = 0;
    for file in files {
        let at = place.address.wrapping_add(HEADER_BYTES + installed * DESCRIPTOR_BYTES);
        let is_wanted = place.address != 0 && installed < room;
        if !is_wanted || !install_one(kernel, file.clone(), at, flags) {
            kernel.let_go(file);
            continue;
        }
        installed += 1;
    }
    let lost = if installed < count { MSG_CTRUNC } else { 0 };
    let length = HEADER_BYTES + installed * DESCRIPTOR_BYTES;
    let header = cmsghdr { cmsg_len: length as usize, cmsg_level: SOL_SOCKET as i32, cmsg_type: SCM_RIGHTS as i32 };
    if installed == 0 || kernel.memory.put(place.address, header).is_err() {
        return (0, lost);
    }
    (aligned(length).min(place.length), lost)
}

/// Installs one file and tells its descriptor; false where that does not go.
fn install_one(kernel: &mut Kernel, file: Rc<OpenFile>, at: u64, flags: u32) -> bool {
    if kernel.memory.bytes_mut(at, DESCRIPTOR_BYTES).is_err() {
        return false;
    }
    match kernel.files.install(file, flags & MSG_CMSG_CLOEXEC != 0, 0) {
        Ok(descriptor) => kernel.memory.put(at, descriptor).is_ok(),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_messages_are_laid_out_as_the_macros_do() {
        // CMSG_LEN(8), CMSG_SPACE(4) and CMSG_SPACE(8) on x86-64.
        assert_eq!(HEADER_BYTES + 2 * DESCRIPTOR_BYTES, 24);
        assert_eq!(aligned(HEADER_BYTES + DESCRIPTOR_BYTES), 24);
        assert_eq!(aligned(HEADER_BYTES + 2 * DESCRIPTOR_BYTES), 24);
    }
}
