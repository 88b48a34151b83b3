//! UDP: datagrams over the network and within the guest.

use alloc::rc::Rc;
use core::cell::Cell;
use core::net::{Ipv4Addr, SocketAddrV4};

use linux_raw_sys::net::{SO_BROADCAST, SO_REUSEADDR, SO_REUSEPORT};

use super::address::{Address, NOWHERE};
use super::channel::Channel;
use super::options::Options;
use super::ports::{Claim, Hold};
use super::stack::{Route, Stack};
use super::{Directions, Kind, Message, Received, Transport};
use crate::readiness::Activity;
use crate::system_calls::{Errno, Stop, errno};

/// The most that IP carries behind its header and UDP's.
const DATAGRAM_BYTES_MAX: usize = 65_507;

/// A UDP socket.
pub(super) struct Udp {
    channel: Rc<Channel>,
    /// what the program has bound it to
    bound: Cell<SocketAddrV4>,
    hold: Cell<Option<Hold>>,
}

impl Udp {
    /// A socket without an address.
    pub(super) fn new() -> Udp {
        let capacity = Options::default().receive_bytes(Kind::UDP) as usize;
        Udp { channel: Rc::new(Channel::new(capacity)), bound: Cell::new(NOWHERE), hold: Cell::default() }
    }

    /// Takes a port, 0 for any, and opens the socket to the network.
    fn take_port(&self, stack: &mut Stack, options: &Options, wanted: SocketAddrV4) -> Result<(), Errno> {
        let claim = Claim {
            address: *wanted.ip(),
            shares_address: options.has(SO_REUSEADDR),
            shares_port: options.has(SO_REUSEPORT),
        };
        let hold = match wanted.port() {
            0 => stack.udp_ports.take_any(claim)?,
            port => stack.udp_ports.take(port, claim)?,
        };
        let local = SocketAddrV4::new(*wanted.ip(), hold.port);
        if stack.network().is_some() && !local.ip().is_loopback() {
            self.channel.open(stack, local).inspect_err(|_| stack.udp_ports.release(hold))?;
        }
        self.channel.local.set(local);
        self.hold.set(Some(hold));
        stack.channels.push(self.channel.clone());
        Ok(())
    }

    fn ensure_port(&self, stack: &mut Stack, options: &Options) -> Result<(), Errno> {
        match self.hold.get() {
            Some(_) => Ok(()),
            None => self.take_port(stack, options, NOWHERE).map_err(|_| errno::EAGAIN),
        }
    }

    /// Gives the port back.
    fn release(&self, stack: &mut Stack) {
        if let Some(hold) = self.hold.take() {
            stack.udp_ports.release(hold);
            stack.channels.retain(|channel| !Rc::ptr_eq(channel, &self.channel));
            self.channel.remove(&mut stack.sockets);
        }
    }

    fn disconnect(&self, stack: &mut Stack) {
        self.channel.remote.set(None);
        let bound = self.bound.get();
        if bound.port() == 0 {
            self.release(stack);
        }
        let port = self.hold.get().map_or(0, |hold| hold.port);
        self.channel.local.set(SocketAddrV4::new(*bound.ip(), port));
    }

    /// Where a datagram goes, how, and from which address.
    fn route(
        &self,
        stack: &Stack,
        options: &Options,
        to: SocketAddrV4,
    ) -> Result<(Route, Ipv4Addr, SocketAddrV4), Errno> {
        let ip = if to.ip().is_unspecified() { Ipv4Addr::LOCALHOST } else { *to.ip() };
        let (route, source) = stack.route(ip)?;
        if stack.is_broadcast(ip) && !options.has(SO_BROADCAST) {
            return Err(errno::EACCES);
        }
        let local = *self.channel.local.get().ip();
        let is_usable = stack.is_own(local);
        if route == Route::Network && local.is_loopback() {
            return Err(errno::EINVAL);
        }
        Ok((route, if is_usable { local } else { source }, SocketAddrV4::new(ip, to.port())))
    }

    /// Delivers a datagram within the guest.
    fn deliver(&self, stack: &mut Stack, from: SocketAddrV4, to: SocketAddrV4, bytes: &[u8]) {
        // Among equals the one that was bound last.
        let ranked = stack.channels.iter().filter_map(|channel| Some((channel.rank(from, to)?, channel)));
        match ranked.max_by_key(|(rank, _)| *rank) {
            Some((_, channel)) => channel.put(from, bytes),
            None if self.channel.remote.get().is_some() => {
                self.channel.error.set(Some(errno::ECONNREFUSED));
                self.channel.mailbox.touch();
            }
            None => {}
        }
        stack.wake();
    }
}

