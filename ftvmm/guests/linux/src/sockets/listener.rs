//! TCP sockets that listen, and the connections that wait to be accepted.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::net::{Ipv4Addr, SocketAddrV4};

use sdk::smoltcp::iface::SocketSet;
use sdk::smoltcp::socket::tcp::{Socket, State};

use super::connection::Connection;
use super::options::Options;
use super::stream::End;
use crate::readiness::{Activity, Arrivals};

/// Connections that wait to be accepted at most (net.core.somaxconn).
const BACKLOG_MAX: usize = 4096;

/// Whether a listener can take up a request from the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    /// no: so many wait already
    Full,
    /// a socket listens
    Listens,
    /// once it has a socket that listens
    NeedsSocket,
}

/// A connection that waits to be accepted.
pub(super) enum Visitor {
    /// from the network
    Network(Rc<Connection>),
    /// from the guest itself
    Local {
        /// the listener's end
        end: Rc<End>,
        /// the address to which it came
        local: SocketAddrV4,
        /// where it came from
        remote: SocketAddrV4,
    },
}

/// A TCP socket that listens.
pub(super) struct Listener {
    /// where: at each address of the guest where it is unspecified
    pub address: SocketAddrV4,
    /// so many connections may wait, and one more
    backlog: Cell<usize>,
    /// what the connections start with
    options: RefCell<Options>,
    /// sockets that listen, or are opening a connection
    opening: RefCell<Vec<Rc<Connection>>>,
    /// connections that are open, in the order in which they came
    pub visitors: RefCell<VecDeque<Visitor>>,
    arrivals: Arrivals,
}

impl Listener {
    /// One for an address.
    pub(super) fn new(address: SocketAddrV4, backlog: usize, options: &Options) -> Listener {
        Listener {
            address,
            backlog: Cell::new(backlog.min(BACKLOG_MAX)),
            options: RefCell::new(options.clone()),
            opening: RefCell::default(),
            visitors: RefCell::default(),
            arrivals: Arrivals::default(),
        }
    }

    /// Changes how many connections may wait.
    pub(super) fn set_backlog(&self, backlog: usize) {
        self.backlog.set(backlog.min(BACKLOG_MAX));
    }

    /// Changes what connections start with.
    pub(super) fn set_options(&self, options: &Options) {
        *self.options.borrow_mut() = options.clone();
    }

    /// What connections start with.
    pub(super) fn options(&self) -> Options {
        self.options.borrow().clone()
    }

    /// Whether another connection from the guest itself may wait. The backlog is for those from the network, whose
    /// requests come again.
    pub(super) fn has_room(&self) -> bool {
        self.visitors.borrow().len() < BACKLOG_MAX
    }

    /// Takes up a connection.
    pub(super) fn welcome(&self, visitor: Visitor) {
        let mut visitors = self.visitors.borrow_mut();
        self.arrivals.note(!visitors.is_empty());
        visitors.push_back(visitor);
    }

    /// What has arrived.
    pub(super) fn activity(&self) -> Activity {
        self.arrivals.activity()
    }

    /// Whether it listens at that address of the guest.
    pub(super) fn listens_at(&self, address: Ipv4Addr, port: u16) -> bool {
        self.address.port() == port && (self.address.ip().is_unspecified() || *self.address.ip() == address)
    }

    /// Whether it can take up a request from the network.
    pub(super) fn state(&self, sockets: &SocketSet<'static>) -> Readiness {
        let opening = self.opening.borrow();
        let is_listening =
            |connection: &&Rc<Connection>| sockets.get::<Socket>(connection.handle()).state() == State::Listen;
        let listening = opening.iter().filter(is_listening).count();
        let waiting = opening.len() - listening + self.visitors.borrow().len();
        match listening {
            _ if waiting > self.backlog.get() => Readiness::Full,
            0 => Readiness::NeedsSocket,
            _ => Readiness::Listens,
        }
    }

    /// Adds a socket that listens.
    pub(super) fn add(&self, connection: Rc<Connection>) {
        self.opening.borrow_mut().push(connection);
    }

    /// Takes up the connections that have been opened.
    pub(super) fn look(&self, sockets: &mut SocketSet<'static>, now: u64) {
        self.opening.borrow_mut().retain(|connection| match connection.state() {
            State::Listen | State::SynReceived => true,
            State::Closed => {
                connection.close(sockets, true, now);
                false
            }
            _ => {
                connection.open();
                connection.apply(sockets, &self.options.borrow());
                self.welcome(Visitor::Network(connection.clone()));
                false
            }
        });
    }

    /// Turns away who waits.
    pub(super) fn close(&self, sockets: &mut SocketSet<'static>, now: u64) {
        for connection in self.opening.take() {
            connection.close(sockets, true, now);
        }
        for visitor in self.visitors.take() {
            match visitor {
                Visitor::Network(connection) => connection.close(sockets, true, now),
                Visitor::Local { end, .. } => {
                    // No files are handed over by TCP.
                    end.close(true);
                }
            }
        }
    }
}
