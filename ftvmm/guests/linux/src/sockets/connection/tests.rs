//! TCP over a wire.

use super::super::wire::Wire;
use super::*;

const PORT: u16 = 50_000;
const SERVER: u16 = 80;
const WAIT: Stop = Stop::wait(None);

fn receive(wire: &mut Wire, connection: &Connection) -> Result<Vec<u8>, Stop> {
    let mut buffer = [0; 64];
    connection.receive(&mut wire.stack.sockets, &mut buffer, false).map(|count| buffer[..count].to_vec())
}

fn send(wire: &mut Wire, connection: &Connection, bytes: &[u8]) -> Result<usize, Stop> {
    connection.send(&mut wire.stack.sockets, bytes)
}

fn ready(wire: &Wire, connection: &Connection) -> u32 {
    connection.ready(&wire.stack.sockets)
}

fn error<T>(error: Errno) -> Result<T, Stop> {
    Err(Stop::Error(error))
}

/// A connection that is open, and the other host's socket.
fn open() -> (Wire, Rc<Connection>, SocketHandle) {
    let mut wire = Wire::new();
    let peer = wire.listening_peer(SERVER);
    let connection = wire.connect(PORT, SERVER);
    wire.settle();
    assert_eq!(connection.state(), State::Established);
    (wire, connection, peer)
}

#[test]
fn bytes_go_to_and_fro_and_each_arrival_is_counted() {
    let (mut wire, connection, peer) = open();
    assert_eq!(ready(&wire, &connection), EPOLLOUT);
    assert_eq!(receive(&mut wire, &connection), Err(WAIT));
    assert_eq!(send(&mut wire, &connection, b"request"), Ok(7));
    wire.settle();
    let before = connection.activity();
    let mut buffer = [0; 16];
    assert_eq!(wire.socket(peer).recv_slice(&mut buffer), Ok(7));
    wire.socket(peer).send_slice(b"answer").unwrap();
    wire.settle();
    let after = connection.activity();
    assert!(after > before);
    assert_eq!(ready(&wire, &connection), EPOLLIN | EPOLLOUT);
    assert_eq!(connection.readable(), 6);
    assert_eq!(receive(&mut wire, &connection), Ok(b"answer".to_vec()));
    wire.settle();
    assert_eq!(connection.activity(), after);
}

#[test]
fn a_sender_without_room_learns_of_it() {
    let (mut wire, connection, peer) = open();
    let block = [7; 100_000];
    assert_eq!(send(&mut wire, &connection, &block), Ok(SEND_BYTES));
    assert_eq!(send(&mut wire, &connection, &block), Err(WAIT));
    assert_eq!(ready(&wire, &connection) & EPOLLOUT, 0);
    wire.settle();
    // The other host has room for 4,096 bytes, which is not a third.
    assert_eq!(ready(&wire, &connection) & EPOLLOUT, 0);
    let before = connection.activity();
    for _ in 0..8 {
        wire.socket(peer).recv_slice(&mut [0; 4096]).unwrap();
        wire.settle();
    }
    assert!(connection.activity() > before);
    assert_eq!(ready(&wire, &connection) & EPOLLOUT, EPOLLOUT);
}

#[test]
fn the_other_end_closes_in_order() {
    let (mut wire, connection, peer) = open();
    wire.socket(peer).send_slice(b"last").unwrap();
    wire.socket(peer).close();
    wire.settle();
    assert_eq!(ready(&wire, &connection), EPOLLIN | EPOLLRDHUP | EPOLLOUT);
    assert_eq!(receive(&mut wire, &connection), Ok(b"last".to_vec()));
    assert_eq!(receive(&mut wire, &connection), Ok(vec![]));
    connection.close(&mut wire.stack.sockets, false, wire.now);
    assert!(wire.stack.is_closing());
    wire.settle();
    assert!(!wire.stack.is_closing());
}

#[test]
fn a_reset_is_told_once() {
    let (mut wire, connection, peer) = open();
    wire.socket(peer).abort();
    wire.settle();
    assert_eq!(ready(&wire, &connection), EPOLLIN | EPOLLRDHUP | EPOLLOUT | EPOLLHUP | EPOLLERR);
    assert_eq!(receive(&mut wire, &connection), error(errno::ECONNRESET));
    assert_eq!(receive(&mut wire, &connection), Ok(vec![]));
    assert_eq!(send(&mut wire, &connection, b"x"), error(errno::EPIPE));
    assert!(connection.is_over());
}

