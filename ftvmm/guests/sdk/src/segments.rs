//! TCP segments that come, and requests for a connection that come a second time.

use smoltcp::iface::SocketSet;
use smoltcp::socket::Socket;
use smoltcp::socket::tcp::State;
use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpEndpoint, IpProtocol, Ipv4Packet, TcpPacket};

/// What a TCP segment tells by its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// who has sent it
    pub from: IpEndpoint,
    /// the guest's port
    pub port: u16,
    /// it asks for a connection: a SYN without an ACK
    pub is_request: bool,
}

/// The segment in a frame; `None` when the frame is anything else.
pub(crate) fn segment(frame: &[u8]) -> Option<Segment> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    if ethernet.ethertype() != EthernetProtocol::Ipv4 {
        return None;
    }
    let ip = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
    // Only the first fragment of a packet begins with the header.
    if ip.next_header() != IpProtocol::Tcp || ip.frag_offset() != 0 {
        return None;
    }
    let tcp = TcpPacket::new_checked(ip.payload()).ok()?;
    let from = IpEndpoint::new(ip.src_addr().into(), tcp.src_port());
    Some(Segment { from, port: tcp.dst_port(), is_request: tcp.syn() && !tcp.ack() })
}

/// Whether a frame asks for a connection that a socket is opening already.
///
/// smoltcp gives it to the first socket that would have it, which may be one that listens: then two answer, and the client
/// resets them both. The socket that is opening sends its answer again by itself.
pub(crate) fn is_repeated_request(frame: &[u8], sockets: &SocketSet) -> bool {
    let Some(Segment { from, port, is_request: true }) = segment(frame) else { return false };
    sockets.iter().any(|(_, socket)| match socket {
        Socket::Tcp(socket) => {
            socket.state() == State::SynReceived
                && socket.remote_endpoint() == Some(from)
                && socket.local_endpoint().is_some_and(|local| local.port == port)
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use smoltcp::wire::{EthernetAddress, Ipv4Address};

    use super::*;

    fn frame(flags: fn(&mut TcpPacket<&mut [u8]>)) -> Vec<u8> {
        let mut bytes = vec![0; 14 + 20 + 20];
        let mut ethernet = EthernetFrame::new_unchecked(&mut bytes);
        ethernet.set_src_addr(EthernetAddress([2, 0, 0, 0, 0, 1]));
        ethernet.set_ethertype(EthernetProtocol::Ipv4);
        let mut ip = Ipv4Packet::new_unchecked(ethernet.payload_mut());
        ip.set_version(4);
        ip.set_header_len(20);
        ip.set_total_len(40);
        ip.set_next_header(IpProtocol::Tcp);
        ip.set_src_addr(Ipv4Address::new(10, 0, 0, 1));
        let mut tcp = TcpPacket::new_unchecked(ip.payload_mut());
        tcp.set_header_len(20);
        tcp.set_src_port(59626);
        tcp.set_dst_port(6379);
        flags(&mut tcp);
        bytes
    }

    #[test]
    fn only_a_syn_without_an_ack_asks_for_a_connection() {
        let from = IpEndpoint::new(Ipv4Address::new(10, 0, 0, 1).into(), 59626);
        let request = Segment { from, port: 6379, is_request: true };
        assert_eq!(segment(&frame(|tcp| tcp.set_syn(true))), Some(request));
        let other = Some(Segment { is_request: false, ..request });
        let answer = frame(|tcp| {
            tcp.set_syn(true);
            tcp.set_ack(true);
        });
        assert_eq!(segment(&answer), other);
        assert_eq!(segment(&frame(|tcp| tcp.set_ack(true))), other);
        for length in 0..54 {
            assert_eq!(segment(&frame(|tcp| tcp.set_syn(true))[..length]), None);
        }
    }
    #[test]
    fn a_later_fragment_has_no_header() {
        let mut bytes = frame(|tcp| tcp.set_syn(true));
        Ipv4Packet::new_unchecked(&mut bytes[14..]).set_frag_offset(1480);
        assert_eq!(segment(&bytes), None);
    }
}
