//! TCP: sockets that are connected over the network or within the guest.

use alloc::boxed::Box;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::net::{Ipv4Addr, SocketAddrV4};

use linux_raw_sys::general::{EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP};
use linux_raw_sys::net::{SO_REUSEADDR, SO_REUSEPORT};
use sdk::smoltcp::socket::tcp::State;

use super::address::{Address, NOWHERE};
use super::connection::Connection;
use super::listener::{Listener, Visitor};
use super::options::Options;
use super::ports::{Claim, Hold};
use super::stack::{Route, Stack};
use super::stream::{End, Rules, pair};
use super::{Directions, Message, Received, Transport};
use crate::readiness::{Activity, Arrivals};
use crate::system_calls::{Errno, Stop, errno};

/// So many bytes may be on the way within the guest where nothing is set: what Linux's loopback interface comes to.
const LOCAL_BYTES: usize = 2_626_560;

/// States as TCP_INFO tells them (Linux's include/net/tcp_states.h, which linux-raw-sys does not have).
const ESTABLISHED: u8 = 1;
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;

/// How far connect has come, apart from the connection itself: Linux's `socket_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// SS_UNCONNECTED
    Unconnected,
    /// SS_CONNECTING: connect was called and has not said yet what came of it
    Connecting,
    /// SS_CONNECTED
    Connected,
}

/// What a socket is connected to.
#[derive(Clone)]
enum Link {
    /// nothing
    None,
    /// nothing: the connection was refused
    Refused,
    /// nothing: it accepts connections
    Listening(Rc<Listener>),
    /// the network
    Network(Rc<Connection>),
    /// another socket of the guest
    Local(Rc<End>),
}

impl Link {
    fn activity(&self) -> Activity {
        match self {
            Link::None | Link::Refused => Activity::default(),
            Link::Listening(listener) => listener.activity(),
            Link::Network(connection) => connection.activity(),
            Link::Local(end) => end.activity(),
        }
    }
}

/// A TCP socket.
pub(super) struct Tcp {
    link: RefCell<Link>,
    phase: Cell<Phase>,
    /// what the program has bound it to
    bound: Cell<SocketAddrV4>,
    local: Cell<SocketAddrV4>,
    remote: Cell<Option<SocketAddrV4>>,
    hold: Cell<Option<Hold>>,
    error: Cell<Option<Errno>>,
    /// when the link has changed
    changes: Arrivals,
}

fn claim(address: Ipv4Addr, options: &Options) -> Claim {
    Claim { address, shares_address: options.has(SO_REUSEADDR), shares_port: options.has(SO_REUSEPORT) }
}

impl Tcp {
    /// A socket that is not connected.
    pub(super) fn new() -> Tcp {
        Tcp {
            link: RefCell::new(Link::None),
            phase: Cell::new(Phase::Unconnected),
            bound: Cell::new(NOWHERE),
            local: Cell::new(NOWHERE),
            remote: Cell::default(),
            hold: Cell::default(),
            error: Cell::default(),
            changes: Arrivals::default(),
        }
    }

    fn set_link(&self, link: Link) {
        self.link.replace(link);
        self.changes.note(false);
    }

    fn link(&self) -> Link {
        self.link.borrow().clone()
    }

    /// Takes a port where the socket has none.
    fn ensure_port(&self, stack: &mut Stack, address: Ipv4Addr, options: &Options) -> Result<(), Errno> {
        if self.hold.get().is_none() {
            let hold = stack.tcp_ports.take_any(claim(address, options))?;
            self.hold.set(Some(hold));
            self.local.set(SocketAddrV4::new(address, hold.port));
        }
        Ok(())
    }

    /// Forgets a connection: the socket is as it was when it was bound.
    fn reset(&self, stack: &mut Stack) {
        self.set_link(Link::None);
        self.phase.set(Phase::Unconnected);
        self.remote.set(None);
        let bound = self.bound.get();
        if bound.port() == 0 {
            self.release(stack);
        }
        let port = self.hold.get().map_or(0, |hold| hold.port);
        self.local.set(SocketAddrV4::new(*bound.ip(), port));
    }

    fn release(&self, stack: &mut Stack) {
        if let Some(hold) = self.hold.take() {
            stack.tcp_ports.release(hold);
        }
    }

