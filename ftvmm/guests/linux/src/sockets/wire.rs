//! A network for tests: the guest's sockets and those of another host on one wire, where both have the same address.
//!
//! The stack's own device is the host's, which tests have not; here frames go by the network stack's loopback device.

use alloc::rc::Rc;
use core::net::{Ipv4Addr, SocketAddrV4};

use sdk::arguments::Addresses;
use sdk::smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult};
use sdk::smoltcp::phy::{Loopback, Medium};
use sdk::smoltcp::socket::tcp::{Socket, SocketBuffer};
use sdk::smoltcp::time::Instant;
use sdk::smoltcp::wire::{EthernetAddress, IpCidr, IpEndpoint, Ipv4Cidr};

use super::connection::{Cause, Connection, Role};
use super::options::Options;
use super::stack::Stack;

/// The address of both.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const PREFIX_BITS: u8 = 24;
const MILLISECOND: u64 = 1_000_000;

/// The wire, and the guest at it.
pub(super) struct Wire {
    pub stack: Stack,
    interface: Interface,
    device: Loopback,
    pub now: u64,
}

impl Wire {
    /// A wire on which nothing is under way.
    pub(super) fn new() -> Wire {
        let mut device = Loopback::new(Medium::Ethernet);
        let config = Config::new(EthernetAddress([2, 0, 0, 0, 0, 1]).into());
        let mut interface = Interface::new(config, &mut device, Instant::ZERO);
        let address = Ipv4Cidr::new(ADDRESS, PREFIX_BITS);
        interface.update_ip_addrs(|list| list.push(IpCidr::Ipv4(address)).unwrap());
        let mut stack = Stack::without_network(0, 0);
        stack.set_addresses(Addresses { address, gateway: None });
        Wire { stack, interface, device, now: 0 }
    }

    fn instant(&self) -> Instant {
        Instant::from_micros((self.now / 1000) as i64)
    }

    /// The guest asks for a connection.
    pub(super) fn connect(&mut self, port: u16, to: u16) -> Rc<Connection> {
        let mut socket = super::connection::socket(&Options::default()).unwrap();
        self.start(&mut socket, port, to);
        let state = socket.state();
        let connection = Connection::new(self.stack.sockets.add(socket), Role::Open, state, self.now);
        self.stack.add_connection(connection.clone());
        connection
    }

    fn start(&mut self, socket: &mut Socket<'static>, port: u16, to: u16) {
        let (local, remote) = (SocketAddrV4::new(ADDRESS, port), SocketAddrV4::new(ADDRESS, to));
        let context = self.interface.context();
        socket.connect(context, IpEndpoint::from(remote), IpEndpoint::from(local)).unwrap();
    }

    /// The other host's socket, which asks for a connection.
    pub(super) fn peer(&mut self, port: u16, to: u16) -> sdk::smoltcp::iface::SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; 4096]);
        let mut socket = Socket::new(buffer(), buffer());
        self.start(&mut socket, port, to);
        self.stack.sockets.add(socket)
    }

    /// The other host's socket, which listens.
    pub(super) fn listening_peer(&mut self, port: u16) -> sdk::smoltcp::iface::SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; 4096]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.listen(port).unwrap();
        self.stack.sockets.add(socket)
    }

    /// The other host's socket.
    pub(super) fn socket(&mut self, handle: sdk::smoltcp::iface::SocketHandle) -> &mut Socket<'static> {
        self.stack.sockets.get_mut(handle)
    }

    /// Sends what is there, as `Stack::transmit` does.
    pub(super) fn transmit(&mut self) -> Option<u64> {
        let now = self.instant();
        self.stack.set_now(self.now);
        while self.interface.poll_egress(now, &mut self.device, &mut self.stack.sockets) != PollResult::None {}
        self.stack.look(Cause::Time);
        let deadline = self.stack.expire();
        self.stack.reap();
        deadline
    }

    /// Takes in what has come, as `Stack::receive` does.
    pub(super) fn receive(&mut self) {
        let now = self.instant();
        self.stack.set_now(self.now);
        loop {
            let polled = self.interface.poll_ingress_single(now, &mut self.device, &mut self.stack.sockets);
            if polled == PollIngressSingleResult::None {
                break;
            }
        }
        self.stack.look(Cause::Frames);
    }

    /// Lets frames go to and fro until nothing is to be said for a while.
    pub(super) fn settle(&mut self) {
        // Longer than an acknowledgement is delayed.
        for _ in 0..15 {
            self.transmit();
            self.receive();
            self.now += MILLISECOND;
        }
    }
}
