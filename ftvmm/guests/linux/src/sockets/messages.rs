//! System calls that send and receive.

use alloc::borrow::Cow;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::mem::{offset_of, size_of};

use linux_raw_sys::general::{EPOLLERR, UIO_MAXIOV, iovec};
use linux_raw_sys::net::{
    AF_UNIX, MSG_CMSG_CLOEXEC, MSG_DONTWAIT, MSG_ERRQUEUE, MSG_NOSIGNAL, MSG_OOB, MSG_PEEK, MSG_TRUNC, MSG_WAITALL,
    mmsghdr, msghdr,
};

use super::address::{self, Address};
use super::calls::destination;
use super::handover::{self, Place};
use super::{Message, Received, Socket};
use crate::clock::{optional_duration, timespec};
use crate::files::OpenFile;
use crate::kernel::Kernel;
use crate::memory::Memory;
use crate::system_calls::{Call, Errno, Outcome, Stop, errno};

/// Linux moves no more at once (MAX_RW_COUNT).
const BYTES_MAX: u64 = 0x7fff_f000;
/// So much of several buffers is gathered at once, in bytes: more than any datagram.
const WINDOW_BYTES: usize = 512 << 10;
/// The longest address.
const ADDRESS_BYTES_MAX: i32 = 128;
/// recvmmsg waits for its first message only (Linux's include/linux/socket.h).
const MSG_WAITFORONE: u32 = 0x10000;

/// Buffers of the program, one behind the other: address and length of each.
enum Parts {
    /// what most calls have, without a look at the heap
    One([(u64, u64); 1]),
    /// several
    Many(Vec<(u64, u64)>),
}

impl Parts {
    fn one(address: u64, length: u64) -> Parts {
        Parts::One([(address, length.min(BYTES_MAX))])
    }

    fn list(&self) -> &[(u64, u64)] {
        match self {
            Parts::One(part) => part,
            Parts::Many(parts) => parts,
        }
    }

    /// Bytes in all of them.
    fn length(&self) -> usize {
        self.list().iter().map(|(_, length)| *length as usize).sum()
    }

    /// The buffers that an array of struct iovec names.
    fn read(memory: &Memory, address: u64, count: u64) -> Result<Parts, Errno> {
        if count > u64::from(UIO_MAXIOV) {
            return Err(errno::EMSGSIZE);
        }
        let (mut parts, mut left) = (Vec::new(), BYTES_MAX);
        for index in 0..count {
            let place = address.checked_add(index * size_of::<iovec>() as u64).ok_or(errno::EFAULT)?;
            let [address, length]: [u64; 2] = memory.get(place)?;
            if length > i64::MAX as u64 {
                return Err(errno::EINVAL);
            }
            let length = length.min(left);
            left -= length;
            if length > 0 {
                parts.push((address, length));
            }
        }
        Ok(Parts::Many(parts))
    }

    /// The buffers behind the first `done` bytes.
    fn behind(&self, done: usize) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut done = done as u64;
        self.list().iter().filter_map(move |(address, length)| {
            let skipped = done.min(*length);
            done -= skipped;
            (length > &skipped).then_some((address.wrapping_add(skipped), length - skipped))
        })
    }

    /// What is to be sent behind the first `done` bytes: in place where it is one buffer.
    fn bytes(&self, memory: &Memory, done: usize) -> Result<Cow<'static, [u8]>, Errno> {
        let mut rest = self.behind(done);
        let Some((address, length)) = rest.next() else { return Ok(Cow::Borrowed(&[])) };
        let first = memory.bytes(address, length)?;
        if self.list().len() == 1 || first.len() >= WINDOW_BYTES {
            return Ok(Cow::Borrowed(first));
        }
        let mut gathered = first.to_vec();
        for (address, length) in rest {
            let length = length.min((WINDOW_BYTES - gathered.len()) as u64);
            gathered.extend_from_slice(memory.bytes(address, length)?);
        }
        Ok(Cow::Owned(gathered))
    }

    /// Writes what was received into the buffers behind the first `done` bytes.
    fn scatter(&self, memory: &Memory, done: usize, mut bytes: &[u8]) -> Result<(), Errno> {
        for (address, length) in self.behind(done) {
            let (part, rest) = bytes.split_at(bytes.len().min(length as usize));
            memory.bytes_mut(address, part.len() as u64)?.copy_from_slice(part);
            bytes = rest;
        }
        Ok(())
    }
}

fn is_nonblocking(file: &OpenFile, flags: u32) -> bool {
    file.is_nonblocking() || flags & MSG_DONTWAIT != 0
}

