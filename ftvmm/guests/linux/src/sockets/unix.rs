//! The Unix domain: names, and sockets that are connected.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::collections::btree_map::{BTreeMap, Entry};
use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use linux_raw_sys::general::{EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP};
use linux_raw_sys::net::{SOCK_DGRAM, SOCK_SEQPACKET};

use super::address::{Address, Name};
use super::options::Options;
use super::stack::Stack;
use super::stream::{End, Rules, pair};
use super::unix_datagram::Postbox;
use super::{Directions, Kind, Message, Received, Transport};
use crate::files::file_system::Node;
use crate::readiness::{Activity, Arrivals};
use crate::system_calls::{Errno, Stop, errno};

/// Connections that wait to be accepted at most (net.core.somaxconn).
const BACKLOG_MAX: usize = 4096;
/// Names that the kernel chooses have five digits (`unix_autobind`).
const AUTOMATIC_NAMES: u32 = 1 << 20;

/// Who has a name.
#[derive(Clone)]
pub(super) enum Owner {
    /// a socket that others connect to
    Door(Rc<Door>),
    /// a socket for datagrams
    Datagram(Rc<Postbox>),
}

impl Owner {
    fn style(&self) -> u32 {
        match self {
            Owner::Door(door) => door.style.get(),
            Owner::Datagram(_) => SOCK_DGRAM,
        }
    }
}

/// All sockets that have a name.
#[derive(Default)]
pub(super) struct Names {
    abstract_names: BTreeMap<(u32, Vec<u8>), Owner>,
    nodes: BTreeMap<Node, Owner>,
    last_automatic: u32,
}

impl Names {
    /// Gives a name to a socket; one that is asked for none gets one.
    ///
    /// # Errors
    /// EADDRINUSE; ENOSPC where no name is left.
    pub(super) fn bind(&mut self, address: Address, owner: Owner) -> Result<Name, Errno> {
        let Address::Unix { name, node } = address else { return Err(errno::EINVAL) };
        match (&name, node) {
            (Name::Unnamed, _) => return self.bind_automatically(owner),
            (Name::Path(_), None) => return Err(errno::EINVAL),
            (Name::Path(_), Some(node)) => {
                self.nodes.insert(node, owner);
            }
            (Name::Abstract(bytes), _) => {
                let key = (owner.style(), bytes.clone());
                if self.abstract_names.contains_key(&key) {
                    return Err(errno::EADDRINUSE);
                }
                self.abstract_names.insert(key, owner);
            }
        }
        Ok(name)
    }

    fn bind_automatically(&mut self, owner: Owner) -> Result<Name, Errno> {
        for _ in 0..AUTOMATIC_NAMES {
            self.last_automatic = (self.last_automatic + 1) % AUTOMATIC_NAMES;
            let bytes = format!("{:05x}", self.last_automatic).into_bytes();
            let key = (owner.style(), bytes.clone());
            if let Entry::Vacant(free) = self.abstract_names.entry(key) {
                free.insert(owner);
                return Ok(Name::Abstract(bytes));
            }
        }
        Err(errno::ENOSPC)
    }

    /// Who has a name, for a socket of that style.
    ///
    /// # Errors
    /// ECONNREFUSED where nobody has it, EPROTOTYPE where a socket of another style has.
    pub(super) fn find(&self, style: u32, address: &Address) -> Result<Owner, Errno> {
        let Address::Unix { name, node } = address else { return Err(errno::EINVAL) };
        let owner = match (name, node) {
            (Name::Unnamed, _) => return Err(errno::EINVAL),
            (Name::Abstract(bytes), _) => self.abstract_names.get(&(style, bytes.clone())),
            (Name::Path(_), node) => node.and_then(|node| self.nodes.get(&node)),
        };
        let owner = owner.ok_or(errno::ECONNREFUSED)?;
        if owner.style() == style { Ok(owner.clone()) } else { Err(errno::EPROTOTYPE) }
    }

    /// Takes a socket's name away.
    pub(super) fn release(&mut self, is_owner: impl Fn(&Owner) -> bool) {
        self.abstract_names.retain(|_, owner| !is_owner(owner));
        self.nodes.retain(|_, owner| !is_owner(owner));
    }
}

