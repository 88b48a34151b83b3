//! What the network knows of a UDP socket: its port, and the datagrams that have come to it.

use alloc::vec;
use core::cell::Cell;
use core::net::{Ipv4Addr, SocketAddrV4};

use linux_raw_sys::general::{EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP};
use sdk::smoltcp::iface::{SocketHandle, SocketSet};
use sdk::smoltcp::phy::PacketMeta;
use sdk::smoltcp::socket::udp::{PacketBuffer, PacketMetadata, Socket, UdpMetadata};
use sdk::smoltcp::wire::{IpAddress, IpEndpoint, IpListenEndpoint};

use super::Directions;
use super::address::NOWHERE;
use super::mailbox::Mailbox;
use super::stack::Stack;
use crate::heap;
use crate::system_calls::{Errno, Stop, errno};

const HEADER_BYTES: usize = 20 + 8;
/// What comes is collected after each frame, so that room for one datagram of any length is enough.
const RECEIVE_BYTES: usize = 64 * 1024;
const RECEIVE_DATAGRAMS: usize = 4;
const SEND_BYTES: usize = 32 * 1024;
const SEND_DATAGRAMS: usize = 64;
/// Datagrams that could not be sent for so long, as nobody answers for the address, are dropped.
const UNSENT_NANOSECONDS: u64 = 3_000_000_000;

/// What the stack knows of a UDP socket that has a port.
pub(super) struct Channel {
    /// the network stack's socket, where the network can reach it
    handle: Cell<Option<SocketHandle>>,
    /// its address
    pub local: Cell<SocketAddrV4>,
    /// the only one that it hears, where it is connected
    pub remote: Cell<Option<SocketAddrV4>>,
    /// what has come
    pub mailbox: Mailbox<SocketAddrV4>,
    /// what has befallen it
    pub error: Cell<Option<Errno>>,
    /// directions that have been ended
    pub shut: Cell<Directions>,
    lacks_room: Cell<bool>,
    /// bytes that the network stack has not sent, and since when there are as many
    unsent: Cell<(usize, u64)>,
    is_closed: Cell<bool>,
}

impl Channel {
    /// One without an address; it holds so many bytes.
    pub(super) fn new(capacity: usize) -> Channel {
        Channel {
            handle: Cell::default(),
            local: Cell::new(NOWHERE),
            remote: Cell::default(),
            mailbox: Mailbox::new(capacity),
            error: Cell::default(),
            shut: Cell::default(),
            lacks_room: Cell::default(),
            unsent: Cell::default(),
            is_closed: Cell::default(),
        }
    }

    /// How well it suits a datagram from `from` to `to`, None where it does not. As compute_score in Linux's
    /// net/ipv4/udp.c.
    pub(super) fn rank(&self, from: SocketAddrV4, to: SocketAddrV4) -> Option<u32> {
        let local = self.local.get();
        let is_any = local.ip().is_unspecified();
        let suits = local.port() == to.port() && (is_any || local.ip() == to.ip()) && !self.is_closed.get();
        match self.remote.get() {
            _ if !suits => None,
            Some(remote) if remote != from => None,
            remote => Some(u32::from(!is_any) + 2 * u32::from(remote.is_some())),
        }
    }

    /// Takes a datagram up, where it is wanted and there is room.
    pub(super) fn put(&self, from: SocketAddrV4, bytes: &[u8]) {
        let is_wanted = self.remote.get().is_none_or(|remote| remote == from) && !self.shut.get().receive;
        if is_wanted {
            // A datagram for which there is no room is lost.
            self.mailbox.put(from, bytes);
        }
    }

    /// Takes what has come from the network stack.
    pub(super) fn collect(&self, sockets: &mut SocketSet<'static>) {
        let Some(handle) = self.handle.get() else { return };
        while let Ok((bytes, metadata)) = sockets.get_mut::<Socket>(handle).recv() {
            let IpAddress::Ipv4(address) = metadata.endpoint.addr;
            self.put(SocketAddrV4::new(address, metadata.endpoint.port), bytes);
        }
    }

    /// Looks at the socket after frames have been sent: drops what cannot be sent. Returns whether there is room that
    /// somebody wanted.
    pub(super) fn look(&self, sockets: &mut SocketSet<'static>, now: u64) -> bool {
        let Some(handle) = self.handle.get() else { return false };
        let socket = sockets.get_mut::<Socket>(handle);
        let (before, since) = self.unsent.get();
        if now >= since + UNSENT_NANOSECONDS && socket.send_queue() > 0 && socket.send_queue() == before {
            let endpoint = socket.endpoint();
            socket.close();
            // It has just been closed, and had that port.
            let _ = socket.bind(endpoint);
        }
        let unsent = socket.send_queue();
        if unsent != before {
            self.unsent.set((unsent, now));
        }
        let has_room = unsent < before && self.lacks_room.take();
        if has_room {
            self.mailbox.touch();
        }
        has_room
    }

