//! TCP within the guest.

use super::*;

const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 6379);

struct Guest {
    stack: Stack,
    options: Options,
}

impl Guest {
    fn new() -> Guest {
        Guest { stack: Stack::without_network(0, 0), options: Options::default() }
    }

    fn listener(&mut self) -> Tcp {
        let server = Tcp::new();
        let address = Address::Inet(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, SERVER.port()));
        server.bind(&mut self.stack, &self.options, address).unwrap();
        server.listen(&mut self.stack, &self.options, 8).unwrap();
        server
    }

    fn connect(&mut self, client: &Tcp, is_nonblocking: bool) -> Result<(), Stop> {
        client.connect(&mut self.stack, &self.options, Ok(Address::Inet(SERVER)), is_nonblocking)
    }

    fn accept(&mut self, server: &Tcp) -> Result<Box<dyn Transport>, Stop> {
        server.accept(&mut self.stack, &self.options)
    }

    fn send(&mut self, socket: &dyn Transport, bytes: &[u8]) -> Result<usize, Stop> {
        socket.send(&mut self.stack, &self.options, &Message { bytes, ..Message::default() })
    }

    fn receive(&mut self, socket: &dyn Transport) -> Result<Vec<u8>, Stop> {
        let mut buffer = [0; 32];
        let received = socket.receive(&mut self.stack, &self.options, &mut buffer, false)?;
        Ok(buffer[..received.count].to_vec())
    }
}

fn error<T>(error: Errno) -> Result<T, Stop> {
    Err(Stop::Error(error))
}

#[test]
fn a_connection_within_the_guest_has_both_addresses() {
    let mut guest = Guest::new();
    let server = guest.listener();
    assert_eq!(server.ready(&guest.stack), 0);
    let client = Tcp::new();
    guest.connect(&client, false).unwrap();
    assert!(guest.stack.take_changed());
    assert_eq!(server.ready(&guest.stack), EPOLLIN);
    let accepted = guest.accept(&server).unwrap();
    assert_eq!(accepted.local(), Address::Inet(SERVER));
    assert_eq!(accepted.peer(), Ok(client.local()));
    assert_eq!(client.peer(), Ok(Address::Inet(SERVER)));
    assert!(matches!(client.local(), Address::Inet(local) if local.ip().is_loopback() && local.port() >= 32_768));
    guest.send(&client, b"ping").unwrap();
    assert_eq!(guest.receive(&*accepted), Ok(b"ping".to_vec()));
    assert_eq!(guest.receive(&*accepted), Err(Stop::wait(None)));
    assert_eq!(guest.connect(&client, false), error(errno::EISCONN));
}

#[test]
fn a_nonblocking_connect_tells_later_what_came_of_it() {
    let mut guest = Guest::new();
    let client = Tcp::new();
    assert_eq!(guest.connect(&client, true), error(errno::EINPROGRESS));
    assert_eq!(client.ready(&guest.stack) & EPOLLERR, EPOLLERR);
    assert_eq!(client.take_error(), Some(errno::ECONNREFUSED));
    assert_eq!(guest.connect(&client, true), error(errno::ECONNABORTED));

    let server = guest.listener();
    assert_eq!(guest.connect(&client, true), error(errno::EINPROGRESS));
    assert_eq!(client.ready(&guest.stack), EPOLLOUT);
    assert_eq!(client.take_error(), None);
    assert_eq!(guest.connect(&client, true), Ok(()));
    assert_eq!(guest.connect(&client, true), error(errno::EISCONN));
    assert!(guest.accept(&server).is_ok());
}

#[test]
fn nobody_listens() {
    let mut guest = Guest::new();
    let client = Tcp::new();
    assert_eq!(guest.connect(&client, false), error(errno::ECONNREFUSED));
    assert_eq!(client.peer(), Err(errno::ENOTCONN));
    assert_eq!(guest.send(&client, b"x"), error(errno::EPIPE));
    assert_eq!(guest.receive(&client), error(errno::ENOTCONN));
    let far = Address::Inet(SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 80));
    let connected = client.connect(&mut guest.stack, &guest.options, Ok(far), false);
    assert_eq!(connected, error(errno::ENETUNREACH));
}

#[test]
fn a_listener_that_goes_turns_away_who_waits_and_frees_its_port() {
    let mut guest = Guest::new();
    let server = guest.listener();
    let client = Tcp::new();
    guest.connect(&client, false).unwrap();
    server.close(&mut guest.stack, &guest.options);
    assert_eq!(guest.receive(&client), error(errno::ECONNRESET));
    assert_eq!(guest.receive(&client), Ok(vec![]));
    assert_eq!(client.peer(), Err(errno::ENOTCONN));
    guest.listener();
}

#[test]
fn shutdown_ends_a_listener_for_those_that_accept() {
    let mut guest = Guest::new();
    let server = guest.listener();
    assert_eq!(guest.accept(&server).err(), Some(Stop::wait(None)));
    assert_eq!(server.shut_down(&mut guest.stack, Directions::SEND), Ok(()));
    assert!(server.is_listening());
    assert_eq!(server.shut_down(&mut guest.stack, Directions::RECEIVE), Ok(()));
    assert_eq!(guest.accept(&server).err(), Some(Stop::Error(errno::EINVAL)));
    assert_eq!(server.shut_down(&mut guest.stack, Directions::RECEIVE), Err(errno::ENOTCONN));
    server.listen(&mut guest.stack, &guest.options, 1).unwrap();
}

#[test]
fn activity_grows_with_each_change() {
    let mut guest = Guest::new();
    let server = guest.listener();
    let (client, first) = (Tcp::new(), server.activity());
    let mut seen = client.activity();
    let mut has_grown = |client: &Tcp| {
        let before = core::mem::replace(&mut seen, client.activity());
        before < seen
    };
    guest.connect(&client, false).unwrap();
    assert!(server.activity() > first && has_grown(&client));
    let accepted = guest.accept(&server).unwrap();
    guest.send(&*accepted, b"x").unwrap();
    assert!(has_grown(&client) && !has_grown(&client));
    accepted.close(&mut guest.stack, &guest.options);
    assert!(has_grown(&client));
    client.close(&mut guest.stack, &guest.options);
    assert!(has_grown(&client));
}
