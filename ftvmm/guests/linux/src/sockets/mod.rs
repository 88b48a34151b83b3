//! Sockets: TCP and UDP over the network and within the guest, and the Unix domain.
//!
//! What a descriptor stands for is a [`Socket`]: its options, and a [`Transport`] that does what its kind does. What goes
//! over the network is in the [`Stack`], which the kernel's rounds move.

mod address;
mod calls;
mod channel;
mod connection;
mod handover;
mod interfaces;
mod listener;
mod mailbox;
mod messages;
mod options;
mod ports;
mod queue;
mod stack;
mod stream;
mod tcp;
mod udp;
mod unix;
mod unix_datagram;
#[cfg(test)]
mod wire;

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::any::Any;
use core::cell::{Cell, RefCell};
use core::ops::BitOr;

use linux_raw_sys::general::{S_IFSOCK, SIGPIPE, stat};
use linux_raw_sys::net::{AF_INET, AF_UNIX, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM};

pub use calls::{
    accept, accept4, bind, connect, getpeername, getsockname, getsockopt, listen, setsockopt, shutdown, socket,
    socketpair,
};
pub use messages::{recvfrom, recvmmsg, recvmsg, sendmmsg, sendmsg, sendto};
pub use stack::Stack;

use address::Address;
use options::Options;

use crate::files::file_system::{Node, empty_status};
use crate::files::{Object, OpenFile};
use crate::kernel::Kernel;
use crate::readiness::Activity;
use crate::system_calls::{Errno, Outcome, Stop, errno};

/// The device number of sockets, which have no place in the file system (sockfs).
const DEVICE: u64 = 8;

/// What kind a socket is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    /// AF_INET or AF_UNIX
    domain: u32,
    /// SOCK_STREAM, SOCK_DGRAM or SOCK_SEQPACKET
    style: u32,
}

impl Kind {
    const TCP: Kind = Kind { domain: AF_INET, style: SOCK_STREAM };
    const UDP: Kind = Kind { domain: AF_INET, style: SOCK_DGRAM };
    const UNIX_STREAM: Kind = Kind { domain: AF_UNIX, style: SOCK_STREAM };
    const UNIX_DATAGRAM: Kind = Kind { domain: AF_UNIX, style: SOCK_DGRAM };
    const UNIX_MESSAGES: Kind = Kind { domain: AF_UNIX, style: SOCK_SEQPACKET };

    fn is_tcp(self) -> bool {
        self == Kind::TCP
    }
}

/// The directions that shutdown ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct Directions {
    receive: bool,
    send: bool,
}

impl Directions {
    const RECEIVE: Directions = Directions { receive: true, send: false };
    const SEND: Directions = Directions { receive: false, send: true };
    const BOTH: Directions = Directions { receive: true, send: true };
}

impl BitOr for Directions {
    type Output = Directions;

    fn bitor(self, other: Directions) -> Directions {
        Directions { receive: self.receive | other.receive, send: self.send | other.send }
    }
}

/// What is to be sent.
#[derive(Clone, Default)]
struct Message<'a> {
    bytes: &'a [u8],
    /// to whom, or what is wrong with the address; None for the peer
    to: Option<Result<Address, Errno>>,
    /// files that are handed over
    files: &'a [Rc<OpenFile>],
}

/// What was received.
#[derive(Default)]
struct Received {
    /// bytes in the buffer
    count: usize,
    /// bytes that the datagram has
    length: usize,
    /// who has sent it, where that is told
    from: Option<Address>,
    /// files that were handed over
    files: Vec<Rc<OpenFile>>,
}

/// What a kind of socket does. Where a call would wait a method returns [`Stop::Wait`], as in [`Object`]; where a method
/// changes what another thread may be waiting for it says so by [`Stack::wake`].
trait Transport {
    /// Gives it an address.
    ///
    /// # Errors
    /// As bind(2).
    fn bind(&self, stack: &mut Stack, options: &Options, address: Address) -> Result<(), Errno>;

    /// Makes it accept connections.
    ///
    /// # Errors
    /// As listen(2).
    fn listen(&self, _stack: &mut Stack, _options: &Options, _backlog: usize) -> Result<(), Errno> {
        Err(errno::EOPNOTSUPP)
    }

    /// Connects it. What is wrong with the address is told where Linux looks at it.
    ///
    /// # Errors
    /// As connect(2).
    fn connect(
        &self,
        stack: &mut Stack,
        options: &Options,
        address: Result<Address, Errno>,
        is_nonblocking: bool,
    ) -> Result<(), Stop>;

    /// Takes the next connection.
    ///
    /// # Errors
    /// As accept(2).
    fn accept(&self, _stack: &mut Stack, _options: &Options) -> Result<Box<dyn Transport>, Stop> {
        Err(errno::EOPNOTSUPP.into())
    }

    /// Takes bytes out, or looks at them.
    ///
    /// # Errors
    /// As recv(2).
    fn receive(&self, stack: &mut Stack, options: &Options, buffer: &mut [u8], is_peek: bool)
    -> Result<Received, Stop>;

    /// Sends; a stream may take a part.
    ///
    /// # Errors
    /// As send(2).
    fn send(&self, stack: &mut Stack, options: &Options, message: &Message) -> Result<usize, Stop>;

    /// Ends directions.
    ///
    /// # Errors
    /// As shutdown(2).
    fn shut_down(&self, stack: &mut Stack, directions: Directions) -> Result<(), Errno>;

