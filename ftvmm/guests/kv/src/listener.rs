//! The TCP connections: a pool of sockets that all listen on one port, each with its session while a client is there.

use alloc::vec;
use alloc::vec::Vec;

use engine::server::Server;
use engine::session::Session;
use sdk::smoltcp::iface::{SocketHandle, SocketSet};
use sdk::smoltcp::socket::tcp::{Socket, SocketBuffer, State};

/// Sockets in the pool: 64 connections at least, and as many again that may be opening or closing.
const SOCKETS: usize = 128;
/// Buffer of a socket in either direction, in bytes.
const BUFFER_BYTES: usize = 16 * 1024;
/// With fewer sockets listening than that, those that only wait for stray segments (TIME-WAIT) are taken back.
const LISTENING_MIN: usize = 32;
/// A session's input beyond the longest value: the words around it, in bytes.
const INPUT_SLACK_BYTES: usize = 160 * 1024;

/// The connections.
pub(crate) struct Listener {
    port: u16,
    sockets: SocketSet<'static>,
    connections: Vec<Connection>,
    input_bytes_max: usize,
}

struct Connection {
    handle: SocketHandle,
    session: Option<Session>,
}

impl Listener {
    /// Listens on that port; a value has at most so many bytes.
    pub(crate) fn new(port: u16, value_bytes_max: usize) -> Listener {
        let mut sockets = SocketSet::new(vec![]);
        let connections =
            (0..SOCKETS).map(|_| Connection { handle: sockets.add(listening(port)), session: None }).collect();
        Listener { port, sockets, connections, input_bytes_max: value_bytes_max + INPUT_SLACK_BYTES }
    }

    /// The sockets, for the network to drive.
    pub(crate) fn sockets(&mut self) -> &mut SocketSet<'static> {
        &mut self.sockets
    }

    /// One round: executes what has come in, commits, and hands the replies to the sockets.
    pub(crate) fn serve(&mut self, server: &mut Server) {
        let mut listening = 0;
        for connection in &mut self.connections {
            let socket = self.sockets.get_mut::<Socket>(connection.handle);
            match socket.state() {
                State::Listen => listening += 1,
                State::Closed => {
                    close(connection, server);
                    // Fails on port 0 or an open socket only.
                    let _ = socket.listen(self.port);
                    listening += 1;
                }
                State::TimeWait => close(connection, server),
                State::SynReceived | State::SynSent => {}
                _ => receive(connection, socket, server, self.input_bytes_max),
            }
        }
        server.commit(self.connections.iter_mut().filter_map(|connection| connection.session.as_mut()));
        for connection in &mut self.connections {
            if let Some(session) = &mut connection.session {
                send(session, self.sockets.get_mut::<Socket>(connection.handle));
            }
        }
        if listening < LISTENING_MIN {
            self.take_back(server);
        }
    }

    /// Replaces the sockets in TIME-WAIT, without a word to the other end.
    fn take_back(&mut self, server: &mut Server) {
        for connection in &mut self.connections {
            if self.sockets.get::<Socket>(connection.handle).state() == State::TimeWait {
                close(connection, server);
                self.sockets.remove(connection.handle);
                connection.handle = self.sockets.add(listening(self.port));
            }
        }
    }
}

fn listening(port: u16) -> Socket<'static> {
    let buffer = || SocketBuffer::new(vec![0; BUFFER_BYTES]);
    let mut socket = Socket::new(buffer(), buffer());
    // Replies are whole when they are handed over, so nothing is gained by holding a short segment back.
    socket.set_nagle_enabled(false);
    let _ = socket.listen(port);
    socket
}

fn close(connection: &mut Connection, server: &mut Server) {
    if let Some(session) = connection.session.take() {
        server.disconnect(session);
    }
}

fn receive(connection: &mut Connection, socket: &mut Socket, server: &mut Server, input_bytes_max: usize) {
    let session = connection.session.get_or_insert_with(|| server.connect());
    while socket.can_recv() && session.input_bytes() < input_bytes_max {
        // Fails where nothing can be received only.
        let _ = socket.recv(|bytes| (bytes.len(), session.receive(bytes)));
    }
    if session.input_bytes() > 0 {
        server.execute(session);
    }
}

fn send(session: &mut Session, socket: &mut Socket) {
    if !session.output().is_empty() && socket.can_send() {
        let count = socket.send_slice(session.output()).unwrap_or(0);
        session.advance(count);
    }
    // Once the client has said all it will and that is answered, so have we.
    if session.output().is_empty() && (session.client.closing || !socket.may_recv()) {
        socket.close();
    }
}
