//! System calls that make sockets, connect them, and look at them.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::mem::size_of;

use linux_raw_sys::general::{AT_FDCWD, O_CLOEXEC, O_NONBLOCK, O_RDWR};
use linux_raw_sys::net::{
    AF_INET, AF_UNIX, AF_UNSPEC, IP_MTU, IPPROTO_MAX, IPPROTO_TCP, IPPROTO_UDP, SHUT_RD, SHUT_RDWR, SHUT_WR,
    SO_ACCEPTCONN, SO_DOMAIN, SO_ERROR, SO_PEERCRED, SO_PROTOCOL, SO_TYPE, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET,
    SOCK_STREAM, SOL_IP, SOL_SOCKET, SOL_TCP, TCP_CONGESTION, TCP_INFO, tcp_info, ucred,
};

use super::address::{self, Address, Name};
use super::options::check_level;
use super::tcp::Tcp;
use super::udp::Udp;
use super::unix::UnixStream;
use super::unix_datagram::UnixDatagram;
use super::{Directions, Kind, Socket, Transport, within};
use crate::files::file_system::{New, Node};
use crate::files::walk::Last;
use crate::kernel::Kernel;
use crate::system_calls::{Call, Errno, Outcome, errno};
use crate::threads::PROCESS;

/// SOCK_TYPE_MASK, and SOCK_CLOEXEC and SOCK_NONBLOCK, which are the flags of open (Linux's include/linux/net.h).
const STYLE_MASK: u32 = 0xf;
const FLAGS: u32 = O_CLOEXEC | O_NONBLOCK;
const STYLES_END: u32 = 11;
/// The most of an option that is looked at, in bytes.
const OPTION_BYTES_MAX: u64 = 16;
/// The largest packet of Linux's loopback interface.
const LOOPBACK_MTU: i32 = 65_536;

/// The style and the flags in the type of socket(2) and its kin.
fn style_and_flags(argument: u32) -> Result<(u32, u32), Errno> {
    let (style, flags) = (argument & STYLE_MASK, argument & !STYLE_MASK);
    if flags & !FLAGS != 0 { Err(errno::EINVAL) } else { Ok((style, flags)) }
}

/// What socket(2) makes: kind, protocol, and what does it. As inet_create and unix_create in Linux.
fn make(domain: u32, style: u32, protocol: i32) -> Result<(Kind, u32, Box<dyn Transport>), Errno> {
    const TCP: i32 = IPPROTO_TCP as i32;
    const UDP: i32 = IPPROTO_UDP as i32;
    if style >= STYLES_END {
        return Err(errno::EINVAL);
    }
    match domain {
        AF_UNIX if protocol != 0 && protocol != AF_UNIX as i32 => Err(errno::EPROTONOSUPPORT),
        AF_UNIX => match style {
            SOCK_STREAM => Ok((Kind::UNIX_STREAM, 0, Box::new(UnixStream::new(style)))),
            SOCK_SEQPACKET => Ok((Kind::UNIX_MESSAGES, 0, Box::new(UnixStream::new(style)))),
            SOCK_DGRAM | SOCK_RAW => Ok((Kind::UNIX_DATAGRAM, 0, Box::new(UnixDatagram::new()))),
            _ => Err(errno::ESOCKTNOSUPPORT),
        },
        AF_INET if !(0..IPPROTO_MAX as i32).contains(&protocol) => Err(errno::EINVAL),
        AF_INET => match (style, protocol) {
            (SOCK_STREAM, 0 | TCP) => Ok((Kind::TCP, TCP as u32, Box::new(Tcp::new()))),
            (SOCK_DGRAM, 0 | UDP) => Ok((Kind::UDP, UDP as u32, Box::new(Udp::new()))),
            (SOCK_STREAM | SOCK_DGRAM, _) => Err(errno::EPROTONOSUPPORT),
            (SOCK_RAW, _) => Err(errno::EPERM),
            _ => Err(errno::ESOCKTNOSUPPORT),
        },
        _ => Err(errno::EAFNOSUPPORT),
    }
}

/// socket(domain, type, protocol)
///
/// # Errors
/// As socket(2); EAFNOSUPPORT for all but AF_INET and AF_UNIX, EPERM for SOCK_RAW.
pub fn socket(kernel: &mut Kernel, call: Call) -> Outcome {
    let (style, flags) = style_and_flags(call.unsigned(1))?;
    let (kind, protocol, transport) = make(call.unsigned(0), style, call.int(2))?;
    let socket = Socket::new(kernel, kind, protocol, transport);
    Ok(kernel.files.open(Rc::new(socket), O_RDWR | flags)? as u64)
}