    /// Its own address.
    fn local(&self) -> Address;

    /// The address of the other end.
    ///
    /// # Errors
    /// ENOTCONN.
    fn peer(&self) -> Result<Address, Errno>;

    /// The address that the other end had when it was accepted.
    fn visitor(&self) -> Option<Address> {
        self.peer().ok()
    }

    /// What has befallen it, once.
    fn take_error(&self) -> Option<Errno>;

    /// As [`Object::ready`].
    fn ready(&self, stack: &Stack) -> u32;

    /// As [`Object::activity`].
    fn activity(&self) -> Activity;

    /// Bytes that can be read now; of datagrams those of the first.
    ///
    /// # Errors
    /// EINVAL where it listens.
    fn readable(&self) -> Result<usize, Errno>;

    /// Bytes that have not reached the other end.
    ///
    /// # Errors
    /// EINVAL where it listens.
    fn unsent(&self) -> Result<usize, Errno>;

    /// Whether it accepts connections.
    fn is_listening(&self) -> bool {
        false
    }

    /// The state that TCP_INFO tells.
    fn state(&self) -> u8;

    /// Options have changed.
    fn apply(&self, _stack: &mut Stack, _options: &Options) {}

    /// The descriptor is closed.
    fn close(&self, stack: &mut Stack, options: &Options);
}

/// A socket, as a file.
struct Socket {
    kind: Kind,
    protocol: u32,
    options: RefCell<Options>,
    transport: Box<dyn Transport>,
    /// its inode number
    number: u64,
    /// the file with its name, which stays while the socket does
    node: Cell<Option<Node>>,
}

impl Socket {
    fn new(kernel: &mut Kernel, kind: Kind, protocol: u32, transport: Box<dyn Transport>) -> Socket {
        let number = kernel.files.tree.unique_number();
        Socket { kind, protocol, options: RefCell::default(), transport, number, node: Cell::default() }
    }

    /// The socket that a descriptor stands for.
    ///
    /// # Errors
    /// ENOTSOCK.
    fn of(file: &OpenFile) -> Result<&Socket, Errno> {
        file.kind().ok_or(errno::ENOTSOCK)
    }

    fn is_stream(&self) -> bool {
        self.kind.style == SOCK_STREAM
    }

    /// Does what has to be done after a call of the transport: wakes others, and closes files that are lost.
    fn settle(kernel: &mut Kernel) {
        if kernel.stack.take_changed() {
            kernel.change();
        }
        for file in kernel.stack.take_lost() {
            kernel.let_go(file);
        }
    }

    /// Takes bytes out, or looks at them.
    fn receive(&self, kernel: &mut Kernel, buffer: &mut [u8], is_peek: bool) -> Result<Received, Stop> {
        let options = self.options.borrow();
        let result = self.transport.receive(&mut kernel.stack, &options, buffer, is_peek);
        Socket::settle(kernel);
        result.map_err(|stop| within(kernel, stop, options.receive_timeout(), errno::EAGAIN))
    }

    /// Sends. SIGPIPE is raised unless it is not wanted, or bytes of the same call have been sent before.
    fn send(&self, kernel: &mut Kernel, message: &Message, is_silent: bool) -> Result<usize, Stop> {
        let options = self.options.borrow();
        let result = self.transport.send(&mut kernel.stack, &options, message);
        Socket::settle(kernel);
        let is_first = kernel.threads.current().pending.progress == 0;
        if result == Err(Stop::Error(errno::EPIPE)) && self.is_stream() && is_first && !is_silent {
            kernel.signal_current(SIGPIPE);
        }
        result.map_err(|stop| within(kernel, stop, options.send_timeout(), errno::EAGAIN))
    }
}

/// Makes a wait end with an error after so many nanoseconds from the call's start.
fn within(kernel: &mut Kernel, stop: Stop, timeout: Option<u64>, error: Errno) -> Stop {
    let (Stop::Wait(_), Some(timeout)) = (stop, timeout) else { return stop };
    let now = kernel.clock.now();
    let deadline = *kernel.threads.current_mut().pending.deadline.get_or_insert(now.saturating_add(timeout));
    if now >= deadline { error.into() } else { Stop::wait(Some(deadline)) }
}

impl Object for Socket {
    fn read(&self, kernel: &mut Kernel, buffer: &mut [u8]) -> Result<usize, Stop> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let received = self.receive(kernel, buffer, false)?;
        for file in received.files {
            // Nobody asks for them here.
            kernel.let_go(file);
        }
        Ok(received.count)
    }

    fn write(&self, kernel: &mut Kernel, bytes: &[u8]) -> Result<usize, Stop> {
        self.send(kernel, &Message { bytes, ..Message::default() }, false)
    }

    fn ready(&self, kernel: &Kernel) -> u32 {
        self.transport.ready(&kernel.stack)
    }

    fn activity(&self, _: &Kernel) -> Activity {
        self.transport.activity()
    }

    fn metadata(&self, _: &Kernel) -> stat {
        let mut status = empty_status(S_IFSOCK | 0o777, self.number);
        status.st_dev = DEVICE;
        status
    }

    fn control(&self, kernel: &mut Kernel, request: u32, argument: u64) -> Outcome {
        interfaces::control(kernel, self, request, argument)
    }

    fn closed(&self, kernel: &mut Kernel) {
        self.transport.close(&mut kernel.stack, &self.options.borrow());
        if let Some(node) = self.node.take() {
            kernel.files.tree.close(node);
        }
        Socket::settle(kernel);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
