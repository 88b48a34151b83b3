//! ioctl of sockets: bytes that wait, and the network interfaces of the guest (netdevice(7)).

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use linux_raw_sys::ioctl::{
    FIONREAD, SIOCATMARK, SIOCGIFADDR, SIOCGIFBRDADDR, SIOCGIFCONF, SIOCGIFFLAGS, SIOCGIFHWADDR, SIOCGIFINDEX,
    SIOCGIFMTU, SIOCGIFNAME, SIOCGIFNETMASK, TIOCOUTQ,
};
use linux_raw_sys::net::{AF_INET, IFNAMSIZ, net_device_flags};
use sdk::smoltcp::wire::HardwareAddress;

use super::Socket;
use crate::kernel::Kernel;
use crate::system_calls::{Errno, Outcome, errno};

const NAME_BYTES: u64 = IFNAMSIZ as u64;
/// The size of struct ifreq: a name and what is known of it.
const REQUEST_BYTES: u64 = 40;
const ADDRESS_BYTES: usize = 16;
/// ARPHRD_LOOPBACK and ARPHRD_ETHER (Linux's include/uapi/linux/if_arp.h).
const LOOPBACK_HARDWARE: u16 = 772;
const ETHERNET_HARDWARE: u16 = 1;
const LOOPBACK_MTU: i32 = 65_536;

/// A network interface.
struct Interface {
    index: i32,
    name: &'static str,
    address: Ipv4Addr,
    mask: Ipv4Addr,
    broadcast: Ipv4Addr,
    flags: u16,
    mtu: i32,
    hardware: (u16, [u8; 6]),
}

/// All interfaces: the loopback interface, and the network device where there is one.
fn interfaces(kernel: &Kernel) -> Vec<Interface> {
    let up = net_device_flags::IFF_UP as u32 | net_device_flags::IFF_RUNNING as u32;
    let loopback = net_device_flags::IFF_LOOPBACK as u32;
    let ethernet = net_device_flags::IFF_BROADCAST as u32 | net_device_flags::IFF_MULTICAST as u32;
    let mut all = alloc::vec![Interface {
        index: 1,
        name: "lo",
        address: Ipv4Addr::LOCALHOST,
        mask: Ipv4Addr::new(255, 0, 0, 0),
        broadcast: Ipv4Addr::UNSPECIFIED,
        flags: (up | loopback) as u16,
        mtu: LOOPBACK_MTU,
        hardware: (LOOPBACK_HARDWARE, [0; 6]),
    }];
    if let (Some(network), Some(addresses)) = (kernel.stack.network(), kernel.stack.addresses()) {
        let HardwareAddress::Ethernet(mac) = network.mac();
        all.push(Interface {
            index: 2,
            name: "eth0",
            address: addresses.address.address(),
            mask: addresses.address.netmask(),
            broadcast: addresses.address.broadcast().unwrap_or(Ipv4Addr::UNSPECIFIED),
            flags: (up | ethernet) as u16,
            mtu: network.mtu() as i32,
            hardware: (ETHERNET_HARDWARE, mac.0),
        });
    }
    all
}

/// An address as struct sockaddr_in.
fn encode(address: Ipv4Addr) -> [u8; ADDRESS_BYTES] {
    let mut bytes = [0; ADDRESS_BYTES];
    bytes[..2].copy_from_slice(&(AF_INET as u16).to_ne_bytes());
    bytes[4..8].copy_from_slice(&address.octets());
    bytes
}

/// A name as struct ifreq has it.
fn encode_name(name: &str) -> [u8; NAME_BYTES as usize] {
    let mut bytes = [0; NAME_BYTES as usize];
    for (to, from) in bytes.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    bytes
}

/// ioctl on a socket.
///
/// # Errors
/// ENOTTY for a request that is not known, EINVAL, ENODEV for an interface that is not there, EFAULT.
pub(super) fn control(kernel: &Kernel, socket: &Socket, request: u32, argument: u64) -> Outcome {
    let count = match request {
        FIONREAD => socket.transport.readable()?,
        TIOCOUTQ => socket.transport.unsent()?,
        SIOCATMARK => 0,
        SIOCGIFCONF => return list(kernel, argument),
        SIOCGIFNAME | SIOCGIFINDEX | SIOCGIFADDR | SIOCGIFNETMASK | SIOCGIFBRDADDR | SIOCGIFFLAGS | SIOCGIFMTU
        | SIOCGIFHWADDR => return tell(kernel, request, argument),
        _ => return Err(errno::ENOTTY.into()),
    };
    kernel.memory.put(argument, i32::try_from(count).unwrap_or(i32::MAX))?;
    Ok(0)
}

/// SIOCGIFCONF: names and addresses of all interfaces, as many as there is room for.
fn list(kernel: &Kernel, argument: u64) -> Outcome {
    let [room, buffer]: [u64; 2] = kernel.memory.get(argument)?;
    let room = u64::from(room as u32 & i32::MAX as u32);
    let mut length = 0;
    for interface in interfaces(kernel) {
        // Without a buffer the program asks how large it should be.
        if buffer != 0 {
            if length + REQUEST_BYTES > room {
                break;
            }
            let place = buffer.checked_add(length).ok_or(errno::EFAULT)?;
            kernel.memory.put(place, [0u64; REQUEST_BYTES as usize / 8])?;
            kernel.memory.put(place, encode_name(interface.name))?;
            kernel.memory.put(place + NAME_BYTES, encode(interface.address))?;
        }
        length += REQUEST_BYTES;
    }
    kernel.memory.put(argument, length as i32)?;
    Ok(0)
}

/// What is known of one interface.
fn tell(kernel: &Kernel, request: u32, argument: u64) -> Outcome {
    let mut bytes: [u8; REQUEST_BYTES as usize] = kernel.memory.get(argument)?;
    let place = argument + NAME_BYTES;
    let all = interfaces(kernel);
    if request == SIOCGIFNAME {
        let index: i32 = kernel.memory.get(place)?;
        let found = all.iter().find(|interface| interface.index == index).ok_or(errno::ENODEV)?;
        kernel.memory.put(argument, encode_name(found.name))?;
        return Ok(0);
    }
    bytes[NAME_BYTES as usize - 1] = 0;
    let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let found = all.iter().find(|interface| interface.name.as_bytes() == name).ok_or(errno::ENODEV)?;
    match request {
        SIOCGIFADDR => kernel.memory.put(place, encode(found.address)),
        SIOCGIFNETMASK => kernel.memory.put(place, encode(found.mask)),
        SIOCGIFBRDADDR => kernel.memory.put(place, encode(found.broadcast)),
        SIOCGIFFLAGS => kernel.memory.put(place, found.flags),
        SIOCGIFINDEX => kernel.memory.put(place, found.index),
        SIOCGIFMTU => kernel.memory.put(place, found.mtu),
        _ => put_hardware_address(kernel, place, found),
    }?;
    Ok(0)
}

fn put_hardware_address(kernel: &Kernel, place: u64, interface: &Interface) -> Result<(), Errno> {
    let (kind, address) = interface.hardware;
    let mut bytes = [0; ADDRESS_BYTES];
    bytes[..2].copy_from_slice(&kind.to_ne_bytes());
    bytes[2..8].copy_from_slice(&address);
    kernel.memory.put(place, bytes)
}