impl Transport for Udp {
    fn bind(&self, stack: &mut Stack, options: &Options, address: Address) -> Result<(), Errno> {
        let Address::Inet(address) = address else { return Err(errno::EAFNOSUPPORT) };
        let ip = *address.ip();
        let is_valid = ip.is_unspecified() || stack.is_own(ip) || ip.is_multicast() || stack.is_broadcast(ip);
        if !is_valid {
            return Err(errno::EADDRNOTAVAIL);
        }
        if self.hold.get().is_some() {
            return Err(errno::EINVAL);
        }
        self.take_port(stack, options, address)?;
        self.bound.set(address);
        Ok(())
    }

    fn connect(
        &self,
        stack: &mut Stack,
        options: &Options,
        address: Result<Address, Errno>,
        _: bool,
    ) -> Result<(), Stop> {
        let remote = match address? {
            Address::Inet(remote) => remote,
            Address::Unspecified => {
                self.disconnect(stack);
                return Ok(());
            }
            Address::Unix { .. } => return Err(errno::EAFNOSUPPORT.into()),
        };
        self.ensure_port(stack, options)?;
        let (_, source, remote) = self.route(stack, options, remote)?;
        let local = self.channel.local.get();
        if local.ip().is_unspecified() {
            self.channel.local.set(SocketAddrV4::new(source, local.port()));
        }
        self.channel.remote.set(Some(remote));
        Ok(())
    }

    fn receive(&self, _: &mut Stack, _: &Options, buffer: &mut [u8], is_peek: bool) -> Result<Received, Stop> {
        if let Some(error) = self.channel.error.take() {
            return Err(error.into());
        }
        if let Some(letter) = self.channel.mailbox.take(buffer, is_peek) {
            let from = Some(Address::Inet(letter.from));
            return Ok(Received { count: letter.count, length: letter.length, from, ..Received::default() });
        }
        if self.channel.shut.get().receive { Ok(Received::default()) } else { Err(Stop::wait(None)) }
    }

    fn send(&self, stack: &mut Stack, options: &Options, message: &Message) -> Result<usize, Stop> {
        let bytes = message.bytes;
        self.ensure_port(stack, options)?;
        if bytes.len() > usize::from(u16::MAX) {
            return Err(errno::EMSGSIZE.into());
        }
        let to = match message.to.clone().transpose()? {
            None => self.channel.remote.get().ok_or(errno::EDESTADDRREQ)?,
            Some(Address::Inet(to)) => to,
            Some(_) => return Err(errno::EAFNOSUPPORT.into()),
        };
        if to.port() == 0 {
            return Err(errno::EINVAL.into());
        }
        let (route, source, to) = self.route(stack, options, to)?;
        if bytes.len() > DATAGRAM_BYTES_MAX {
            return Err(errno::EMSGSIZE.into());
        }
        if let Some(error) = self.channel.error.take() {
            return Err(error.into());
        }
        if self.channel.shut.get().send {
            return Err(errno::EPIPE.into());
        }
        match route {
            Route::Local => self.deliver(stack, SocketAddrV4::new(source, self.channel.local.get().port()), to, bytes),
            Route::Network => self.channel.send(stack, source, to, bytes)?,
        }
        Ok(bytes.len())
    }

    fn shut_down(&self, stack: &mut Stack, directions: Directions) -> Result<(), Errno> {
        self.channel.shut.set(self.channel.shut.get() | directions);
        self.channel.mailbox.touch();
        stack.wake();
        self.channel.remote.get().map(|_| ()).ok_or(errno::ENOTCONN)
    }

    fn local(&self) -> Address {
        Address::Inet(self.channel.local.get())
    }

    fn peer(&self) -> Result<Address, Errno> {
        self.channel.remote.get().map(Address::Inet).ok_or(errno::ENOTCONN)
    }

    fn take_error(&self) -> Option<Errno> {
        self.channel.error.take()
    }

    fn ready(&self, stack: &Stack) -> u32 {
        self.channel.ready(stack)
    }

    fn activity(&self) -> Activity {
        self.channel.mailbox.activity()
    }

    fn readable(&self) -> Result<usize, Errno> {
        Ok(self.channel.mailbox.first_length().unwrap_or(0))
    }

    fn unsent(&self) -> Result<usize, Errno> {
        Ok(self.channel.unsent())
    }

    fn state(&self) -> u8 {
        7
    }

    fn apply(&self, _: &mut Stack, options: &Options) {
        self.channel.mailbox.set_capacity(options.receive_bytes(Kind::UDP) as usize);
    }

    fn close(&self, stack: &mut Stack, _: &Options) {
        self.channel.close();
        if self.channel.is_closing(&stack.sockets) {
            // The stack removes it once everything is sent.
            if let Some(hold) = self.hold.take() {
                stack.udp_ports.release(hold);
            }
        } else {
            self.release(stack);
        }
    }
}