/// Whether a stream that has moved bytes in this call stops here: an error waits for the next call.
fn has_error(kernel: &Kernel, socket: &Socket) -> bool {
    socket.transport.ready(&kernel.stack) & EPOLLERR != 0
}

/// What a call returns that has come so far and can do no more now.
fn give_up(stop: Stop, done: usize, is_nonblocking: bool) -> Outcome {
    match stop {
        Stop::Wait(_) if !is_nonblocking => Err(stop),
        Stop::Error(_) | Stop::Wait(_) if done > 0 => Ok(done as u64),
        Stop::Wait(_) => Err(errno::EAGAIN.into()),
        stop => Err(stop),
    }
}

/// Sends a message; waits until all bytes of a stream are on their way.
fn send(
    kernel: &mut Kernel,
    file: &OpenFile,
    parts: &Parts,
    to: Option<Result<Address, Errno>>,
    files: &[Rc<OpenFile>],
    flags: u32,
) -> Outcome {
    let socket = Socket::of(file)?;
    if flags & MSG_OOB != 0 && socket.kind.domain == AF_UNIX {
        return Err(errno::EOPNOTSUPP.into());
    }
    let is_nonblocking = is_nonblocking(file, flags);
    loop {
        let done = kernel.threads.current().pending.progress;
        if done > 0 && has_error(kernel, socket) {
            return Ok(done as u64);
        }
        let bytes = match parts.bytes(&kernel.memory, done) {
            Err(_) if done > 0 => return Ok(done as u64),
            bytes => bytes?,
        };
        let message = Message { bytes: &bytes, to: to.clone(), files: if done == 0 { files } else { &[] } };
        let sent = match socket.send(kernel, &message, flags & MSG_NOSIGNAL != 0) {
            Ok(sent) => sent,
            Err(stop) => return give_up(stop, done, is_nonblocking),
        };
        let now_done = done + sent;
        let is_partial = sent < bytes.len();
        if !socket.is_stream() || now_done >= parts.length() || (is_partial && is_nonblocking) {
            return Ok(now_done as u64);
        }
        kernel.threads.current_mut().pending.progress = now_done;
    }
}

/// Receives into buffers; a stream's are filled with MSG_WAITALL only.
fn receive(kernel: &mut Kernel, file: &OpenFile, parts: &Parts, flags: u32) -> Result<Received, Stop> {
    let socket = Socket::of(file)?;
    if flags & MSG_ERRQUEUE != 0 {
        return Err(errno::EAGAIN.into());
    }
    if flags & MSG_OOB != 0 {
        return Err(if socket.kind.is_tcp() { errno::EINVAL } else { errno::EOPNOTSUPP }.into());
    }
    let (is_peek, is_nonblocking) = (flags & MSG_PEEK != 0, is_nonblocking(file, flags));
    let fills = socket.is_stream() && flags & MSG_WAITALL != 0 && !is_peek;
    loop {
        let done = if fills { kernel.threads.current().pending.progress } else { 0 };
        let so_far = Received { count: done, length: done, ..Received::default() };
        if done > 0 && has_error(kernel, socket) && socket.transport.readable() == Ok(0) {
            return Ok(so_far);
        }
        let mut received = match receive_once(kernel, socket, parts, done, is_peek) {
            Ok(received) => received,
            Err(stop) => return give_up(stop, done, is_nonblocking).map(|_| so_far),
        };
        let is_end = received.count == 0 || !received.files.is_empty();
        received.count += done;
        received.length += done;
        if !fills || is_end || received.count >= parts.length() {
            return Ok(received);
        }
        kernel.threads.current_mut().pending.progress = received.count;
    }
}

/// Receives once into the buffers behind the first `done` bytes.
fn receive_once(
    kernel: &mut Kernel,
    socket: &Socket,
    parts: &Parts,
    done: usize,
    is_peek: bool,
) -> Result<Received, Stop> {
    let mut rest = parts.behind(done);
    let (first, second) = (rest.next(), rest.next());
    let Some((address, length)) = first else { return socket.receive(kernel, &mut [], is_peek) };
    if second.is_none() {
        let buffer = kernel.memory.bytes_mut(address, length)?;
        return socket.receive(kernel, buffer, is_peek);
    }
    for (address, length) in parts.behind(done) {
        kernel.memory.bytes_mut(address, length)?;
    }
    let mut whole = alloc::vec![0; parts.length().saturating_sub(done).min(WINDOW_BYTES)];
    let received = socket.receive(kernel, &mut whole, is_peek)?;
    parts.scatter(&kernel.memory, done, whole.get(..received.count).unwrap_or_default())?;
    Ok(received)
}

