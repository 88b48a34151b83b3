//! The network of the guest: all sockets that are more than a descriptor, and the rounds that move them.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, SocketAddrV4};

use sdk::arguments::Addresses;
use sdk::boot::BootInfo;
use sdk::network::{Network, NetworkError};
use sdk::smoltcp::iface::SocketSet;
use sdk::smoltcp::socket::tcp::{Socket, State};
use sdk::smoltcp::wire::{IpAddress, IpEndpoint, IpListenEndpoint};

use super::channel::Channel;
use super::connection::{self, Cause, Connection, Role};
use super::listener::{Listener, Readiness};
use super::options::Options;
use super::ports::Ports;
use super::unix::Names;
use crate::files::OpenFile;
use crate::system_calls::{Errno, errno};

/// The device to the network.
const DEVICE: &str = "service";
/// More connections are refused: their buffers would fill the heap.
const CONNECTIONS_MAX: usize = 4096;
/// Closed connections that only wait for stray segments (TIME-WAIT); older ones go.
const TIME_WAIT_MAX: usize = 64;

/// How packets get to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// it is the guest's own
    Local,
    /// over the network
    Network,
}

/// The network of the guest.
pub struct Stack {
    network: Option<Network>,
    addresses: Option<Addresses>,
    /// the network stack's sockets
    pub(super) sockets: SocketSet<'static>,
    connections: Vec<Rc<Connection>>,
    listeners: Vec<Rc<Listener>>,
    /// UDP sockets that have a port
    pub(super) channels: Vec<Rc<Channel>>,
    /// who holds which TCP port
    pub(super) tcp_ports: Ports,
    /// who holds which UDP port
    pub(super) udp_ports: Ports,
    /// sockets of the Unix domain that have a name
    pub(super) names: Names,
    /// files that were handed over, and nobody took over
    lost_files: Vec<Rc<OpenFile>>,
    now: u64,
    next_deadline: Option<u64>,
    /// a thread may be waiting for what has changed
    has_changed: bool,
}

impl Stack {
    /// The network device where the host has attached one and the guest has addresses; the guest itself can always be
    /// reached. The seed is for sequence numbers and ports, the time is in nanoseconds.
    ///
    /// # Errors
    /// Where the device has no unicast MAC.
    pub fn open(
        boot_info: &BootInfo,
        addresses: Option<Addresses>,
        seed: u64,
        now: u64,
    ) -> Result<Stack, NetworkError> {
        let is_attached = boot_info.manifest().and_then(|manifest| manifest.network(DEVICE)).is_some();
        let mut stack = Stack::without_network(seed, now);
        if let Some(addresses) = addresses.filter(|_| is_attached) {
            stack.network = Some(Network::open(boot_info, DEVICE, &addresses, seed, now)?);
            stack.addresses = Some(addresses);
        }
        Ok(stack)
    }

    pub(super) fn without_network(seed: u64, now: u64) -> Stack {
        Stack {
            network: None,
            addresses: None,
            sockets: SocketSet::new(vec![]),
            connections: Vec::new(),
            listeners: Vec::new(),
            channels: Vec::new(),
            tcp_ports: Ports::new(seed),
            udp_ports: Ports::new(seed >> 32),
            names: Names::default(),
            lost_files: Vec::new(),
            now,
            next_deadline: None,
            has_changed: false,
        }
    }

    /// Gives the guest addresses without a device, for tests.
    #[cfg(test)]
    pub(super) fn set_addresses(&mut self, addresses: Addresses) {
        self.addresses = Some(addresses);
    }

    /// Lets time pass, for tests.
    #[cfg(test)]
    pub(super) fn set_now(&mut self, now: u64) {
        self.now = now;
    }

    /// Keeps an account of a socket that is in the set.
    pub(super) fn add_connection(&mut self, connection: Rc<Connection>) {
        self.connections.push(connection);
    }