#[cfg(test)]
mod tests {
    use linux_raw_sys::general::EPOLLERR;

    use super::*;

    const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 53);

    fn stack() -> Stack {
        Stack::without_network(0, 0)
    }

    fn bound(stack: &mut Stack, address: SocketAddrV4) -> Udp {
        let socket = Udp::new();
        socket.bind(stack, &Options::default(), Address::Inet(address)).unwrap();
        socket
    }

    fn send(stack: &mut Stack, socket: &Udp, bytes: &[u8], to: Option<SocketAddrV4>) -> Result<usize, Stop> {
        let to = to.map(|to| Ok(Address::Inet(to)));
        socket.send(stack, &Options::default(), &Message { bytes, to, ..Message::default() })
    }

    fn receive(stack: &mut Stack, socket: &Udp) -> Result<(Vec<u8>, Option<Address>), Stop> {
        let mut buffer = [0; 16];
        let received = socket.receive(stack, &Options::default(), &mut buffer, false)?;
        Ok((buffer[..received.count].to_vec(), received.from))
    }

    fn connect(stack: &mut Stack, socket: &Udp, to: Result<Address, Errno>) -> Result<(), Stop> {
        socket.connect(stack, &Options::default(), to, false)
    }

    #[test]
    fn datagrams_go_to_and_fro_within_the_guest() {
        let stack = &mut stack();
        let (server, client) = (bound(stack, SERVER), Udp::new());
        assert_eq!(send(stack, &client, b"question", None), Err(Stop::Error(errno::EDESTADDRREQ)));
        assert_eq!(send(stack, &client, b"question", Some(SERVER)), Ok(8));
        let (question, from) = receive(stack, &server).unwrap();
        assert_eq!(question, b"question");
        let Some(Address::Inet(from)) = from else { panic!("it has a sender") };
        assert_eq!((*from.ip(), Address::Inet(from).clone()), (Ipv4Addr::LOCALHOST, Address::Inet(from)));
        assert_eq!(send(stack, &server, b"answer", Some(from)), Ok(6));
        assert_eq!(receive(stack, &client), Ok((b"answer".to_vec(), Some(Address::Inet(SERVER)))));
        assert_eq!(receive(stack, &client), Err(Stop::wait(None)));
    }

    #[test]
    fn a_connected_socket_hears_one_other_and_learns_that_it_is_gone() {
        let stack = &mut stack();
        let (server, other, client) = (bound(stack, SERVER), Udp::new(), Udp::new());
        connect(stack, &client, Ok(Address::Inet(SERVER))).unwrap();
        let Address::Inet(own) = client.local() else { panic!("an address of the internet") };
        assert_eq!(send(stack, &other, b"noise", Some(own)), Ok(5));
        assert_eq!(receive(stack, &client), Err(Stop::wait(None)));
        assert_eq!(send(stack, &server, b"word", Some(own)), Ok(4));
        assert_eq!(receive(stack, &client).unwrap().0, b"word");
        server.close(stack, &Options::default());
        assert_eq!(send(stack, &client, b"lost", None), Ok(4));
        assert_eq!(client.ready(stack) & EPOLLERR, EPOLLERR);
        assert_eq!(receive(stack, &client), Err(Stop::Error(errno::ECONNREFUSED)));
        connect(stack, &client, Ok(Address::Unspecified)).unwrap();
        assert_eq!(client.local(), Address::Inet(NOWHERE));
        assert_eq!(client.peer(), Err(errno::ENOTCONN));
    }

    #[test]
    fn bounds_and_addresses_are_checked() {
        let stack = &mut stack();
        let socket = bound(stack, SERVER);
        let again = Udp::new().bind(stack, &Options::default(), Address::Inet(SERVER));
        assert_eq!(again, Err(errno::EADDRINUSE));
        let far = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 53);
        assert_eq!(Udp::new().bind(stack, &Options::default(), Address::Inet(far)), Err(errno::EADDRNOTAVAIL));
        assert_eq!(send(stack, &socket, &[0; DATAGRAM_BYTES_MAX + 1], Some(SERVER)), Err(Stop::Error(errno::EMSGSIZE)));
        assert_eq!(send(stack, &socket, &[0; DATAGRAM_BYTES_MAX], Some(SERVER)), Ok(DATAGRAM_BYTES_MAX));
        assert_eq!(send(stack, &socket, b"", Some(far)), Err(Stop::Error(errno::ENETUNREACH)));
        assert_eq!(socket.readable(), Ok(DATAGRAM_BYTES_MAX));
    }
}
