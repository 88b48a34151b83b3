//! The Unix domain: sockets for datagrams.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use linux_raw_sys::general::{EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP};
use linux_raw_sys::net::SOCK_DGRAM;

use super::address::{Address, Name};
use super::mailbox::Mailbox;
use super::options::Options;
use super::stack::Stack;
use super::unix::Owner;
use super::{Directions, Kind, Message, Received, Transport};
use crate::files::OpenFile;
use crate::readiness::Activity;
use crate::system_calls::{Errno, Stop, errno};

/// Datagrams that wait to be read at most (net.unix.max_dgram_qlen, as systemd sets it).
const DATAGRAMS_MAX: usize = 512;
/// What Linux takes from SO_SNDBUF for itself.
const RESERVED_BYTES: usize = 32;

/// What comes with a datagram.
#[derive(Clone)]
struct Sender {
    name: Name,
    files: Vec<Rc<OpenFile>>,
}

/// Where datagrams to a socket arrive.
pub(super) struct Postbox {
    mailbox: Mailbox<Sender>,
    name: RefCell<Name>,
    /// to whom it sends, and from whom alone it takes
    peer: RefCell<Option<Rc<Postbox>>>,
    shut: Cell<Directions>,
    error: Cell<Option<Errno>>,
    is_closed: Cell<bool>,
    /// somebody wanted to send and could not
    is_awaited: Cell<bool>,
}

impl Postbox {
    fn new() -> Rc<Postbox> {
        let capacity = Options::default().send_bytes(Kind::UNIX_DATAGRAM) as usize;
        Rc::new(Postbox {
            mailbox: Mailbox::new(capacity),
            name: RefCell::default(),
            peer: RefCell::default(),
            shut: Cell::default(),
            error: Cell::default(),
            is_closed: Cell::default(),
            is_awaited: Cell::default(),
        })
    }

    fn has_peer(&self, other: &Rc<Postbox>) -> bool {
        self.peer.borrow().as_ref().is_some_and(|peer| Rc::ptr_eq(peer, other))
    }

    /// Whether it takes datagrams from that one: one that is connected takes them from its peer only.
    fn accepts(&self, other: &Rc<Postbox>) -> bool {
        self.peer.borrow().is_none() || self.has_peer(other)
    }

    fn has_room(&self, sender: &Rc<Postbox>) -> bool {
        let is_bounded = !self.has_peer(sender);
        self.mailbox.has_room() && !(is_bounded && self.mailbox.count() > DATAGRAMS_MAX)
    }
}

/// A socket for datagrams.
pub(super) struct UnixDatagram {
    own: Rc<Postbox>,
}

impl UnixDatagram {
    /// A socket without a name.
    pub(super) fn new() -> UnixDatagram {
        UnixDatagram { own: Postbox::new() }
    }

    /// Two sockets that are connected.
    pub(super) fn pair() -> (UnixDatagram, UnixDatagram) {
        let (first, second) = (UnixDatagram::new(), UnixDatagram::new());
        *first.own.peer.borrow_mut() = Some(second.own.clone());
        *second.own.peer.borrow_mut() = Some(first.own.clone());
        (first, second)
    }

    fn peer_box(&self) -> Option<Rc<Postbox>> {
        self.own.peer.borrow().clone()
    }

    fn find(&self, stack: &Stack, address: &Address) -> Result<Rc<Postbox>, Errno> {
        match stack.names.find(SOCK_DGRAM, address)? {
            Owner::Datagram(postbox) => Ok(postbox),
            Owner::Door(_) => Err(errno::EPROTOTYPE),
        }
    }

    fn lose_letters(&self, stack: &mut Stack) {
        stack.lose(self.own.mailbox.clear().into_iter().flat_map(|sender| sender.files));
    }

    /// Changes the peer: what has come from the old one is lost, and it learns so.
    fn set_peer(&self, stack: &mut Stack, peer: Option<Rc<Postbox>>) {
        let before = self.own.peer.replace(peer);
        let Some(before) = before.filter(|before| !self.own.has_peer(before)) else { return };
        if self.own.mailbox.count() > 0 {
            self.lose_letters(stack);
            if before.has_peer(&self.own) {
                before.error.set(Some(errno::ECONNRESET));
                before.mailbox.touch();
            }
        }
    }
}