    /// Sends what the sockets have, and sees to what is due.
    pub fn transmit(&mut self, now: u64) {
        self.now = now;
        let Some(network) = &mut self.network else { return };
        network.transmit(now, &mut self.sockets);
        self.look(Cause::Time);
        self.next_deadline = self.expire();
        self.reap();
    }

    /// Takes in what has come.
    pub fn receive(&mut self, now: u64) {
        self.now = now;
        if let Some(network) = &mut self.network {
            network.fetch(now);
        }
        while self.take_next_frame() {
            for channel in &self.channels {
                channel.collect(&mut self.sockets);
            }
        }
        self.look(Cause::Frames);
        // The round lets all threads look again.
        self.has_changed = false;
    }

    fn take_next_frame(&mut self) -> bool {
        let segment = self.network.as_ref().and_then(Network::next_segment);
        let is_dropped = segment.is_some_and(|segment| segment.is_request && !self.prepare(segment.from, segment.port));
        let Some(network) = &mut self.network else { return false };
        if is_dropped {
            network.drop_next();
            return true;
        }
        let is_taken = network.take_next(self.now, &mut self.sockets);
        // What has come first is to be found first. This asks all connections, as smoltcp does for each segment too.
        let of_segment = |connection: &&Rc<Connection>| {
            segment.is_some_and(|segment| connection.is_between(segment.from, segment.port))
        };
        if let Some(connection) = self.connections.iter().find(of_segment) {
            connection.look(&mut self.sockets, self.now, Cause::Frames);
        }
        is_taken
    }

    /// Makes ready for a connection that is asked for: a socket that listens. False where the request is to be dropped,
    /// as there is no more room for it; who asks asks again.
    pub(super) fn prepare(&mut self, from: IpEndpoint, port: u16) -> bool {
        // A new connection may have the addresses of an old one.
        let sockets = &mut self.sockets;
        self.connections.retain(|connection| {
            let socket = sockets.get::<Socket>(connection.handle());
            let is_old = connection.role() == Role::Orphan
                && socket.state() == State::TimeWait
                && socket.remote_endpoint() == Some(from)
                && socket.local_endpoint().is_some_and(|local| local.port == port);
            if is_old {
                sockets.remove(connection.handle());
            }
            !is_old
        });
        let Some(address) = self.own_address() else { return true };
        let listening = self.listeners.iter().filter(|listener| listener.listens_at(address, port));
        let Some(listener) = listening.min_by_key(|listener| listener.visitors.borrow().len()).cloned() else {
            // The network stack refuses it.
            return true;
        };
        match listener.state(&self.sockets) {
            Readiness::Full => return false,
            Readiness::Listens => return true,
            Readiness::NeedsSocket => {}
        }
        let socket = connection::socket(&listener.options()).filter(|_| self.has_room());
        let Some(mut socket) = socket else { return false };
        let address = Some(*listener.address.ip()).filter(|address| !address.is_unspecified());
        if socket.listen(IpListenEndpoint { addr: address.map(Into::into), port }).is_err() {
            return true;
        }
        let handle = self.sockets.add(socket);
        let connection = Connection::new(handle, Role::Opening, State::Listen, self.now);
        listener.add(connection.clone());
        self.add_connection(connection);
        true
    }

    fn has_room(&self) -> bool {
        self.connections.len() < CONNECTIONS_MAX
    }

    /// Looks at all sockets after something may have changed them.
    pub(super) fn look(&mut self, cause: Cause) {
        for connection in &self.connections {
            self.has_changed |= connection.look(&mut self.sockets, self.now, cause);
        }
        for listener in &self.listeners {
            listener.look(&mut self.sockets, self.now);
        }
    }

