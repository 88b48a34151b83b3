//! Which addresses of the own network nobody has answered for: the network stack keeps that to itself.

use alloc::vec::Vec;

use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetFrame, EthernetProtocol, Ipv4Address};

/// So many open questions are remembered; older ones are forgotten.
const QUESTIONS_MAX: usize = 64;

/// Questions who has an address (ARP, RFC 826) that are open.
#[derive(Default)]
pub(crate) struct Resolution {
    open: Vec<Ipv4Address>,
}

/// What an Ethernet frame asks or answers: the operation, the sender's address and the target's.
fn message(frame: &[u8]) -> Option<(ArpOperation, Ipv4Address, Ipv4Address)> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    if ethernet.ethertype() != EthernetProtocol::Arp {
        return None;
    }
    match ArpRepr::parse(&ArpPacket::new_checked(ethernet.payload()).ok()?).ok()? {
        ArpRepr::EthernetIpv4 { operation, source_protocol_addr, target_protocol_addr, .. } => {
            Some((operation, source_protocol_addr, target_protocol_addr))
        }
        _ => None,
    }
}

impl Resolution {
    /// A frame goes out: it may ask.
    pub(crate) fn sent(&mut self, frame: &[u8]) {
        if let Some((ArpOperation::Request, _, target)) = message(frame)
            && !self.is_open(target)
        {
            if self.open.len() >= QUESTIONS_MAX {
                self.open.remove(0);
            }
            self.open.push(target);
        }
    }

    /// A frame has come in: whoever sends such a message is there.
    pub(crate) fn received(&mut self, frame: &[u8]) {
        if !self.open.is_empty()
            && let Some((_, sender, _)) = message(frame)
        {
            self.open.retain(|asked| *asked != sender);
        }
    }

    /// Whether the question for that address is open.
    pub(crate) fn is_open(&self, address: Ipv4Address) -> bool {
        self.open.contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use smoltcp::wire::{EthernetAddress, EthernetRepr};

    use super::*;

    const OWN: Ipv4Address = Ipv4Address::new(10, 0, 0, 2);
    const OTHER: Ipv4Address = Ipv4Address::new(10, 0, 0, 1);

    fn frame(operation: ArpOperation, source: Ipv4Address, target: Ipv4Address) -> Vec<u8> {
        let mut bytes = vec![0; 14 + 28];
        let mut ethernet = EthernetFrame::new_unchecked(&mut bytes);
        let addresses = (EthernetAddress([2, 0, 0, 0, 0, 1]), EthernetAddress([2, 0, 0, 0, 0, 2]));
        EthernetRepr { src_addr: addresses.0, dst_addr: addresses.1, ethertype: EthernetProtocol::Arp }
            .emit(&mut ethernet);
        let message = ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: addresses.0,
            source_protocol_addr: source,
            target_hardware_addr: addresses.1,
            target_protocol_addr: target,
        };
        message.emit(&mut ArpPacket::new_unchecked(ethernet.payload_mut()));
        bytes
    }

    #[test]
    fn a_question_is_open_until_its_target_speaks() {
        let mut resolution = Resolution::default();
        resolution.sent(&frame(ArpOperation::Request, OWN, OTHER));
        assert!(resolution.is_open(OTHER));
        resolution.received(&frame(ArpOperation::Reply, Ipv4Address::new(10, 0, 0, 9), OWN));
        assert!(resolution.is_open(OTHER));
        resolution.received(&frame(ArpOperation::Reply, OTHER, OWN));
        assert!(!resolution.is_open(OTHER));
    }

    #[test]
    fn answers_and_other_frames_ask_nothing() {
        let mut resolution = Resolution::default();
        resolution.sent(&frame(ArpOperation::Reply, OWN, OTHER));
        for length in 0..42 {
            resolution.sent(&frame(ArpOperation::Request, OWN, OTHER)[..length]);
        }
        assert!(!resolution.is_open(OTHER));
    }
}
