//! A TCP connection over the network: a socket of the network stack, and what Linux knows of a connection beside it.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::net::SocketAddrV4;

use linux_raw_sys::general::{EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP};
use sdk::smoltcp::iface::{SocketHandle, SocketSet};
use sdk::smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use sdk::smoltcp::time::Duration;
use sdk::smoltcp::wire::{IpAddress, IpEndpoint};

use super::Directions;
use super::address::NOWHERE;
use super::options::{KeepAlive, Options};
use crate::clock::NANOSECONDS;
use crate::heap;
use crate::readiness::{Activity, Arrivals};
use crate::system_calls::{Errno, Stop, errno};

/// A host of the own network that has not said its address for so long is not there: three questions.
const RESOLUTION_NANOSECONDS: u64 = 3 * NANOSECONDS;
/// A request for a connection is given up after six repetitions (net.ipv4.tcp_syn_retries): 1 + 2 + ... + 64 seconds.
const REQUEST_NANOSECONDS: u64 = 127 * NANOSECONDS;
/// An answer to one is given up after five (net.ipv4.tcp_synack_retries).
const ANSWER_NANOSECONDS: u64 = 63 * NANOSECONDS;
/// Bytes that nobody acknowledges are given up after fifteen repetitions (net.ipv4.tcp_retries2).
const UNACKNOWLEDGED_NANOSECONDS: u64 = 924 * NANOSECONDS;
/// A connection whose descriptor is closed is given up when it was quiet for so long (net.ipv4.tcp_fin_timeout).
const ORPHAN_NANOSECONDS: u64 = 60 * NANOSECONDS;

/// Buffers that nobody has asked for, in bytes. They are taken from the heap for each connection.
const RECEIVE_BYTES: usize = 16 * 1024;
const SEND_BYTES: usize = 32 * 1024;
const BUFFER_BYTES_MIN: usize = 4 * 1024;
const BUFFER_BYTES_MAX: usize = 4 << 20;

/// Who a connection belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// a listener, until the other end has acknowledged it
    Opening,
    /// a descriptor, or those that wait to be accepted
    Open,
    /// nobody: the descriptor is closed, the last bytes may still be on their way
    Orphan,
    /// nobody, and nothing is to be said to the other end
    Gone,
}

/// Why a socket is looked at: what ends a connection is told by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// frames have come
    Frames,
    /// time has passed
    Time,
}

/// A connection, or what may become one.
pub(super) struct Connection {
    handle: SocketHandle,
    role: Cell<Role>,
    /// what the socket was like when it was last looked at
    state: Cell<State>,
    received: Cell<usize>,
    unsent: Cell<usize>,
    /// when that last changed, in nanoseconds
    quiet_since: Cell<u64>,
    arrivals: Arrivals,
    lacks_room: Cell<bool>,
    error: Cell<Option<Errno>>,
    has_ended: Cell<bool>,
    shut: Cell<Directions>,
    keep_alive: Cell<Option<KeepAlive>>,
    user_timeout: Cell<Option<u64>>,
    is_probing: Cell<bool>,
    /// the guest's and the other end's
    addresses: Cell<(SocketAddrV4, SocketAddrV4)>,
}

fn address(endpoint: IpEndpoint) -> SocketAddrV4 {
    let IpAddress::Ipv4(address) = endpoint.addr;
    SocketAddrV4::new(address, endpoint.port)
}

fn buffer(bytes: usize) -> Option<SocketBuffer<'static>> {
    let mut storage = Vec::new();
    heap::reserve(&mut storage, bytes).ok()?;
    storage.resize(bytes, 0);
    Some(SocketBuffer::new(storage))
}

/// A socket with the buffers that these options ask for; None where memory is short.
pub(super) fn socket(options: &Options) -> Option<Socket<'static>> {
    // Linux doubles what is asked for, for its own structures.
    let size = |asked: Option<usize>, default| {
        asked.map_or(default, |bytes| (bytes / 2).clamp(BUFFER_BYTES_MIN, BUFFER_BYTES_MAX))
    };
    let (send, receive) = options.asked_bytes();
    Some(Socket::new(buffer(size(receive, RECEIVE_BYTES))?, buffer(size(send, SEND_BYTES))?))
}

fn duration(nanoseconds: u64) -> Duration {
    Duration::from_micros(nanoseconds / 1000)
}