    /// Gives up what was quiet for too long; returns when the next one is due.
    pub(super) fn expire(&mut self) -> Option<u64> {
        let mut first: Option<u64> = None;
        for connection in &self.connections {
            let is_unresolved = connection.is_opening() && self.is_unresolved(connection);
            let before = connection.activity();
            let deadline = connection.expire(&mut self.sockets, self.now, is_unresolved);
            self.has_changed |= connection.activity() != before;
            first = [first, deadline].into_iter().flatten().min();
        }
        for channel in &self.channels {
            self.has_changed |= channel.look(&mut self.sockets, self.now);
            first = [first, channel.deadline()].into_iter().flatten().min();
        }
        first
    }

    /// Whether nobody has answered for the address to which a connection's frames go.
    fn is_unresolved(&self, connection: &Connection) -> bool {
        let remote = self.sockets.get::<Socket>(connection.handle()).remote_endpoint();
        let hop = remote.and_then(|remote| {
            let IpAddress::Ipv4(address) = remote.addr;
            next_hop(self.addresses, address)
        });
        matches!((&self.network, hop), (Some(network), Some(hop)) if network.is_unresolved(hop))
    }

    /// Removes the sockets that nobody needs any more.
    pub(super) fn reap(&mut self) {
        let is_waiting =
            |connection: &Connection| connection.role() == Role::Orphan && connection.state() == State::TimeWait;
        let waiting = self.connections.iter().filter(|connection| is_waiting(connection)).count();
        let mut surplus = waiting.saturating_sub(TIME_WAIT_MAX);
        let (sockets, now) = (&mut self.sockets, self.now);
        self.connections.retain(|connection| {
            let is_surplus = surplus > 0 && is_waiting(connection);
            surplus -= usize::from(is_surplus);
            let goes = is_surplus || connection.is_finished(sockets, now);
            if goes {
                sockets.remove(connection.handle());
            }
            !goes
        });
        self.channels.retain(|channel| {
            let goes = channel.is_finished(sockets);
            if goes {
                channel.remove(sockets);
            }
            !goes
        });
    }

    /// How long nothing is to be done unless a frame comes, in nanoseconds; None where that is for ever.
    pub fn idle_nanoseconds(&mut self, now: u64) -> Option<u64> {
        if core::mem::take(&mut self.has_changed) {
            // Threads that wait look again after the round.
            return Some(0);
        }
        let network = self.network.as_mut().and_then(|network| network.idle_nanoseconds(now, &self.sockets));
        let own = self.next_deadline.map(|deadline| deadline.saturating_sub(now));
        [network, own].into_iter().flatten().min()
    }

    /// Whether the other end of a connection whose descriptor is closed is still to be told, or a datagram to be sent.
    pub fn is_closing(&self) -> bool {
        self.connections.iter().any(|connection| connection.is_closing(&self.sockets))
            || self.channels.iter().any(|channel| channel.is_closing(&self.sockets))
    }

    /// Something has changed that another thread may be waiting for.
    pub(super) fn wake(&mut self) {
        self.has_changed = true;
    }

    /// Whether something has changed since it was asked last.
    pub(super) fn take_changed(&mut self) -> bool {
        core::mem::take(&mut self.has_changed)
    }

    /// Keeps files that were handed over and that nobody will take over, until they are closed.
    pub(super) fn lose(&mut self, files: impl IntoIterator<Item = Rc<OpenFile>>) {
        self.lost_files.extend(files);
    }

    /// Such files.
    pub(super) fn take_lost(&mut self) -> Vec<Rc<OpenFile>> {
        core::mem::take(&mut self.lost_files)
    }

    /// The time of this round, in nanoseconds.
    pub(super) fn now(&self) -> u64 {
        self.now
    }

    /// The guest's addresses on the network.
    pub(super) fn addresses(&self) -> Option<Addresses> {
        self.addresses
    }

    /// The network device.
    pub(super) fn network(&self) -> Option<&Network> {
        self.network.as_ref()
    }

    /// The guest's address on the network.
    pub(super) fn own_address(&self) -> Option<Ipv4Addr> {
        self.addresses.map(|addresses| addresses.address.address())
    }