/// Where connections to a name arrive.
#[derive(Default)]
pub(super) struct Door {
    /// SOCK_STREAM or SOCK_SEQPACKET
    style: Cell<u32>,
    is_open: Cell<bool>,
    backlog: Cell<usize>,
    /// the listener's ends, and the names of those that have come
    visitors: RefCell<VecDeque<(Rc<End>, Name)>>,
    name: RefCell<Name>,
    /// the listener's SO_SNDBUF
    capacity: Cell<usize>,
    arrivals: Arrivals,
}

impl Door {
    fn touch(&self) {
        self.arrivals.note(!self.visitors.borrow().is_empty());
    }
}

/// A socket that is connected, for a stream or for messages.
pub(super) struct UnixStream {
    door: Rc<Door>,
    has_listened: Cell<bool>,
    end: RefCell<Option<Rc<End>>>,
    peer: RefCell<Option<Name>>,
    shut: Cell<Directions>,
}

fn rules(style: u32) -> Rules {
    if style == SOCK_SEQPACKET { Rules::UnixMessages } else { Rules::Unix }
}

fn capacity(options: &Options) -> usize {
    options.send_bytes(Kind::UNIX_STREAM) as usize
}

impl UnixStream {
    /// A socket that is not connected, SOCK_STREAM or SOCK_SEQPACKET.
    pub(super) fn new(style: u32) -> UnixStream {
        UnixStream {
            door: Rc::new(Door { style: Cell::new(style), ..Door::default() }),
            has_listened: Cell::default(),
            end: RefCell::default(),
            peer: RefCell::default(),
            shut: Cell::default(),
        }
    }

    /// Two sockets that are connected.
    pub(super) fn pair(style: u32) -> (UnixStream, UnixStream) {
        let bytes = capacity(&Options::default());
        let (first, second) = pair(rules(style), (bytes, bytes));
        let connected = |end| UnixStream::connected(style, end, Name::Unnamed);
        (connected(first), connected(second))
    }

    fn connected(style: u32, end: Rc<End>, peer: Name) -> UnixStream {
        let socket = UnixStream::new(style);
        *socket.end.borrow_mut() = Some(end);
        *socket.peer.borrow_mut() = Some(peer);
        socket
    }

    fn style(&self) -> u32 {
        self.door.style.get()
    }

    fn name(&self) -> Name {
        self.door.name.borrow().clone()
    }

    fn end(&self) -> Option<Rc<End>> {
        self.end.borrow().clone()
    }
}

impl Transport for UnixStream {
    fn bind(&self, stack: &mut Stack, _: &Options, address: Address) -> Result<(), Errno> {
        if self.name() != Name::Unnamed {
            return Err(errno::EINVAL);
        }
        let name = stack.names.bind(address, Owner::Door(self.door.clone()))?;
        *self.door.name.borrow_mut() = name;
        Ok(())
    }

    fn listen(&self, stack: &mut Stack, options: &Options, backlog: usize) -> Result<(), Errno> {
        if self.name() == Name::Unnamed || self.end().is_some() {
            return Err(errno::EINVAL);
        }
        self.has_listened.set(true);
        self.door.is_open.set(!self.shut.get().receive);
        self.door.backlog.set(backlog.min(BACKLOG_MAX));
        self.door.capacity.set(capacity(options));
        self.door.touch();
        // Who found no room may find it now.
        stack.wake();
        Ok(())
    }

    fn connect(
        &self,
        stack: &mut Stack,
        options: &Options,
        address: Result<Address, Errno>,
        _: bool,
    ) -> Result<(), Stop> {
        let address = address?;
        let Owner::Door(door) = stack.names.find(self.style(), &address)? else {
            return Err(errno::EPROTOTYPE.into());
        };
        if !door.is_open.get() {
            return Err(errno::ECONNREFUSED.into());
        }
        if self.end().is_some() {
            return Err(errno::EISCONN.into());
        }
        if self.has_listened.get() {
            return Err(errno::EINVAL.into());
        }
        if door.visitors.borrow().len() > door.backlog.get() {
            return Err(Stop::wait(None));
        }
        let (end, other) = pair(rules(self.style()), (capacity(options), door.capacity.get()));
        end.shut_down(self.shut.get());
        door.touch();
        door.visitors.borrow_mut().push_back((other, self.name()));
        *self.end.borrow_mut() = Some(end);
        *self.peer.borrow_mut() = Some(door.name.borrow().clone());
        self.door.touch();
        stack.wake();
        Ok(())
    }