    /// Ends the connection without closing the socket.
    fn disconnect(&self, stack: &mut Stack) {
        self.drop_link(stack, true);
        self.error.set(None);
        self.reset(stack);
    }

    fn drop_link(&self, stack: &mut Stack, is_abrupt: bool) {
        let now = stack.now();
        match self.link() {
            Link::None | Link::Refused => {}
            Link::Listening(listener) => {
                if let Some(hold) = self.hold.get() {
                    // To listen no longer is always possible.
                    let _ = stack.tcp_ports.listen(hold, false);
                }
                stack.remove_listener(&listener);
            }
            Link::Network(connection) => connection.close(&mut stack.sockets, is_abrupt, now),
            Link::Local(end) => {
                // No files are handed over by TCP.
                end.close(is_abrupt);
            }
        }
        stack.wake();
    }

    /// Asks for a connection.
    fn start(&self, stack: &mut Stack, options: &Options, remote: SocketAddrV4) -> Result<(), Errno> {
        let mut destination = *remote.ip();
        if destination.is_unspecified() {
            destination = Ipv4Addr::LOCALHOST;
        }
        if destination.is_multicast() || stack.is_broadcast(destination) {
            return Err(errno::ENETUNREACH);
        }
        let remote = SocketAddrV4::new(destination, remote.port());
        let (route, source) = stack.route(destination)?;
        let source = if self.local.get().ip().is_unspecified() { source } else { *self.local.get().ip() };
        if route == Route::Network && source.is_loopback() {
            return Err(errno::EINVAL);
        }
        self.ensure_port(stack, source, options).map_err(|_| errno::EADDRNOTAVAIL)?;
        let local = SocketAddrV4::new(source, self.local.get().port());
        if route == Route::Local {
            self.connect_within(stack, options, local, remote);
        } else {
            let connection = stack.open_connection(local, remote, options).inspect_err(|_| self.reset(stack))?;
            self.set_link(Link::Network(connection));
        }
        self.local.set(local);
        self.remote.set(Some(remote));
        self.phase.set(Phase::Connecting);
        Ok(())
    }

    fn connect_within(&self, stack: &mut Stack, options: &Options, local: SocketAddrV4, remote: SocketAddrV4) {
        let Some(listener) = stack.find_listener(remote).filter(|listener| listener.has_room()) else {
            self.error.set(Some(errno::ECONNREFUSED));
            self.set_link(Link::Refused);
            return stack.wake();
        };
        let here = options.asked_bytes().0.unwrap_or(LOCAL_BYTES);
        let there = listener.options().asked_bytes().0.unwrap_or(LOCAL_BYTES);
        let (end, other) = pair(Rules::Tcp, (here, there));
        listener.welcome(Visitor::Local { end: other, local: remote, remote: local });
        self.set_link(Link::Local(end));
        stack.wake();
    }

    /// Whether there is no connection any more: Linux's TCP_CLOSE.
    fn is_over(&self) -> bool {
        match &*self.link.borrow() {
            Link::None | Link::Refused => true,
            Link::Listening(_) => false,
            Link::Network(connection) => connection.is_over(),
            Link::Local(end) => end.is_over(),
        }
    }
}

impl Transport for Tcp {
    fn bind(&self, stack: &mut Stack, options: &Options, address: Address) -> Result<(), Errno> {
        let Address::Inet(address) = address else { return Err(errno::EAFNOSUPPORT) };
        let ip = *address.ip();
        let is_valid = ip.is_unspecified() || stack.is_own(ip) || ip.is_multicast() || stack.is_broadcast(ip);
        if !is_valid {
            return Err(errno::EADDRNOTAVAIL);
        }
        if self.hold.get().is_some() || !matches!(*self.link.borrow(), Link::None) {
            return Err(errno::EINVAL);
        }
        let hold = match address.port() {
            0 => stack.tcp_ports.take_any(claim(ip, options))?,
            port => stack.tcp_ports.take(port, claim(ip, options))?,
        };
        self.hold.set(Some(hold));
        self.bound.set(address);
        self.local.set(SocketAddrV4::new(ip, hold.port));
        Ok(())
    }