/// What a call says of a datagram that did not fit.
fn told(socket: &Socket, received: &Received, flags: u32) -> u64 {
    let whole = flags & MSG_TRUNC != 0 && !socket.is_stream();
    (if whole { received.length } else { received.count }) as u64
}

/// sendto(socket, buffer, length, flags, address, address length)
///
/// # Errors
/// As sendto(2).
pub fn sendto(kernel: &mut Kernel, call: Call) -> Outcome {
    let file = kernel.files.get_usable(call.int(0))?;
    let socket = Socket::of(&file)?;
    let to = match (call.word(4), call.int(5)) {
        (0, _) | (_, 0) => None,
        (address, length) => {
            let bytes = address::read(&kernel.memory, address, length)?;
            Some(destination(kernel, socket, bytes))
        }
    };
    send(kernel, &file, &Parts::one(call.word(1), call.word(2)), to, &[], call.unsigned(3))
}

/// recvfrom(socket, buffer, length, flags, address, address length)
///
/// # Errors
/// As recvfrom(2).
pub fn recvfrom(kernel: &mut Kernel, call: Call) -> Outcome {
    let file = kernel.files.get_usable(call.int(0))?;
    let socket = Socket::of(&file)?;
    let flags = call.unsigned(3);
    let received = receive(kernel, &file, &Parts::one(call.word(1), call.word(2)), flags)?;
    let told = told(socket, &received, flags);
    for file in received.files {
        // Nobody asks for them here.
        kernel.let_go(file);
    }
    if call.word(4) != 0 {
        address::write(&kernel.memory, received.from.as_ref(), call.word(4), call.word(5))?;
    }
    Ok(told)
}

/// A struct msghdr of the program.
struct Header {
    address: u64,
    name: u64,
    name_length: i32,
    parts: Parts,
    control: Place,
}

impl Header {
    fn read(kernel: &Kernel, address: u64) -> Result<Header, Errno> {
        let header: msghdr = kernel.memory.get(address)?;
        if header.msg_namelen < 0 {
            return Err(errno::EINVAL);
        }
        let parts = Parts::read(&kernel.memory, header.msg_iov.addr() as u64, header.msg_iovlen as u64)?;
        let control = Place { address: header.msg_control.addr() as u64, length: header.msg_controllen as u64 };
        let name_length = header.msg_namelen.min(ADDRESS_BYTES_MAX);
        Ok(Header { address, name: header.msg_name.addr() as u64, name_length, parts, control })
    }
}

fn send_message(kernel: &mut Kernel, file: &OpenFile, address: u64, flags: u32) -> Outcome {
    let socket = Socket::of(file)?;
    let header = Header::read(kernel, address)?;
    let to = match (header.name, header.name_length) {
        (0, _) | (_, 0) => None,
        (name, length) => {
            let bytes = address::read(&kernel.memory, name, length)?;
            Some(destination(kernel, socket, bytes))
        }
    };
    let files = match header.control {
        Place { address: 0, .. } | Place { length: 0, .. } => Vec::new(),
        place => handover::files_to_send(kernel, socket, place)?,
    };
    send(kernel, file, &header.parts, to, &files, flags)
}

fn receive_message(kernel: &mut Kernel, file: &OpenFile, address: u64, flags: u32) -> Outcome {
    let socket = Socket::of(file)?;
    let header = Header::read(kernel, address)?;
    let received = receive(kernel, file, &header.parts, flags)?;
    let told = told(socket, &received, flags);
    let is_cut = received.length > received.count && !socket.is_stream();
    let (control_bytes, lost) = handover::install(kernel, received.files, header.control, flags);
    let told_flags = if is_cut { MSG_TRUNC } else { 0 } | lost | (flags & MSG_CMSG_CLOEXEC);
    if header.name != 0 {
        let length_at = header.address + offset_of!(msghdr, msg_namelen) as u64;
        address::write(&kernel.memory, received.from.as_ref(), header.name, length_at)?;
    }
    kernel.memory.put(header.address + offset_of!(msghdr, msg_flags) as u64, told_flags)?;
    kernel.memory.put(header.address + offset_of!(msghdr, msg_controllen) as u64, control_bytes)?;
    Ok(told)
}

/// sendmsg(socket, message, flags)
///
/// # Errors
/// As sendmsg(2).
pub fn sendmsg(kernel: &mut Kernel, call: Call) -> Outcome {
    let file = kernel.files.get_usable(call.int(0))?;
    send_message(kernel, &file, call.word(1), call.unsigned(2))
}