/// socketpair(domain, type, protocol, descriptors)
///
/// # Errors
/// As socket, and EOPNOTSUPP for AF_INET, EFAULT.
pub fn socketpair(kernel: &mut Kernel, call: Call) -> Outcome {
    let (style, flags) = style_and_flags(call.unsigned(1))?;
    kernel.memory.bytes_mut(call.word(3), size_of::<[i32; 2]>() as u64)?;
    let (kind, protocol, _) = make(call.unsigned(0), style, call.int(2))?;
    let (first, second): (Box<dyn Transport>, Box<dyn Transport>) = match kind {
        Kind::UNIX_DATAGRAM => {
            let (first, second) = UnixDatagram::pair();
            (Box::new(first), Box::new(second))
        }
        Kind { domain: AF_UNIX, style } => {
            let (first, second) = UnixStream::pair(style);
            (Box::new(first), Box::new(second))
        }
        _ => return Err(errno::EOPNOTSUPP.into()),
    };
    let (first, second) = (Socket::new(kernel, kind, protocol, first), Socket::new(kernel, kind, protocol, second));
    let first = kernel.files.open(Rc::new(first), O_RDWR | flags)?;
    let second = match kernel.files.open(Rc::new(second), O_RDWR | flags) {
        Ok(second) => second,
        Err(error) => {
            kernel.close(first)?;
            return Err(error.into());
        }
    };
    kernel.memory.put(call.word(3), [first, second])?;
    Ok(0)
}

/// The address that a program names to connect or send to; a path is followed.
///
/// # Errors
/// As the address's family has them.
pub(super) fn destination(kernel: &Kernel, socket: &Socket, bytes: &[u8]) -> Result<Address, Errno> {
    if socket.kind.domain == AF_INET {
        return address::decode_inet(bytes);
    }
    if socket.kind == Kind::UNIX_DATAGRAM && bytes.get(..2) == Some(&(AF_UNSPEC as u16).to_ne_bytes()) {
        return Ok(Address::Unspecified);
    }
    match address::decode_unix(bytes)? {
        Name::Unnamed => Err(errno::EINVAL),
        Name::Path(path) => {
            let text = core::str::from_utf8(&path).map_err(|_| errno::ENOENT)?;
            let node = kernel.files.walk_at(AT_FDCWD, text, Last::Follow)?.node()?;
            Ok(Address::Unix { name: Name::Path(path), node: Some(node) })
        }
        name => Ok(Address::Unix { name, node: None }),
    }
}

/// bind(socket, address, length)
///
/// # Errors
/// As bind(2) and unix(7).
pub fn bind(kernel: &mut Kernel, call: Call) -> Outcome {
    let file = kernel.files.get_usable(call.int(0))?;
    let socket = Socket::of(&file)?;
    let bytes = address::read(&kernel.memory, call.word(1), call.int(2))?;
    let address = match socket.kind.domain {
        AF_INET => address::decode_inet_to_bind(bytes)?,
        _ => match address::decode_unix(bytes)? {
            Name::Path(path) => return bind_to_path(kernel, socket, path),
            name => Address::Unix { name, node: None },
        },
    };
    socket.transport.bind(&mut kernel.stack, &socket.options.borrow(), address)?;
    Ok(0)
}

/// Binds to a path: a file appears there.
fn bind_to_path(kernel: &mut Kernel, socket: &Socket, path: Vec<u8>) -> Outcome {
    const PERMISSIONS: u32 = 0o777;
    let text = core::str::from_utf8(&path).map_err(|_| errno::ENOENT)?;
    let walk = kernel.files.walk_at(AT_FDCWD, text, Last::Name)?;
    if walk.target.is_some() {
        return Err(errno::EADDRINUSE.into());
    }
    if socket.transport.local() != Address::named(Name::Unnamed) {
        return Err(errno::EINVAL.into());
    }
    let permissions = PERMISSIONS & !kernel.files.tree.umask;
    let time = kernel.clock.wall(kernel.clock.now());
    let in_use = |error| if error == errno::EEXIST { errno::EADDRINUSE } else { error };
    let node: Node = kernel.files.tree.create(&walk, &New::Socket, permissions, time).map_err(in_use)?;
    let address = Address::Unix { name: Name::Path(path), node: Some(node) };
    socket.transport.bind(&mut kernel.stack, &socket.options.borrow(), address)?;
    kernel.files.tree.open(node);
    socket.node.set(Some(node));
    Ok(0)
}