impl Transport for UnixDatagram {
    fn bind(&self, stack: &mut Stack, _: &Options, address: Address) -> Result<(), Errno> {
        if *self.own.name.borrow() != Name::Unnamed {
            return Err(errno::EINVAL);
        }
        let name = stack.names.bind(address, Owner::Datagram(self.own.clone()))?;
        *self.own.name.borrow_mut() = name;
        Ok(())
    }

    fn connect(&self, stack: &mut Stack, _: &Options, address: Result<Address, Errno>, _: bool) -> Result<(), Stop> {
        let peer = match address? {
            Address::Unspecified => None,
            address => {
                let other = self.find(stack, &address)?;
                if !other.accepts(&self.own) {
                    return Err(errno::EPERM.into());
                }
                Some(other)
            }
        };
        self.set_peer(stack, peer);
        stack.wake();
        Ok(())
    }

    fn receive(&self, stack: &mut Stack, _: &Options, buffer: &mut [u8], is_peek: bool) -> Result<Received, Stop> {
        if let Some(letter) = self.own.mailbox.take(buffer, is_peek) {
            if !is_peek && self.own.is_awaited.take() {
                if let Some(peer) = self.peer_box() {
                    peer.mailbox.touch();
                }
                stack.wake();
            }
            let from = Some(letter.from.name).filter(|name| *name != Name::Unnamed).map(Address::named);
            return Ok(Received { count: letter.count, length: letter.length, from, files: letter.from.files });
        }
        if let Some(error) = self.own.error.take() {
            return Err(error.into());
        }
        if self.own.shut.get().receive { Ok(Received::default()) } else { Err(Stop::wait(None)) }
    }

    fn send(&self, stack: &mut Stack, options: &Options, message: &Message) -> Result<usize, Stop> {
        let (bytes, to) = (message.bytes, message.to.clone().transpose()?);
        if to.is_none() && self.peer_box().is_none() {
            return Err(errno::ENOTCONN.into());
        }
        let limit = (options.send_bytes(Kind::UNIX_DATAGRAM) as usize).saturating_sub(RESERVED_BYTES);
        if bytes.len() > limit {
            return Err(errno::EMSGSIZE.into());
        }
        if let Some(error) = self.own.error.take() {
            return Err(error.into());
        }
        if self.own.shut.get().send {
            return Err(errno::EPIPE.into());
        }
        let other = match &to {
            Some(address) => self.find(stack, address)?,
            None => self.peer_box().ok_or(errno::ENOTCONN)?,
        };
        if other.is_closed.get() {
            self.set_peer(stack, None);
            return Err(errno::ECONNREFUSED.into());
        }
        if !other.accepts(&self.own) {
            return Err(errno::EPERM.into());
        }
        if other.shut.get().receive {
            return Err(errno::EPIPE.into());
        }
        if !other.has_room(&self.own) {
            other.is_awaited.set(true);
            return Err(Stop::wait(None));
        }
        let sender = Sender { name: self.own.name.borrow().clone(), files: message.files.to_vec() };
        let is_put = other.mailbox.put(sender, bytes);
        stack.wake();
        if is_put { Ok(bytes.len()) } else { Err(errno::ENOBUFS.into()) }
    }

    fn shut_down(&self, stack: &mut Stack, directions: Directions) -> Result<(), Errno> {
        self.own.shut.set(self.own.shut.get() | directions);
        self.own.mailbox.touch();
        stack.wake();
        Ok(())
    }

    fn local(&self) -> Address {
        Address::named(self.own.name.borrow().clone())
    }

    fn peer(&self) -> Result<Address, Errno> {
        let peer = self.peer_box().ok_or(errno::ENOTCONN)?;
        let name = peer.name.borrow().clone();
        Ok(Address::named(name))
    }

    fn take_error(&self) -> Option<Errno> {
        self.own.error.take()
    }

    fn ready(&self, _: &Stack) -> u32 {
        let shut = self.own.shut.get();
        let mut mask = 0;
        if self.own.error.get().is_some() {
            mask |= EPOLLERR;
        }
        if shut.receive {
            mask |= EPOLLIN | EPOLLRDHUP;
        }
        if shut == Directions::BOTH {
            mask |= EPOLLHUP;
        }
        if self.own.mailbox.count() > 0 {
            mask |= EPOLLIN;
        }
        match self.peer_box().filter(|peer| !peer.is_closed.get() && !peer.has_room(&self.own)) {
            Some(peer) => peer.is_awaited.set(true),
            None => mask |= EPOLLOUT,
        }
        mask
    }

