//! Connections from a wire.

use super::super::address::{Address, NOWHERE};
use super::super::tcp::Tcp;
use super::super::wire::{ADDRESS, Wire};
use super::super::{Transport, connection};
use super::*;

const SERVER: u16 = 80;

fn listener(wire: &mut Wire, backlog: usize) -> Tcp {
    let server = Tcp::new();
    let address = Address::Inet(SocketAddrV4::new(*NOWHERE.ip(), SERVER));
    server.bind(&mut wire.stack, &Options::default(), address).unwrap();
    server.listen(&mut wire.stack, &Options::default(), backlog).unwrap();
    server
}

fn endpoint(port: u16) -> IpEndpoint {
    IpEndpoint::from(SocketAddrV4::new(ADDRESS, port))
}

#[test]
fn each_request_finds_a_socket_as_long_as_there_is_room() {
    let mut wire = Wire::new();
    let server = listener(&mut wire, 2);
    let mut accepted = Vec::new();
    let mut dropped = 0;
    for port in 50_000..50_005 {
        // All ask before the program accepts one.
        if wire.stack.prepare(endpoint(port), SERVER) {
            wire.peer(port, SERVER);
            wire.settle();
        } else {
            dropped += 1;
        }
    }
    assert_eq!(dropped, 2);
    while let Ok(transport) = server.accept(&mut wire.stack, &Options::default()) {
        accepted.push(transport.peer());
    }
    let peer = |port| Ok(Address::Inet(SocketAddrV4::new(ADDRESS, port)));
    assert_eq!(accepted, [peer(50_000), peer(50_001), peer(50_002)]);
    assert!(wire.stack.prepare(endpoint(50_005), SERVER));
}

#[test]
fn a_listener_that_goes_resets_who_waits() {
    let mut wire = Wire::new();
    let server = listener(&mut wire, 8);
    assert!(wire.stack.prepare(endpoint(50_000), SERVER));
    let peer = wire.peer(50_000, SERVER);
    wire.settle();
    assert_eq!(server.ready(&wire.stack), linux_raw_sys::general::EPOLLIN);
    server.close(&mut wire.stack, &Options::default());
    wire.settle();
    assert_eq!(wire.socket(peer).state(), State::Closed);
    assert!(wire.stack.connections.is_empty());
}

#[test]
fn old_connections_make_room_for_new_ones() {
    let mut wire = Wire::new();
    let server = listener(&mut wire, 8);
    let count = TIME_WAIT_MAX + 10;
    for port in 0..count as u16 {
        assert!(wire.stack.prepare(endpoint(40_000 + port), SERVER));
        let peer = wire.peer(40_000 + port, SERVER);
        wire.settle();
        let accepted = server.accept(&mut wire.stack, &Options::default()).unwrap();
        accepted.close(&mut wire.stack, &Options::default());
        wire.settle();
        wire.socket(peer).close();
        wire.settle();
        wire.stack.sockets.remove(peer);
    }
    assert_eq!(wire.stack.connections.len(), TIME_WAIT_MAX);
    assert!(!wire.stack.is_closing());
    // The same addresses again, while the old connection is remembered.
    let last = 40_000 + count as u16 - 1;
    assert!(wire.stack.prepare(endpoint(last), SERVER));
    let peer = wire.peer(last, SERVER);
    wire.settle();
    assert_eq!(wire.socket(peer).state(), State::Established);
}

#[test]
fn buffers_are_as_large_as_asked_for() {
    let mut options = Options::default();
    let default = connection::socket(&options).unwrap();
    assert_eq!((default.recv_capacity(), default.send_capacity()), (16 * 1024, 32 * 1024));
    let value = 100_000i32.to_ne_bytes();
    let (level, name) = (linux_raw_sys::net::SOL_SOCKET, linux_raw_sys::net::SO_RCVBUF);
    options.set(super::super::Kind::TCP, level, name, &value).unwrap();
    assert_eq!(connection::socket(&options).unwrap().recv_capacity(), 100_000);
}

#[test]
fn only_the_guest_itself_can_be_reached_without_a_network() {
    let stack = Stack::without_network(0, 0);
    assert_eq!(stack.route(Ipv4Addr::new(127, 1, 2, 3)), Ok((Route::Local, Ipv4Addr::LOCALHOST)));
    assert_eq!(stack.route(ADDRESS), Err(errno::ENETUNREACH));
    let wire = Wire::new();
    assert_eq!(wire.stack.route(ADDRESS), Ok((Route::Local, ADDRESS)));
    assert_eq!(wire.stack.route(Ipv4Addr::new(10, 0, 0, 9)), Ok((Route::Network, ADDRESS)));
    assert_eq!(wire.stack.route(Ipv4Addr::new(192, 0, 2, 1)), Err(errno::ENETUNREACH));
}