impl Connection {
    /// Keeps an account of a socket that is in the set already.
    pub(super) fn new(handle: SocketHandle, role: Role, state: State, now: u64) -> Rc<Connection> {
        Rc::new(Connection {
            handle,
            role: Cell::new(role),
            state: Cell::new(state),
            received: Cell::default(),
            unsent: Cell::default(),
            quiet_since: Cell::new(now),
            arrivals: Arrivals::default(),
            lacks_room: Cell::default(),
            error: Cell::default(),
            has_ended: Cell::default(),
            shut: Cell::default(),
            keep_alive: Cell::default(),
            user_timeout: Cell::default(),
            is_probing: Cell::default(),
            addresses: Cell::new((NOWHERE, NOWHERE)),
        })
    }

    /// The socket in the set.
    pub(super) fn handle(&self) -> SocketHandle {
        self.handle
    }

    /// The addresses of both ends when it was opened.
    pub(super) fn addresses(&self) -> (SocketAddrV4, SocketAddrV4) {
        self.addresses.get()
    }

    /// Who it belongs to.
    pub(super) fn role(&self) -> Role {
        self.role.get()
    }

    /// It has been opened: it belongs to a descriptor, or waits for one.
    pub(super) fn open(&self) {
        self.role.set(Role::Open);
    }

    /// The state when it was last looked at.
    pub(super) fn state(&self) -> State {
        self.state.get()
    }

    /// Whether it is asked for and not opened yet.
    pub(super) fn is_opening(&self) -> bool {
        matches!(self.state.get(), State::SynSent | State::SynReceived)
    }

