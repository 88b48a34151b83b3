//! The heartbeat sockets: authenticated UDP datagrams on each network between the hosts.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, TrySendError};

use super::authentication::{Key, Purpose};
use super::config::HeartbeatConfig;
use super::thread;

const DATAGRAM_BYTES_MAX: usize = 2048;
/// Pause behind a failed receive.
const ERROR_PAUSE: Duration = Duration::from_millis(5);

/// One heartbeat socket.
#[derive(Debug)]
pub struct Heartbeat {
    /// the network's name
    pub network: String,
    socket: Arc<UdpSocket>,
    peer: SocketAddr,
    key: Key,
}

/// A datagram whose sender holds the VM's key.
#[derive(Debug)]
pub struct Datagram {
    /// index of the network in the configuration
    pub network: usize,
    /// the protocol's message
    pub bytes: Vec<u8>,
}

impl Heartbeat {
    /// Binds the socket.
    ///
    /// # Errors
    /// The operating system's, with the address.
    pub fn bind(config: &HeartbeatConfig, key: &Key) -> std::io::Result<Heartbeat> {
        let socket = UdpSocket::bind(config.listen).map_err(|error| {
            std::io::Error::new(error.kind(), format!("heartbeat socket {}: {error}", config.listen))
        })?;
        Ok(Heartbeat { network: config.network.clone(), socket: Arc::new(socket), peer: config.peer, key: key.clone() })
    }

    /// Sends a message. A network that refuses it is a network that loses it.
    pub fn send(&self, bytes: Vec<u8>) {
        let _ = self.socket.send_to(&self.key.seal(Purpose::Heartbeat, bytes), self.peer);
    }

    /// Hands every authentic datagram on, in a thread of its own.
    pub fn receive(&self, network: usize, datagrams: Sender<Datagram>) {
        let (socket, key) = (self.socket.clone(), self.key.clone());
        thread::urgent("heartbeat", move || {
            let mut buffer = [0u8; DATAGRAM_BYTES_MAX];
            loop {
                let Ok(length) = socket.recv(&mut buffer) else {
                    // An ICMP answer to something that was sent, most likely. An error that stays must not make a
                    // real-time thread spin.
                    std::thread::sleep(ERROR_PAUSE);
                    continue;
                };
                let Some(message) = key.open(Purpose::Heartbeat, &buffer[..length]) else { continue };
                match datagrams.try_send(Datagram { network, bytes: message.to_vec() }) {
                    // A full queue loses datagrams, as a full socket does.
                    Ok(()) | Err(TrySendError::Full(_)) => {}
                    Err(TrySendError::Disconnected(_)) => return,
                }
            }
        });
    }
}