/// recvmsg(socket, message, flags)
///
/// # Errors
/// As recvmsg(2).
pub fn recvmsg(kernel: &mut Kernel, call: Call) -> Outcome {
    let file = kernel.files.get_usable(call.int(0))?;
    receive_message(kernel, &file, call.word(1), call.unsigned(2))
}

/// The address of one of several messages (struct mmsghdr).
fn place_of(call: &Call, index: u64) -> Result<u64, Errno> {
    call.word(1).checked_add(index * size_of::<mmsghdr>() as u64).ok_or(errno::EFAULT)
}

/// sendmmsg(socket, messages, count, flags): how many were sent. It does not wait after the first.
///
/// # Errors
/// As sendmsg, for the first one.
pub fn sendmmsg(kernel: &mut Kernel, call: Call) -> Outcome {
    let file = kernel.files.get_usable(call.int(0))?;
    Socket::of(&file)?;
    let count = u64::from(call.unsigned(2).min(UIO_MAXIOV));
    for index in 0..count {
        let place = place_of(&call, index)?;
        let outcome = match send_message(kernel, &file, place, call.unsigned(3)) {
            // What was sent of it counts.
            Err(Stop::Wait(_)) if index > 0 && kernel.threads.current().pending.progress > 0 => {
                Ok(kernel.threads.current().pending.progress as u64)
            }
            outcome => outcome,
        };
        match outcome {
            Ok(sent) => kernel.memory.put(place + offset_of!(mmsghdr, msg_len) as u64, sent as u32)?,
            Err(_) if index > 0 => return Ok(index),
            Err(stop) => return Err(stop),
        }
        kernel.threads.current_mut().pending.progress = 0;
    }
    Ok(count)
}

/// recvmmsg(socket, messages, count, flags, timeout): how many were received. As in Linux, the time is looked at after
/// each of them.
///
/// # Errors
/// As recvmsg, for the first one.
pub fn recvmmsg(kernel: &mut Kernel, call: Call) -> Outcome {
    let timeout = optional_duration(kernel, call.word(4))?;
    let file = kernel.files.get_usable(call.int(0))?;
    Socket::of(&file)?;
    let count = u64::from(call.unsigned(2).min(UIO_MAXIOV));
    let start = kernel.clock.now();
    let end = timeout.map(|timeout| start.saturating_add(timeout));
    // What has been received is counted in the thread, as the call may wait in between.
    let mut done = kernel.threads.current().pending.progress as u64;
    while done < count {
        let place = place_of(&call, done)?;
        let is_patient = call.unsigned(3) & MSG_WAITFORONE == 0 || done == 0;
        let flags = call.unsigned(3) & !(MSG_WAITFORONE | MSG_WAITALL) | if is_patient { 0 } else { MSG_DONTWAIT };
        match receive_message(kernel, &file, place, flags) {
            Ok(length) => kernel.memory.put(place + offset_of!(mmsghdr, msg_len) as u64, length as u32)?,
            Err(stop) => return give_up(stop, done as usize, is_nonblocking(&file, flags)),
        }
        done += 1;
        kernel.threads.current_mut().pending.progress = done as usize;
        if end.is_some_and(|end| kernel.clock.now() >= end) {
            break;
        }
    }
    if let Some(end) = end {
        kernel.memory.put(call.word(4), timespec(end.saturating_sub(kernel.clock.now())))?;
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_skipped_as_far_as_they_are_done() {
        let parts = Parts::Many(vec![(100, 10), (200, 5)]);
        let behind = |done| parts.behind(done).collect::<Vec<_>>();
        assert_eq!(parts.length(), 15);
        assert_eq!(behind(0), [(100, 10), (200, 5)]);
        assert_eq!(behind(4), [(104, 6), (200, 5)]);
        assert_eq!(behind(10), [(200, 5)]);
        assert_eq!(behind(15), []);
    }

    #[test]
    fn what_is_done_counts_more_than_what_stops() {
        let wait = Stop::wait(None);
        let error = Stop::Error(errno::ECONNRESET);
        assert_eq!(give_up(wait, 3, false), Err(wait));
        assert_eq!(give_up(wait, 3, true), Ok(3));
        assert_eq!(give_up(wait, 0, true), Err(Stop::Error(errno::EAGAIN)));
        assert_eq!(give_up(error, 3, false), Ok(3));
        assert_eq!(give_up(error, 0, false), Err(error));
    }
}