    /// Whether it is no more: Linux's TCP_CLOSE.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state.get(), State::Closed | State::TimeWait)
    }

    /// Whether it is one between these: where its segments come from, and the guest's port.
    pub(super) fn is_between(&self, from: IpEndpoint, port: u16) -> bool {
        let (local, remote) = self.addresses.get();
        local.port() == port && remote.port() == from.port && IpAddress::Ipv4(*remote.ip()) == from.addr
    }

    /// Takes over what concerns the connection itself.
    pub(super) fn apply(&self, sockets: &mut SocketSet<'static>, options: &Options) {
        sockets.get_mut::<Socket>(self.handle).set_nagle_enabled(options.holds_short_segments());
        self.keep_alive.set(options.keep_alive());
        self.user_timeout.set(options.user_timeout());
    }

    /// Looks at the socket after frames or time have changed it; returns whether that concerns anybody.
    pub(super) fn look(&self, sockets: &mut SocketSet<'static>, now: u64, cause: Cause) -> bool {
        let socket = sockets.get_mut::<Socket>(self.handle);
        let (state, received, unsent) = (socket.state(), socket.recv_queue(), socket.send_queue());
        let before = self.state.replace(state);
        let received_before = self.received.replace(received);
        let has_arrived = received > received_before;
        let has_left = unsent < self.unsent.replace(unsent);
        let has_room = has_left && self.lacks_room.get();
        if before != state || has_arrived || has_left {
            self.quiet_since.set(now);
            if self.is_probing.replace(false) {
                socket.set_keep_alive(None);
            }
        }
        if before != state {
            self.change_state(before, state, cause);
            if let (Some(local), Some(remote)) = (socket.local_endpoint(), socket.remote_endpoint()) {
                self.addresses.set((address(local), address(remote)));
            }
        }
        if has_room && is_writable(socket) {
            self.lacks_room.set(false);
            self.arrivals.note(received_before > 0);
        }
        if before != state || has_arrived {
            self.arrivals.note(received_before > 0);
        }
        before != state || has_arrived || has_room
    }

    fn change_state(&self, before: State, state: State, cause: Cause) {
        if matches!(state, State::CloseWait | State::LastAck | State::Closing | State::TimeWait) {
            self.has_ended.set(true);
        }
        if state == State::Closed {
            // tcp_reset in Linux's net/ipv4/tcp_input.c, and tcp_write_err in tcp_timer.c.
            let error = match (before, cause) {
                (State::Listen | State::LastAck | State::Closing | State::TimeWait, _) => None,
                (_, Cause::Time) => Some(errno::ETIMEDOUT),
                (State::SynSent, Cause::Frames) => Some(errno::ECONNREFUSED),
                (State::CloseWait, Cause::Frames) => Some(errno::EPIPE),
                (_, Cause::Frames) => Some(errno::ECONNRESET),
            };
            self.error.set(error);
            self.shut.set(Directions::BOTH);
        }
    }

    /// Gives the connection up where it was quiet for too long. `is_unresolved` says that nobody has answered for the
    /// address to which its frames go. Returns when to look again, in nanoseconds.
    pub(super) fn expire(&self, sockets: &mut SocketSet<'static>, now: u64, is_unresolved: bool) -> Option<u64> {
        let socket = sockets.get_mut::<Socket>(self.handle);
        let since = self.quiet_since.get();
        match (self.role.get(), socket.state()) {
            (_, State::Closed | State::Listen | State::TimeWait) => None,
            (Role::Open, State::SynSent) => {
                let request = self.user_timeout.get().unwrap_or(REQUEST_NANOSECONDS);
                let limit = if is_unresolved { RESOLUTION_NANOSECONDS } else { request };
                if now >= since + limit {
                    self.fail(socket, if is_unresolved { errno::EHOSTUNREACH } else { errno::ETIMEDOUT });
                    return None;
                }
                let first = if now < since + RESOLUTION_NANOSECONDS { RESOLUTION_NANOSECONDS } else { request };
                Some(since + first.min(request))
            }
            (Role::Open, _) => self.keep_alive(socket, now),
            (Role::Opening, _) => self.abort_after(socket, now, ANSWER_NANOSECONDS),
            // Nobody will read what comes.
            (Role::Orphan, _) if socket.recv_queue() > 0 => self.abort_after(socket, now, 0),
            (Role::Orphan | Role::Gone, _) => self.abort_after(socket, now, ORPHAN_NANOSECONDS),
        }
    }

    fn abort_after(&self, socket: &mut Socket, now: u64, limit: u64) -> Option<u64> {
        let end = self.quiet_since.get() + limit;
        if now < end {
            return Some(end);
        }
        socket.abort();
        None
    }

    fn fail(&self, socket: &mut Socket, error: Errno) {
        socket.abort();
        self.state.set(State::Closed);
        self.error.set(Some(error));
        self.shut.set(Directions::BOTH);
        self.arrivals.note(self.received.get() > 0);
    }

    /// Asks a quiet connection whether it lives, and sets how long the other end may keep silent.
    fn keep_alive(&self, socket: &mut Socket, now: u64) -> Option<u64> {
        if socket.send_queue() > 0 {
            let limit = self.user_timeout.get().unwrap_or(UNACKNOWLEDGED_NANOSECONDS);
            socket.set_timeout(Some(duration(limit)));
            return None;
        }
        let Some(keep_alive) = self.keep_alive.get() else {
            self.is_probing.set(false);
            socket.set_keep_alive(None);
            socket.set_timeout(None);
            return None;
        };
        let start = self.quiet_since.get() + keep_alive.idle;
        if now < start {
            socket.set_timeout(None);
            return Some(start);
        }
        if !self.is_probing.replace(true) {
            // The network stack asks at once, and again after each interval.
            socket.set_keep_alive(Some(duration(keep_alive.interval)));
            let silence = keep_alive.idle + keep_alive.interval * keep_alive.probes;
            socket.set_timeout(Some(duration(silence)));
        }
        None
    }

    /// Takes bytes out, or looks at them.
    ///
    /// # Errors
    /// What has befallen the connection, once; a wait where there is nothing yet.
    pub(super) fn receive(
        &self,
        sockets: &mut SocketSet<'static>,
        buffer: &mut [u8],
        is_peek: bool,
    ) -> Result<usize, Stop> {
        let socket = sockets.get_mut::<Socket>(self.handle);
        if socket.recv_queue() > 0 {
            let taken = if is_peek { socket.peek_slice(buffer) } else { socket.recv_slice(buffer) };
            self.received.set(socket.recv_queue());
            // There is something, so that neither fails.
            return Ok(taken.unwrap_or(0));
        }
        if self.has_ended.get() {
            return Ok(0);
        }
        if let Some(error) = self.error.take() {
            return Err(error.into());
        }
        if self.shut.get().receive { Ok(0) } else { Err(Stop::wait(None)) }
    }

    /// Sends bytes, or as many of them as there is room for.
    ///
    /// # Errors
    /// EPIPE where nobody takes them, what has befallen the connection; a wait where there is no room.
    pub(super) fn send(&self, sockets: &mut SocketSet<'static>, bytes: &[u8]) -> Result<usize, Stop> {
        if let Some(error) = self.error.take() {
            return Err(error.into());
        }
        if self.shut.get().send {
            return Err(errno::EPIPE.into());
        }
        if self.is_opening() {
            return Err(Stop::wait(None));
        }
        let socket = sockets.get_mut::<Socket>(self.handle);
        let count = socket.send_slice(bytes).map_err(|_| errno::EPIPE)?;
        self.unsent.set(socket.send_queue());
        if count < bytes.len() {
            self.lacks_room.set(true);
        }
        if count == 0 && !bytes.is_empty() { Err(Stop::wait(None)) } else { Ok(count) }
    }

    /// Ends directions; the other end is told of the one that sends only.
    pub(super) fn shut_down(&self, sockets: &mut SocketSet<'static>, directions: Directions) {
        self.shut.set(self.shut.get() | directions);
        if directions.send {
            let socket = sockets.get_mut::<Socket>(self.handle);
            socket.close();
            self.state.set(socket.state());
        }
        self.arrivals.note(self.received.get() > 0);
    }

    /// The descriptor is closed. The other end learns that bytes were lost where some were not read, or where it is to
    /// be so.
    pub(super) fn close(&self, sockets: &mut SocketSet<'static>, is_abrupt: bool, now: u64) {
        let socket = sockets.get_mut::<Socket>(self.handle);
        self.quiet_since.set(now);
        self.role.set(Role::Orphan);
        match socket.state() {
            State::Listen | State::SynSent | State::Closed => self.role.set(Role::Gone),
            State::SynReceived => socket.abort(),
            _ if is_abrupt || socket.recv_queue() > 0 => socket.abort(),
            _ => {
                socket.set_timeout(None);
                socket.close();
            }
        }
        self.state.set(socket.state());
    }

    /// Whether the socket of a connection that is nobody's can go.
    pub(super) fn is_finished(&self, sockets: &SocketSet<'static>, now: u64) -> bool {
        let socket = sockets.get::<Socket>(self.handle);
        // A reset that cannot be sent, as nobody answers for the address, is given up.
        let has_told = socket.remote_endpoint().is_none() || now >= self.quiet_since.get() + RESOLUTION_NANOSECONDS;
        match self.role.get() {
            Role::Gone => true,
            Role::Orphan => socket.state() == State::Closed && has_told,
            Role::Opening | Role::Open => false,
        }
    }

    /// Whether the other end is still to be told that it is closed.
    pub(super) fn is_closing(&self, sockets: &SocketSet<'static>) -> bool {
        let socket = sockets.get::<Socket>(self.handle);
        let has_told = match socket.state() {
            State::FinWait2 | State::TimeWait => true,
            State::Closed => socket.remote_endpoint().is_none(),
            _ => false,
        };
        self.role.get() == Role::Orphan && !has_told
    }

    /// What has befallen the connection, once.
    pub(super) fn take_error(&self) -> Option<Errno> {
        self.error.take()
    }

    /// Bytes that can be read now.
    pub(super) fn readable(&self) -> usize {
        self.received.get()
    }

    /// Bytes that the other end has not acknowledged.
    pub(super) fn unsent(&self) -> usize {
        self.unsent.get()
    }

    /// What has arrived: data, room, changes of state.
    pub(super) fn activity(&self) -> Activity {
        self.arrivals.activity()
    }

    /// What poll says. As tcp_poll in Linux's net/ipv4/tcp.c.
    pub(super) fn ready(&self, sockets: &SocketSet<'static>) -> u32 {
        let shut = self.shut.get();
        let receives_no_more = shut.receive || self.has_ended.get();
        let mut mask = 0;
        if self.error.get().is_some() {
            mask |= EPOLLERR;
        }
        if self.is_over() || (receives_no_more && shut.send) {
            mask |= EPOLLHUP;
        }
        if receives_no_more {
            mask |= EPOLLIN | EPOLLRDHUP;
        }
        if self.is_opening() {
            return mask;
        }
        if self.received.get() > 0 {
            mask |= EPOLLIN;
        }
        if shut.send || is_writable(sockets.get::<Socket>(self.handle)) {
            mask |= EPOLLOUT;
        } else {
            self.lacks_room.set(true);
        }
        mask
    }
}

/// Whether there is so much room that poll says so: a third.
fn is_writable(socket: &Socket) -> bool {
    socket.send_capacity() - socket.send_queue() >= socket.send_capacity() / 3
}

#[cfg(test)]
mod tests;
