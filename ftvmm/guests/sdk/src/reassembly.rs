//! Packets that come in fragments (RFC 791): what smoltcp puts together again takes memory and one of few buffers, so
//! that fragments that lead to nothing are dropped before they take one.

use smoltcp::config::REASSEMBLY_BUFFER_COUNT;
use smoltcp::time::Duration;
use smoltcp::wire::{EthernetFrame, EthernetProtocol, Ipv4Address, Ipv4Cidr, Ipv4Packet};

/// The most that a packet carries behind its header, in bytes: its length is told in 16 bits.
const PAYLOAD_BYTES_MAX: usize = 65_535 - 20;
/// How long a packet has its buffer from its first fragment on. The fragments are sent at once, so that what has not come
/// within this never comes; and a stranger who sends some of a packet's fragments keeps its buffer from others as long.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(1);

/// The most memory that the buffers take, in bytes. They grow without asking and never shrink. Growth doubles what is too
/// short for a packet, so that a buffer has less than twice the longest packet, and one at a time is there twice, the
/// shorter one shorter than that packet.
pub const BUFFERS_BYTES_MAX: usize = REASSEMBLY_BUFFER_COUNT * 2 * PAYLOAD_BYTES_MAX + PAYLOAD_BYTES_MAX;

/// Whether a frame has a fragment of a packet that is not for the guest, or that is longer than any packet.
pub(crate) fn is_vain_fragment(frame: &[u8], own: Ipv4Cidr) -> bool {
    let Ok(ethernet) = EthernetFrame::new_checked(frame) else { return false };
    if ethernet.ethertype() != EthernetProtocol::Ipv4 {
        return false;
    }
    let Ok(ip) = Ipv4Packet::new_checked(ethernet.payload()) else { return false };
    if !ip.more_frags() && ip.frag_offset() == 0 {
        return false;
    }
    let to = ip.dst_addr();
    let is_own = to == own.address() || to == Ipv4Address::BROADCAST || Some(to) == own.broadcast();
    !is_own || usize::from(ip.frag_offset()) + ip.payload().len() > PAYLOAD_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use smoltcp::wire::IpProtocol;

    use super::*;

    const OWN: Ipv4Cidr = Ipv4Cidr::new(Ipv4Address::new(10, 0, 0, 2), 24);

    /// A packet with 16 bytes behind its header.
    fn frame(to: [u8; 4], offset: u16, is_last: bool) -> Vec<u8> {
        let mut bytes = vec![0; 14 + 20 + 16];
        let mut ethernet = EthernetFrame::new_unchecked(&mut bytes);
        ethernet.set_ethertype(EthernetProtocol::Ipv4);
        let mut ip = Ipv4Packet::new_unchecked(ethernet.payload_mut());
        ip.set_version(4);
        ip.set_header_len(20);
        ip.set_total_len(36);
        ip.set_next_header(IpProtocol::Udp);
        ip.set_frag_offset(offset);
        ip.set_more_frags(!is_last);
        ip.set_dst_addr(Ipv4Address::from(to));
        bytes
    }

    #[test]
    fn fragments_for_others_are_vain_and_whole_packets_never() {
        for to in [[10, 0, 0, 2], [10, 0, 0, 255], [255, 255, 255, 255]] {
            for (offset, is_last) in [(0, true), (0, false), (8, false), (8, true)] {
                assert!(!is_vain_fragment(&frame(to, offset, is_last), OWN));
            }
        }
        let other = [10, 0, 0, 3];
        assert!(!is_vain_fragment(&frame(other, 0, true), OWN));
        for (offset, is_last) in [(0, false), (8, false), (8, true)] {
            let bytes = frame(other, offset, is_last);
            assert!(is_vain_fragment(&bytes, OWN));
            assert!((0..bytes.len()).all(|length| !is_vain_fragment(&bytes[..length], OWN)));
        }
    }

    #[test]
    fn fragments_behind_the_end_of_the_longest_packet_are_vain() {
        let longest = (PAYLOAD_BYTES_MAX - 16) / 8 * 8;
        assert!(!is_vain_fragment(&frame([10, 0, 0, 2], longest as u16, true), OWN));
        assert!(is_vain_fragment(&frame([10, 0, 0, 2], longest as u16 + 8, true), OWN));
    }
}