    fn accept(&self, stack: &mut Stack, _: &Options) -> Result<Box<dyn Transport>, Stop> {
        if !self.has_listened.get() {
            return Err(errno::EINVAL.into());
        }
        let visitor = self.door.visitors.borrow_mut().pop_front();
        let Some((end, name)) = visitor else {
            let is_shut = self.shut.get().receive;
            return Err(if is_shut { errno::EINVAL.into() } else { Stop::wait(None) });
        };
        stack.wake();
        let socket = UnixStream::connected(self.style(), end, name);
        *socket.door.name.borrow_mut() = self.name();
        Ok(Box::new(socket))
    }

    fn receive(&self, stack: &mut Stack, _: &Options, buffer: &mut [u8], is_peek: bool) -> Result<Received, Stop> {
        let is_stream = self.style() != SOCK_SEQPACKET;
        let end = self.end().ok_or(if is_stream { errno::EINVAL } else { errno::ENOTCONN })?;
        let moved = end.receive(buffer, is_peek)?;
        if moved.wakes {
            stack.wake();
        }
        let taken = moved.taken;
        let from = self.peer.borrow().clone().filter(|name| taken.count > 0 && *name != Name::Unnamed);
        let from = from.map(Address::named);
        Ok(Received { count: taken.count, length: taken.length, from, files: taken.files })
    }

    fn send(&self, stack: &mut Stack, _: &Options, message: &Message) -> Result<usize, Stop> {
        let end = self.end();
        if message.to.is_some() && self.style() != SOCK_SEQPACKET {
            return Err(if end.is_some() { errno::EISCONN } else { errno::EOPNOTSUPP }.into());
        }
        let count = end.ok_or(errno::ENOTCONN)?.send(message.bytes, message.files)?;
        stack.wake();
        Ok(count)
    }

    fn shut_down(&self, stack: &mut Stack, directions: Directions) -> Result<(), Errno> {
        self.shut.set(self.shut.get() | directions);
        match self.end() {
            Some(end) => end.shut_down(directions),
            None => {
                self.door.is_open.set(self.door.is_open.get() && !directions.receive);
                self.door.touch();
            }
        }
        stack.wake();
        Ok(())
    }

    fn local(&self) -> Address {
        Address::named(self.name())
    }

    fn peer(&self) -> Result<Address, Errno> {
        self.peer.borrow().clone().map(Address::named).ok_or(errno::ENOTCONN)
    }

    fn take_error(&self) -> Option<Errno> {
        self.end()?.take_error()
    }

    fn ready(&self, _: &Stack) -> u32 {
        if let Some(end) = &*self.end.borrow() {
            return end.ready();
        }
        let shut = self.shut.get();
        let mut mask = if self.has_listened.get() { 0 } else { EPOLLOUT | EPOLLHUP };
        if shut.receive {
            mask |= EPOLLIN | EPOLLRDHUP;
        }
        if shut == Directions::BOTH {
            mask |= EPOLLHUP;
        }
        if !self.door.visitors.borrow().is_empty() {
            mask |= EPOLLIN;
        }
        mask
    }

    fn activity(&self) -> Activity {
        let of_door = self.door.arrivals.activity();
        self.end.borrow().as_ref().map_or(of_door, |end| of_door.max(end.activity()))
    }

    fn readable(&self) -> Result<usize, Errno> {
        match self.end() {
            None if self.has_listened.get() => Err(errno::EINVAL),
            end => Ok(end.map_or(0, |end| end.readable())),
        }
    }

    fn unsent(&self) -> Result<usize, Errno> {
        Ok(self.end().map_or(0, |end| end.unread()))
    }

    fn is_listening(&self) -> bool {
        self.has_listened.get()
    }

    fn state(&self) -> u8 {
        0
    }

    fn apply(&self, _: &mut Stack, options: &Options) {
        self.door.capacity.set(capacity(options));
        if let Some(end) = self.end() {
            end.set_capacity(capacity(options));
        }
    }

    fn close(&self, stack: &mut Stack, _: &Options) {
        self.door.is_open.set(false);
        if self.name() != Name::Unnamed {
            let is_own = |owner: &Owner| matches!(owner, Owner::Door(door) if Rc::ptr_eq(door, &self.door));
            stack.names.release(is_own);
        }
        for (end, _) in self.door.visitors.take() {
            stack.lose(end.close(true));
        }
        if let Some(end) = self.end() {
            stack.lose(end.close(false));
        }
        stack.wake();
    }
}

