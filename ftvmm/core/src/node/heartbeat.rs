//! The heartbeat sockets: authenticated UDP datagrams on each network between the hosts.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use super::authentication::{Key, Purpose};
use super::config::HeartbeatConfig;

const DATAGRAM_BYTES_MAX: usize = 2048;
/// So many errors in a row are no answers to what was sent: a real-time thread must not spin over one that stays.
const ERRORS_MAX: u32 = 64;

/// One heartbeat socket.
#[derive(Debug)]
pub struct Heartbeat {
    socket: UdpSocket,
    peer: SocketAddr,
    key: Key,
    /// There may be something to read.
    reads: bool,
    /// Errors since the last datagram.
    errors: u32,
}

impl Heartbeat {
    /// Binds the socket.
    ///
    /// # Errors
    /// The operating system's, with the address.
    pub fn bind(config: &HeartbeatConfig, key: &Key) -> std::io::Result<Heartbeat> {
        let bound = UdpSocket::bind(config.listen).and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        let socket = bound.map_err(|error| {
            std::io::Error::new(error.kind(), format!("heartbeat socket {}: {error}", config.listen))
        })?;
        Ok(Heartbeat { socket, peer: config.peer, key: key.clone(), reads: true, errors: 0 })
    }

    /// The kernel says that there is something to read.
    pub fn is_ready(&mut self) {
        self.reads = true;
    }

    /// Sends a message. A network that refuses it is a network that loses it.
    pub fn send(&self, bytes: Vec<u8>) {
        let _ = self.socket.send_to(&self.key.seal(Purpose::Heartbeat, bytes), self.peer);
    }

    /// Where the peer is.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The peer is here from now on.
    pub fn set_peer(&mut self, peer: SocketAddr) {
        self.peer = peer;
    }

    /// Reads the next datagram, and where it came from; `None`: there is none. Without a message in it, it came from somebody who does not hold the VM's key, or
    /// was an error.
    pub fn receive(&mut self) -> Option<Option<(Vec<u8>, SocketAddr)>> {
        let mut buffer = [0u8; DATAGRAM_BYTES_MAX];
        if !self.reads {
            return None;
        }
        match self.socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                self.errors = 0;
                Some(self.key.open(Purpose::Heartbeat, &buffer[..length]).map(|message| (message.to_vec(), from)))
            }
            Err(error) if error.kind() != ErrorKind::WouldBlock && self.errors < ERRORS_MAX => {
                // An ICMP answer to something that was sent, most likely.
                self.errors += 1;
                Some(None)
            }
            Err(_) => {
                (self.reads, self.errors) = (false, 0);
                None
            }
        }
    }
}

impl AsFd for Heartbeat {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_behind_strangers_is_heard() {
        let key = Key::from_hexadecimal(&"5a".repeat(32)).unwrap();
        let bound = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let (peer, socket) = (bound(), bound());
        socket.set_nonblocking(true).unwrap();
        let here = socket.local_addr().unwrap();
        let mut heartbeat = Heartbeat { socket, peer: peer.local_addr().unwrap(), key, reads: true, errors: 0 };
        for _ in 0..100 {
            peer.send_to(b"let me in", here).unwrap();
        }
        let told = heartbeat.key.seal(Purpose::Heartbeat, b"alive".to_vec());
        peer.send_to(&told, here).unwrap();
        let read: Vec<_> = std::iter::from_fn(|| heartbeat.receive()).collect();
        let from = peer.local_addr().unwrap();
        assert_eq!((read.len(), read.last()), (101, Some(&Some((b"alive".to_vec(), from)))));
        assert!(read[..100].iter().all(Option::is_none));
    }
}