    fn listen(&self, stack: &mut Stack, options: &Options, backlog: usize) -> Result<(), Errno> {
        match self.link() {
            Link::Listening(listener) => listener.set_backlog(backlog),
            Link::None if self.phase.get() == Phase::Unconnected => {
                self.ensure_port(stack, *self.bound.get().ip(), options)?;
                if let Some(hold) = self.hold.get() {
                    stack.tcp_ports.listen(hold, true)?;
                }
                let listener = stack.add_listener(self.local.get(), backlog, options);
                self.set_link(Link::Listening(listener));
            }
            _ => return Err(errno::EINVAL),
        }
        Ok(())
    }

    fn connect(
        &self,
        stack: &mut Stack,
        options: &Options,
        address: Result<Address, Errno>,
        is_nonblocking: bool,
    ) -> Result<(), Stop> {
        // As __inet_stream_connect in Linux's net/ipv4/af_inet.c.
        if address == Ok(Address::Unspecified) {
            self.disconnect(stack);
            return Ok(());
        }
        let mut pending = errno::EALREADY;
        match self.phase.get() {
            Phase::Connected => return Err(errno::EISCONN.into()),
            Phase::Unconnected if matches!(*self.link.borrow(), Link::Listening(_)) => {
                return Err(errno::EISCONN.into());
            }
            Phase::Unconnected => {
                let Address::Inet(remote) = address? else { return Err(errno::EAFNOSUPPORT.into()) };
                self.start(stack, options, remote)?;
                pending = errno::EINPROGRESS;
                // Even what is decided at once is told by the next call.
                if is_nonblocking {
                    return Err(pending.into());
                }
            }
            Phase::Connecting => {}
        }
        if let Link::Network(connection) = self.link()
            && connection.is_opening()
        {
            return Err(if is_nonblocking { pending.into() } else { Stop::wait(None) });
        }
        if self.is_over() {
            let error = self.take_error().unwrap_or(errno::ECONNABORTED);
            self.disconnect(stack);
            return Err(error.into());
        }
        self.phase.set(Phase::Connected);
        Ok(())
    }

    fn accept(&self, stack: &mut Stack, options: &Options) -> Result<Box<dyn Transport>, Stop> {
        let Link::Listening(listener) = self.link() else { return Err(errno::EINVAL.into()) };
        let Some(visitor) = listener.visitors.borrow_mut().pop_front() else { return Err(Stop::wait(None)) };
        let (link, local, remote) = match visitor {
            Visitor::Local { end, local, remote } => (Link::Local(end), local, remote),
            Visitor::Network(connection) => {
                let (local, remote) = connection.addresses();
                connection.apply(&mut stack.sockets, options);
                (Link::Network(connection), local, remote)
            }
        };
        let hold = stack.tcp_ports.join(local.port(), claim(*local.ip(), options));
        Ok(Box::new(Tcp {
            link: RefCell::new(link),
            phase: Cell::new(Phase::Connected),
            bound: Cell::new(local),
            local: Cell::new(local),
            remote: Cell::new(Some(remote)),
            hold: Cell::new(Some(hold)),
            error: Cell::default(),
            changes: Arrivals::default(),
        }))
    }

    fn receive(&self, stack: &mut Stack, _: &Options, buffer: &mut [u8], is_peek: bool) -> Result<Received, Stop> {
        let count = match self.link() {
            Link::None | Link::Listening(_) => return Err(errno::ENOTCONN.into()),
            Link::Refused => match self.error.take() {
                Some(error) => return Err(error.into()),
                None => 0,
            },
            Link::Network(connection) => connection.receive(&mut stack.sockets, buffer, is_peek)?,
            Link::Local(end) => {
                let moved = end.receive(buffer, is_peek)?;
                if moved.wakes {
                    stack.wake();
                }
                moved.taken.count
            }
        };
        Ok(Received { count, length: count, ..Received::default() })
    }

    fn send(&self, stack: &mut Stack, _: &Options, message: &Message) -> Result<usize, Stop> {
        match self.link() {
            Link::None | Link::Refused | Link::Listening(_) => Err(self.error.take().unwrap_or(errno::EPIPE).into()),
            Link::Network(connection) => connection.send(&mut stack.sockets, message.bytes),
            Link::Local(end) => {
                let count = end.send(message.bytes, &[])?;
                stack.wake();
                Ok(count)
            }
        }
    }