/// listen(socket, backlog)
///
/// # Errors
/// As listen(2).
pub fn listen(kernel: &mut Kernel, call: Call) -> Outcome {
    let file = kernel.files.get_usable(call.int(0))?;
    let socket = Socket::of(&file)?;
    // A negative backlog is a large one.
    socket.transport.listen(&mut kernel.stack, &socket.options.borrow(), call.unsigned(1) as usize)?;
    Socket::settle(kernel);
    Ok(0)
}

/// connect(socket, address, length)
///
/// # Errors
/// As connect(2).
pub fn connect(kernel: &mut Kernel, call: Call) -> Outcome {
    let file = kernel.files.get_usable(call.int(0))?;
    let bytes = address::read(&kernel.memory, call.word(1), call.int(2))?;
    let socket = Socket::of(&file)?;
    let address = destination(kernel, socket, bytes);
    let options = socket.options.borrow();
    let result = socket.transport.connect(&mut kernel.stack, &options, address, file.is_nonblocking());
    Socket::settle(kernel);
    let error = if socket.kind.domain == AF_INET { errno::EINPROGRESS } else { errno::EAGAIN };
    file.unless_nonblocking(result.map_err(|stop| within(kernel, stop, options.send_timeout(), error)))?;
    Ok(0)
}

/// accept(socket, address, length)
///
/// # Errors
/// As accept(2).
pub fn accept(kernel: &mut Kernel, call: Call) -> Outcome {
    accept_with(kernel, call, 0)
}

/// accept4(socket, address, length, flags)
///
/// # Errors
/// As accept4(2).
pub fn accept4(kernel: &mut Kernel, call: Call) -> Outcome {
    accept_with(kernel, call, call.unsigned(3))
}

fn accept_with(kernel: &mut Kernel, call: Call, flags: u32) -> Outcome {
    if flags & !FLAGS != 0 {
        return Err(errno::EINVAL.into());
    }
    let file = kernel.files.get_usable(call.int(0))?;
    let socket = Socket::of(&file)?;
    kernel.files.lowest_free(0)?;
    let options = socket.options.borrow();
    let result = socket.transport.accept(&mut kernel.stack, &options);
    Socket::settle(kernel);
    let result = result.map_err(|stop| within(kernel, stop, options.receive_timeout(), errno::EAGAIN));
    let transport = file.unless_nonblocking(result)?;
    let visitor = transport.visitor();
    let accepted = Socket {
        kind: socket.kind,
        protocol: socket.protocol,
        options: RefCell::new(options.clone()),
        transport,
        number: kernel.files.tree.unique_number(),
        node: Cell::default(),
    };
    let descriptor = kernel.files.open(Rc::new(accepted), O_RDWR | flags)?;
    if call.word(1) != 0
        && let Err(error) = address::write(&kernel.memory, visitor.as_ref(), call.word(1), call.word(2))
    {
        kernel.close(descriptor)?;
        return Err(error.into());
    }
    Ok(descriptor as u64)
}

/// getsockname(socket, address, length)
///
/// # Errors
/// As getsockname(2).
pub fn getsockname(kernel: &mut Kernel, call: Call) -> Outcome {
    let file = kernel.files.get_usable(call.int(0))?;
    let local = Socket::of(&file)?.transport.local();
    address::write(&kernel.memory, Some(&local), call.word(1), call.word(2))?;
    Ok(0)
}

/// getpeername(socket, address, length)
///
/// # Errors
/// As getpeername(2).
pub fn getpeername(kernel: &mut Kernel, call: Call) -> Outcome {
    let file = kernel.files.get_usable(call.int(0))?;
    let peer = Socket::of(&file)?.transport.peer()?;
    address::write(&kernel.memory, Some(&peer), call.word(1), call.word(2))?;
    Ok(0)
}

/// shutdown(socket, how)
///
/// # Errors
/// As shutdown(2).
pub fn shutdown(kernel: &mut Kernel, call: Call) -> Outcome {
    let file = kernel.files.get_usable(call.int(0))?;
    let socket = Socket::of(&file)?;
    let directions = match call.unsigned(1) {
        SHUT_RD => Directions::RECEIVE,
        SHUT_WR => Directions::SEND,
        SHUT_RDWR => Directions::BOTH,
        _ => return Err(errno::EINVAL.into()),
    };
    let result = socket.transport.shut_down(&mut kernel.stack, directions);
    Socket::settle(kernel);
    result?;
    Ok(0)
}