    /// Whether an address is the guest's own.
    pub(super) fn is_own(&self, address: Ipv4Addr) -> bool {
        address.is_loopback() || self.own_address() == Some(address)
    }

    /// Whether an address stands for all hosts of the network.
    pub(super) fn is_broadcast(&self, address: Ipv4Addr) -> bool {
        let network = self.addresses.and_then(|addresses| addresses.address.broadcast());
        address.is_broadcast() || network == Some(address)
    }

    /// How to get to an address, and which of its own the guest has on the way.
    ///
    /// # Errors
    /// ENETUNREACH.
    pub(super) fn route(&self, destination: Ipv4Addr) -> Result<(Route, Ipv4Addr), Errno> {
        if destination.is_loopback() {
            return Ok((Route::Local, Ipv4Addr::LOCALHOST));
        }
        let own = self.own_address().ok_or(errno::ENETUNREACH)?;
        if destination == own {
            return Ok((Route::Local, own));
        }
        let is_reachable = self.is_broadcast(destination) || next_hop(self.addresses, destination).is_some();
        if is_reachable { Ok((Route::Network, own)) } else { Err(errno::ENETUNREACH) }
    }

    /// Starts to listen.
    pub(super) fn add_listener(&mut self, address: SocketAddrV4, backlog: usize, options: &Options) -> Rc<Listener> {
        let listener = Rc::new(Listener::new(address, backlog, options));
        self.listeners.push(listener.clone());
        listener
    }

    /// Who listens at an address of the guest: the one with that address alone before the one with all.
    pub(super) fn find_listener(&self, address: SocketAddrV4) -> Option<Rc<Listener>> {
        let listening = self.listeners.iter().filter(|listener| listener.listens_at(*address.ip(), address.port()));
        let rank =
            |listener: &&Rc<Listener>| (listener.address.ip().is_unspecified(), listener.visitors.borrow().len());
        listening.min_by_key(rank).cloned()
    }

    /// Listens no longer; who waits is turned away.
    pub(super) fn remove_listener(&mut self, listener: &Rc<Listener>) {
        self.listeners.retain(|other| !Rc::ptr_eq(other, listener));
        listener.close(&mut self.sockets, self.now);
        self.wake();
    }

    /// Asks for a connection over the network.
    ///
    /// # Errors
    /// ENOBUFS where there are too many or memory is short, EADDRNOTAVAIL where there is one with these addresses.
    pub(super) fn open_connection(
        &mut self,
        local: SocketAddrV4,
        remote: SocketAddrV4,
        options: &Options,
    ) -> Result<Rc<Connection>, Errno> {
        let socket = connection::socket(options).filter(|_| self.has_room());
        let mut socket = socket.ok_or(errno::ENOBUFS)?;
        let (from, to) = (IpEndpoint::from(local), IpEndpoint::from(remote));
        let is_taken = self.connections.iter().any(|connection| {
            let other = self.sockets.get::<Socket>(connection.handle());
            other.local_endpoint() == Some(from) && other.remote_endpoint() == Some(to) && !connection.is_over()
        });
        if is_taken {
            return Err(errno::EADDRNOTAVAIL);
        }
        let network = self.network.as_mut().ok_or(errno::ENETUNREACH)?;
        socket.connect(network.interface().context(), to, from).map_err(|_| errno::ENETUNREACH)?;
        let state = socket.state();
        let connection = Connection::new(self.sockets.add(socket), Role::Open, state, self.now);
        connection.apply(&mut self.sockets, options);
        self.add_connection(connection.clone());
        Ok(connection)
    }
}

/// Whom the guest's frames to an address of the network go to.
fn next_hop(addresses: Option<Addresses>, destination: Ipv4Addr) -> Option<Ipv4Addr> {
    let addresses = addresses?;
    let is_neighbour = addresses.address.contains_addr(&destination);
    if is_neighbour { Some(destination) } else { addresses.gateway }
}

#[cfg(test)]
mod tests;