    /// When to look again, in nanoseconds.
    pub(super) fn deadline(&self) -> Option<u64> {
        let (unsent, since) = self.unsent.get();
        (unsent > 0).then_some(since + UNSENT_NANOSECONDS)
    }

    /// Whether the descriptor is closed and datagrams are still to be sent.
    pub(super) fn is_closing(&self, sockets: &SocketSet<'static>) -> bool {
        self.is_closed.get() && self.handle.get().is_some_and(|handle| sockets.get::<Socket>(handle).send_queue() > 0)
    }

    /// Whether nobody needs it any more.
    pub(super) fn is_finished(&self, sockets: &SocketSet<'static>) -> bool {
        self.is_closed.get() && !self.is_closing(sockets)
    }

    /// Takes the network stack's socket away.
    pub(super) fn remove(&self, sockets: &mut SocketSet<'static>) {
        if let Some(handle) = self.handle.take() {
            sockets.remove(handle);
        }
    }

    /// Opens it to the network.
    ///
    /// # Errors
    /// ENOBUFS where memory is short.
    pub(super) fn open(&self, stack: &mut Stack, local: SocketAddrV4) -> Result<(), Errno> {
        let socket = network_socket(local).ok_or(errno::ENOBUFS)?;
        self.handle.set(Some(stack.sockets.add(socket)));
        Ok(())
    }

    /// The descriptor is closed.
    pub(super) fn close(&self) {
        self.is_closed.set(true);
    }

    /// Bytes that have not been sent.
    pub(super) fn unsent(&self) -> usize {
        self.unsent.get().0
    }

    /// What poll says. As datagram_poll in Linux's net/core/datagram.c.
    pub(super) fn ready(&self, stack: &Stack) -> u32 {
        let shut = self.shut.get();
        let mut mask = 0;
        if self.error.get().is_some() {
            mask |= EPOLLERR;
        }
        if shut.receive {
            mask |= EPOLLIN | EPOLLRDHUP;
        }
        if shut == Directions::BOTH {
            mask |= EPOLLHUP;
        }
        if self.mailbox.count() > 0 {
            mask |= EPOLLIN;
        }
        let handle = self.handle.get();
        if handle.is_none_or(|handle| stack.sockets.get::<Socket>(handle).can_send()) {
            mask |= EPOLLOUT;
        } else {
            self.lacks_room.set(true);
        }
        mask
    }

    /// Hands a datagram to the network stack.
    ///
    /// # Errors
    /// EMSGSIZE where it does not fit into one packet, ENETUNREACH; a wait where there is no room.
    pub(super) fn send(&self, stack: &mut Stack, source: Ipv4Addr, to: SocketAddrV4, bytes: &[u8]) -> Result<(), Stop> {
        let mtu = stack.network().ok_or(errno::ENETUNREACH)?.mtu();
        if bytes.len() + HEADER_BYTES > mtu {
            return Err(errno::EMSGSIZE.into());
        }
        let now = stack.now();
        let socket = stack.sockets.get_mut::<Socket>(self.handle.get().ok_or(errno::ENETUNREACH)?);
        let metadata = UdpMetadata {
            endpoint: IpEndpoint::from(to),
            local_address: Some(source.into()),
            meta: PacketMeta::default(),
        };
        if socket.send_slice(bytes, metadata).is_err() {
            self.lacks_room.set(true);
            return Err(Stop::wait(None));
        }
        let (before, since) = self.unsent.get();
        self.unsent.set((socket.send_queue(), if before == 0 { now } else { since }));
        Ok(())
    }
}

/// A socket of the network stack; None where memory is short.
fn network_socket(local: SocketAddrV4) -> Option<Socket<'static>> {
    let buffer = |datagrams, bytes| {
        let mut storage = vec![];
        heap::reserve(&mut storage, bytes).ok()?;
        storage.resize(bytes, 0);
        Some(PacketBuffer::new(vec![PacketMetadata::EMPTY; datagrams], storage))
    };
    let mut socket = Socket::new(buffer(RECEIVE_DATAGRAMS, RECEIVE_BYTES)?, buffer(SEND_DATAGRAMS, SEND_BYTES)?);
    let address = Some(*local.ip()).filter(|address| !address.is_unspecified());
    socket.bind(IpListenEndpoint { addr: address.map(Into::into), port: local.port() }).ok()?;
    Some(socket)
}