    fn activity(&self) -> Activity {
        self.own.mailbox.activity()
    }

    fn readable(&self) -> Result<usize, Errno> {
        Ok(self.own.mailbox.first_length().unwrap_or(0))
    }

    fn unsent(&self) -> Result<usize, Errno> {
        Ok(0)
    }

    fn state(&self) -> u8 {
        0
    }

    fn close(&self, stack: &mut Stack, _: &Options) {
        self.own.is_closed.set(true);
        if *self.own.name.borrow() != Name::Unnamed {
            let is_own = |owner: &Owner| matches!(owner, Owner::Datagram(postbox) if Rc::ptr_eq(postbox, &self.own));
            stack.names.release(is_own);
        }
        if let Some(peer) = self.own.peer.take() {
            peer.mailbox.touch();
        }
        self.lose_letters(stack);
        stack.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(stack: &mut Stack, socket: &UnixDatagram, bytes: &[u8], to: Option<&str>) -> Result<usize, Stop> {
        let to = to.map(|name| Ok(Address::named(Name::Abstract(name.as_bytes().to_vec()))));
        socket.send(stack, &Options::default(), &Message { bytes, to, ..Message::default() })
    }

    fn receive(stack: &mut Stack, socket: &UnixDatagram) -> Result<(Vec<u8>, Option<Address>), Stop> {
        let mut buffer = [0; 16];
        let received = socket.receive(stack, &Options::default(), &mut buffer, false)?;
        Ok((buffer[..received.count].to_vec(), received.from))
    }

    #[test]
    fn a_pair_is_connected_until_one_is_closed() {
        let stack = &mut Stack::without_network(0, 0);
        let (first, second) = UnixDatagram::pair();
        assert_eq!(send(stack, &first, b"a", None), Ok(1));
        assert_eq!(send(stack, &first, b"", None), Ok(0));
        assert_eq!(receive(stack, &second), Ok((b"a".to_vec(), None)));
        assert_eq!(receive(stack, &second), Ok((vec![], None)));
        assert_eq!(receive(stack, &second), Err(Stop::wait(None)));
        second.close(stack, &Options::default());
        assert_eq!(send(stack, &first, b"b", None), Err(Stop::Error(errno::ECONNREFUSED)));
        assert_eq!(send(stack, &first, b"b", None), Err(Stop::Error(errno::ENOTCONN)));
    }

    #[test]
    fn datagrams_carry_the_name_of_their_sender() {
        let stack = &mut Stack::without_network(0, 0);
        let (server, client) = (UnixDatagram::new(), UnixDatagram::new());
        let name = |text: &str| Address::named(Name::Abstract(text.as_bytes().to_vec()));
        server.bind(stack, &Options::default(), name("server")).unwrap();
        client.bind(stack, &Options::default(), name("client")).unwrap();
        assert_eq!(send(stack, &client, b"x", Some("nobody")), Err(Stop::Error(errno::ECONNREFUSED)));
        assert_eq!(send(stack, &client, b"x", Some("server")), Ok(1));
        assert_eq!(receive(stack, &server), Ok((b"x".to_vec(), Some(name("client")))));
    }

    #[test]
    fn a_full_receiver_makes_wait_and_tells_when_there_is_room() {
        let stack = &mut Stack::without_network(0, 0);
        let (first, second) = UnixDatagram::pair();
        let sent = (0..).take_while(|_| send(stack, &first, &[1; 1000], None).is_ok()).count();
        assert!(sent > 100);
        assert_eq!(first.ready(stack) & EPOLLOUT, 0);
        let before = first.activity();
        receive(stack, &second).unwrap();
        assert!(first.activity() > before);
        assert_eq!(first.ready(stack) & EPOLLOUT, EPOLLOUT);
        let long = send(stack, &first, &[0; 212_992 - RESERVED_BYTES + 1], None);
        assert_eq!(long, Err(Stop::Error(errno::EMSGSIZE)));
    }
}