    fn shut_down(&self, stack: &mut Stack, directions: Directions) -> Result<(), Errno> {
        match self.link() {
            Link::Listening(_) if !directions.receive => return Ok(()),
            Link::Listening(_) => {
                self.drop_link(stack, true);
                self.set_link(Link::None);
            }
            Link::Network(connection) if connection.is_opening() => self.disconnect(stack),
            _ if self.is_over() => return Err(errno::ENOTCONN),
            Link::Network(connection) => connection.shut_down(&mut stack.sockets, directions),
            Link::Local(end) => end.shut_down(directions),
            Link::None | Link::Refused => {}
        }
        stack.wake();
        Ok(())
    }

    fn local(&self) -> Address {
        Address::Inet(self.local.get())
    }

    fn peer(&self) -> Result<Address, Errno> {
        let is_opening = matches!(&*self.link.borrow(), Link::Network(connection) if connection.is_opening());
        let remote = self.remote.get().filter(|_| !is_opening && !self.is_over());
        remote.map(Address::Inet).ok_or(errno::ENOTCONN)
    }

    fn take_error(&self) -> Option<Errno> {
        match &*self.link.borrow() {
            Link::Network(connection) => connection.take_error(),
            Link::Local(end) => end.take_error(),
            Link::None | Link::Refused | Link::Listening(_) => self.error.take(),
        }
    }

    fn ready(&self, stack: &Stack) -> u32 {
        match &*self.link.borrow() {
            Link::None => EPOLLOUT | EPOLLHUP,
            Link::Refused => {
                let error = self.error.get().map_or(0, |_| EPOLLERR);
                EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLHUP | error
            }
            Link::Listening(listener) if listener.visitors.borrow().is_empty() => 0,
            Link::Listening(_) => EPOLLIN,
            Link::Network(connection) => connection.ready(&stack.sockets),
            Link::Local(end) => end.ready(),
        }
    }

    fn activity(&self) -> Activity {
        self.changes.activity().max(self.link.borrow().activity())
    }

    fn readable(&self) -> Result<usize, Errno> {
        match &*self.link.borrow() {
            Link::None | Link::Refused => Ok(0),
            Link::Listening(_) => Err(errno::EINVAL),
            Link::Network(connection) => Ok(connection.readable()),
            Link::Local(end) => Ok(end.readable()),
        }
    }

    fn unsent(&self) -> Result<usize, Errno> {
        match &*self.link.borrow() {
            Link::Listening(_) => Err(errno::EINVAL),
            Link::Network(connection) => Ok(connection.unsent()),
            // Linux's loopback interface acknowledges at once.
            Link::None | Link::Refused | Link::Local(_) => Ok(0),
        }
    }

    fn is_listening(&self) -> bool {
        matches!(*self.link.borrow(), Link::Listening(_))
    }

    fn state(&self) -> u8 {
        match &*self.link.borrow() {
            Link::None | Link::Refused => CLOSE,
            Link::Listening(_) => LISTEN,
            Link::Network(connection) => match connection.state() {
                State::Established => ESTABLISHED,
                State::SynSent => 2,
                State::SynReceived => 3,
                State::FinWait1 => 4,
                State::FinWait2 => 5,
                State::CloseWait => 8,
                State::LastAck => 9,
                State::Listen => LISTEN,
                State::Closing => 11,
                // Linux keeps no socket for TIME-WAIT.
                State::TimeWait | State::Closed => CLOSE,
            },
            Link::Local(end) => match (end.is_over(), end.has_ended(), end.shut().send) {
                (true, ..) | (_, true, true) => CLOSE,
                (_, true, false) => 8,
                (_, false, true) => 5,
                (_, false, false) => ESTABLISHED,
            },
        }
    }

    fn apply(&self, stack: &mut Stack, options: &Options) {
        match &*self.link.borrow() {
            Link::None | Link::Refused => {}
            Link::Listening(listener) => listener.set_options(options),
            Link::Network(connection) => connection.apply(&mut stack.sockets, options),
            Link::Local(end) => end.set_capacity(options.asked_bytes().0.unwrap_or(LOCAL_BYTES)),
        }
    }

    fn close(&self, stack: &mut Stack, options: &Options) {
        self.drop_link(stack, options.closes_abruptly());
        self.set_link(Link::None);
        self.release(stack);
    }
}

#[cfg(test)]
mod tests;