/// setsockopt(socket, level, name, value, length)
///
/// # Errors
/// As setsockopt(2).
pub fn setsockopt(kernel: &mut Kernel, call: Call) -> Outcome {
    let file = kernel.files.get_usable(call.int(0))?;
    let socket = Socket::of(&file)?;
    let (level, name) = (call.unsigned(1), call.unsigned(2));
    let length = u64::try_from(call.int(4)).map_err(|_| errno::EINVAL)?;
    check_level(socket.kind, level)?;
    let is_short = length < size_of::<i32>() as u64;
    let may_be_short = level == SOL_IP || (level, name) == (SOL_TCP, TCP_CONGESTION);
    if length == 0 || (is_short && !may_be_short) {
        return Err(errno::EINVAL.into());
    }
    let value = kernel.memory.bytes(call.word(3), length.min(OPTION_BYTES_MAX))?;
    socket.options.borrow_mut().set(socket.kind, level, name, value)?;
    socket.transport.apply(&mut kernel.stack, &socket.options.borrow());
    // There may be more room than before.
    kernel.change();
    Ok(0)
}

/// getsockopt(socket, level, name, value, length)
///
/// # Errors
/// As getsockopt(2).
pub fn getsockopt(kernel: &mut Kernel, call: Call) -> Outcome {
    let file = kernel.files.get_usable(call.int(0))?;
    let socket = Socket::of(&file)?;
    let (level, name) = (call.unsigned(1), call.unsigned(2));
    check_level(socket.kind, level)?;
    let room: i32 = kernel.memory.get(call.word(4))?;
    let room = usize::try_from(room).map_err(|_| errno::EINVAL)?;
    let mut value = match option_of_state(kernel, socket, level, name)? {
        Some(value) => value,
        None => socket.options.borrow().get(socket.kind, level, name)?,
    };
    // IP tells a small number as one byte where there is no room for four.
    if level == SOL_IP && (1..4).contains(&room) && value.get(1..) == Some(&[0; 3]) {
        value.truncate(1);
    }
    value.truncate(room);
    kernel.memory.bytes_mut(call.word(3), value.len() as u64)?.copy_from_slice(&value);
    kernel.memory.put(call.word(4), value.len() as u32)?;
    Ok(0)
}

/// The value of an option that nobody has set: what the socket is, and what has become of it.
fn option_of_state(kernel: &Kernel, socket: &Socket, level: u32, name: u32) -> Result<Option<Vec<u8>>, Errno> {
    let transport = &socket.transport;
    let number = match (level, name) {
        (SOL_SOCKET, SO_TYPE) => socket.kind.style,
        (SOL_SOCKET, SO_DOMAIN) => socket.kind.domain,
        (SOL_SOCKET, SO_PROTOCOL) => socket.protocol,
        (SOL_SOCKET, SO_ERROR) => transport.take_error().map_or(0, |error| error.0),
        (SOL_SOCKET, SO_ACCEPTCONN) => u32::from(transport.is_listening()),
        (SOL_SOCKET, SO_PEERCRED) => return Ok(Some(credentials(socket))),
        (SOL_TCP, TCP_INFO) => {
            let mut value = alloc::vec![0; size_of::<tcp_info>()];
            value[0] = transport.state();
            return Ok(Some(value));
        }
        (SOL_IP, IP_MTU) => {
            let Address::Inet(peer) = transport.peer()? else { return Err(errno::ENOTCONN) };
            let network = kernel.stack.network().filter(|_| !kernel.stack.is_own(*peer.ip()));
            network.map_or(LOOPBACK_MTU, |network| network.mtu() as i32) as u32
        }
        _ => return Ok(None),
    };
    Ok(Some(number.to_ne_bytes().to_vec()))
}

/// Who is at the other end: within the guest, the process itself.
fn credentials(socket: &Socket) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let is_known =
        socket.kind.domain == AF_UNIX && (socket.transport.peer().is_ok() || socket.transport.is_listening());
    let credentials = match is_known {
        true => ucred { pid: PROCESS as u32, uid: 0, gid: 0 },
        false => ucred { pid: 0, uid: NOBODY, gid: NOBODY },
    };
    [credentials.pid, credentials.uid, credentials.gid].into_iter().flat_map(u32::to_ne_bytes).collect()
}