#[cfg(test)]
mod tests {
    use linux_raw_sys::net::SOCK_STREAM;

    use super::*;

    fn abstract_name(text: &str) -> Address {
        Address::named(Name::Abstract(text.as_bytes().to_vec()))
    }

    fn connect(stack: &mut Stack, socket: &UnixStream, name: &str) -> Result<(), Stop> {
        socket.connect(stack, &Options::default(), Ok(abstract_name(name)), false)
    }

    fn listener(stack: &mut Stack, name: &str, backlog: usize) -> UnixStream {
        let socket = UnixStream::new(SOCK_STREAM);
        socket.bind(stack, &Options::default(), abstract_name(name)).unwrap();
        socket.listen(stack, &Options::default(), backlog).unwrap();
        socket
    }

    fn receive(stack: &mut Stack, socket: &dyn Transport) -> Result<Vec<u8>, Stop> {
        let mut buffer = [0; 16];
        let received = socket.receive(stack, &Options::default(), &mut buffer, false)?;
        Ok(buffer[..received.count].to_vec())
    }

    #[test]
    fn a_name_leads_to_its_listener_until_it_is_closed() {
        let stack = &mut Stack::without_network(0, 0);
        let options = Options::default();
        let client = UnixStream::new(SOCK_STREAM);
        assert_eq!(connect(stack, &client, "s"), Err(Stop::Error(errno::ECONNREFUSED)));
        let server = listener(stack, "s", 5);
        assert_eq!(UnixStream::new(SOCK_STREAM).bind(stack, &options, abstract_name("s")), Err(errno::EADDRINUSE));
        connect(stack, &client, "s").unwrap();
        assert_eq!(connect(stack, &client, "s"), Err(Stop::Error(errno::EISCONN)));
        let accepted = server.accept(stack, &options).unwrap();
        assert_eq!((client.peer(), accepted.local()), (Ok(abstract_name("s")), abstract_name("s")));
        assert_eq!(accepted.peer(), Ok(Address::named(Name::Unnamed)));
        client.send(stack, &options, &Message { bytes: b"hello", ..Message::default() }).unwrap();
        assert_eq!(receive(stack, &*accepted), Ok(b"hello".to_vec()));
        server.close(stack, &options);
        assert_eq!(connect(stack, &UnixStream::new(SOCK_STREAM), "s"), Err(Stop::Error(errno::ECONNREFUSED)));
        assert!(UnixStream::new(SOCK_STREAM).bind(stack, &options, abstract_name("s")).is_ok());
    }

    #[test]
    fn a_full_backlog_makes_wait() {
        let stack = &mut Stack::without_network(0, 0);
        let server = listener(stack, "s", 0);
        connect(stack, &UnixStream::new(SOCK_STREAM), "s").unwrap();
        let second = UnixStream::new(SOCK_STREAM);
        assert_eq!(connect(stack, &second, "s"), Err(Stop::wait(None)));
        server.accept(stack, &Options::default()).unwrap();
        assert!(connect(stack, &second, "s").is_ok());
        server.close(stack, &Options::default());
        assert_eq!(receive(stack, &second), Err(Stop::Error(errno::ECONNRESET)));
    }

    #[test]
    fn sockets_that_are_not_connected_say_so() {
        let stack = &mut Stack::without_network(0, 0);
        let (socket, options) = (UnixStream::new(SOCK_STREAM), Options::default());
        assert_eq!(receive(stack, &socket), Err(Stop::Error(errno::EINVAL)));
        assert_eq!(
            socket.send(stack, &options, &Message { bytes: b"x", ..Message::default() }),
            Err(Stop::Error(errno::ENOTCONN))
        );
        assert_eq!(socket.listen(stack, &options, 1), Err(errno::EINVAL));
        assert_eq!(socket.peer(), Err(errno::ENOTCONN));
        assert_eq!(socket.ready(stack), EPOLLOUT | EPOLLHUP);
    }

    #[test]
    fn the_kernel_chooses_names_that_are_free() {
        let stack = &mut Stack::without_network(0, 0);
        let name = |stack: &mut Stack| {
            let socket = UnixStream::new(SOCK_STREAM);
            socket.bind(stack, &Options::default(), Address::named(Name::Unnamed)).unwrap();
            socket.local()
        };
        assert_ne!(name(stack), name(stack));
    }
}