#[test]
fn bytes_to_a_closed_end_come_back_as_a_broken_pipe() {
    let (mut wire, connection, peer) = open();
    wire.socket(peer).close();
    wire.settle();
    wire.socket(peer).abort();
    wire.settle();
    assert_eq!(receive(&mut wire, &connection), Ok(vec![]));
    assert_eq!(send(&mut wire, &connection, b"x"), error(errno::EPIPE));
    assert_eq!(connection.take_error(), None);
}

#[test]
fn half_a_connection_is_closed() {
    let (mut wire, connection, peer) = open();
    connection.shut_down(&mut wire.stack.sockets, Directions::SEND);
    wire.settle();
    assert_eq!(send(&mut wire, &connection, b"x"), error(errno::EPIPE));
    wire.socket(peer).send_slice(b"still").unwrap();
    wire.settle();
    assert_eq!(receive(&mut wire, &connection), Ok(b"still".to_vec()));
    wire.socket(peer).close();
    wire.settle();
    assert!(connection.is_over());
    assert_eq!(receive(&mut wire, &connection), Ok(vec![]));
    assert_eq!(connection.take_error(), None);
}

#[test]
fn what_was_not_read_is_lost_loudly() {
    let (mut wire, connection, peer) = open();
    wire.socket(peer).send_slice(b"unread").unwrap();
    wire.settle();
    connection.close(&mut wire.stack.sockets, false, wire.now);
    wire.settle();
    assert_eq!(wire.socket(peer).state(), State::Closed);
    assert!(!wire.stack.is_closing());

    // What comes when nobody will read it any more is lost as loudly.
    let (mut wire, connection, peer) = open();
    connection.close(&mut wire.stack.sockets, false, wire.now);
    wire.settle();
    assert_eq!(wire.socket(peer).state(), State::CloseWait);
    wire.socket(peer).send_slice(b"too late").unwrap();
    wire.settle();
    assert_eq!(wire.socket(peer).state(), State::Closed);
}

#[test]
fn a_request_is_refused_or_given_up() {
    let mut wire = Wire::new();
    let connection = wire.connect(PORT, SERVER);
    assert_eq!(ready(&wire, &connection), 0);
    wire.settle();
    assert_eq!(connection.take_error(), Some(errno::ECONNREFUSED));

    // Nobody answers: the frames of this one never leave.
    for (is_unresolved, seconds, expected) in [(true, 3, errno::EHOSTUNREACH), (false, 127, errno::ETIMEDOUT)] {
        let mut wire = Wire::new();
        let connection = wire.connect(PORT, SERVER);
        let sockets = &mut wire.stack.sockets;
        assert!(connection.expire(sockets, (seconds - 1) * NANOSECONDS, is_unresolved).is_some());
        assert_eq!(connection.take_error(), None);
        assert_eq!(connection.expire(sockets, seconds * NANOSECONDS, is_unresolved), None);
        assert_eq!(connection.take_error(), Some(expected));
        assert!(connection.is_over());
    }
}

#[test]
fn a_quiet_connection_is_asked_whether_it_lives() {
    let (mut wire, connection, peer) = open();
    let mut options = Options::default();
    let set = |options: &mut Options, level, name, value: i32| {
        options.set(super::super::Kind::TCP, level, name, &value.to_ne_bytes()).unwrap();
    };
    use linux_raw_sys::net::{SO_KEEPALIVE, SOL_SOCKET, SOL_TCP, TCP_KEEPCNT, TCP_KEEPIDLE, TCP_KEEPINTVL};
    set(&mut options, SOL_SOCKET, SO_KEEPALIVE, 1);
    set(&mut options, SOL_TCP, TCP_KEEPIDLE, 10);
    set(&mut options, SOL_TCP, TCP_KEEPINTVL, 5);
    set(&mut options, SOL_TCP, TCP_KEEPCNT, 2);
    connection.apply(&mut wire.stack.sockets, &options);
    let deadline = wire.transmit().unwrap();
    assert!(deadline > wire.now && deadline <= wire.now + 10 * NANOSECONDS);
    wire.now = deadline;
    wire.settle();
    assert_eq!(connection.state(), State::Established);
    // The other end vanishes without a word.
    wire.stack.sockets.remove(peer);
    for _ in 0..4 {
        wire.now += 5 * NANOSECONDS;
        wire.transmit();
    }
    assert_eq!(connection.take_error(), Some(errno::ETIMEDOUT));
}
