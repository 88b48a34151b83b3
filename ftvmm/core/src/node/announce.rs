//! The frames that tell the network where the VM is now: gratuitous ARP (RFC 5227) and RARP (RFC 903).
//!
//! Hosts learn nothing new from them (MAC and IP stay the same); switches learn the port.

use std::net::Ipv4Addr;

use super::config::{NetworkConfig, VmConfig};

/// A 6-byte Ethernet address.
pub type MacAddress = [u8; 6];

const BROADCAST: MacAddress = [0xff; 6];
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_RARP: u16 = 0x8035;

fn address_resolution(
    ethertype: u16,
    operation: u16,
    mac: MacAddress,
    sender: Ipv4Addr,
    target_mac: MacAddress,
    target: Ipv4Addr,
) -> Vec<u8> {
    let mut frame = Vec::with_capacity(60);
    frame.extend_from_slice(&BROADCAST);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&ethertype.to_be_bytes());
    frame.extend_from_slice(&[0, 1, 8, 0, 6, 4]); // Ethernet, IPv4, address lengths
    frame.extend_from_slice(&operation.to_be_bytes());
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&sender.octets());
    frame.extend_from_slice(&target_mac);
    frame.extend_from_slice(&target.octets());
    frame.resize(60, 0); // the least length of an Ethernet frame without its check sequence
    frame
}

/// The announcement of `mac`: a RARP request, which needs no IP address, and where the address is known a gratuitous
/// ARP request and reply.
pub fn frames(mac: MacAddress, address: Option<Ipv4Addr>) -> Vec<Vec<u8>> {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut frames = vec![address_resolution(ETHERTYPE_RARP, 3, mac, none, mac, none)];
    if let Some(address) = address {
        frames.push(address_resolution(ETHERTYPE_ARP, 1, mac, address, [0; 6], address));
        frames.push(address_resolution(ETHERTYPE_ARP, 2, mac, address, BROADCAST, address));
    }
    frames
}

/// The address that one of the VM's network devices is announced with: its own, or for the only one that of the
/// guest's arguments. Which of several they mean only the guest knows, and hosts that are told another's MAC for an
/// address send to it what is not its own.
pub fn address_of(device: &NetworkConfig, vm: &VmConfig) -> Option<Ipv4Addr> {
    let is_only = vm.network.len() == 1;
    device.address.or_else(|| address_in(&vm.arguments).filter(|_| is_only))
}

/// The address of `--ipv4=10.0.0.2/24` among a guest's arguments, as MirageOS guests take it.
fn address_in(arguments: &[String]) -> Option<Ipv4Addr> {
    let value = arguments.iter().find_map(|argument| argument.strip_prefix("--ipv4="))?;
    value.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_comes_from_the_vm_and_goes_to_everyone() {
        let mac = [2, 0, 0, 0, 0, 7];
        let all = frames(mac, Some(Ipv4Addr::new(10, 0, 0, 2)));
        assert_eq!(all.len(), 3);
        for frame in &all {
            assert_eq!(frame.len(), 60);
            assert_eq!(&frame[..12], [[0xff; 6], mac].concat());
        }
        assert_eq!(&all[1][28..32], &[10, 0, 0, 2], "sender protocol address");
        assert_eq!(&all[1][38..42], &[10, 0, 0, 2], "target protocol address: gratuitous");
    }

    #[test]
    fn the_address_is_read_off_the_arguments() {
        let arguments = ["--x".to_owned(), "--ipv4=10.0.0.2/24".to_owned()];
        assert_eq!(address_in(&arguments), Some(Ipv4Addr::new(10, 0, 0, 2)));
        assert_eq!(address_in(&["--ipv4=nonsense".to_owned()]), None);
    }
}
