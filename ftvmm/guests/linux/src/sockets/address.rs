//! Socket addresses: as the program's structures hold them, and as the sockets do.

use alloc::vec::Vec;
use core::mem::size_of;
use core::net::{Ipv4Addr, SocketAddrV4};

use linux_raw_sys::net::{__kernel_sockaddr_storage, AF_INET, AF_UNIX, AF_UNSPEC, sockaddr_in, sockaddr_un};

use crate::files::file_system::Node;
use crate::memory::Memory;
use crate::system_calls::{Errno, errno};

/// The family, which is in front of each address.
const FAMILY_BYTES: usize = 2;
const INET_BYTES: usize = size_of::<sockaddr_in>();
const UNIX_BYTES: usize = size_of::<sockaddr_un>();
const STORAGE_BYTES: i32 = size_of::<__kernel_sockaddr_storage>() as i32;

/// No address and no port: what a socket has before it is bound.
pub(super) const NOWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);

/// The name of a socket of the Unix domain.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) enum Name {
    /// it has none
    #[default]
    Unnamed,
    /// a path in the file system
    Path(Vec<u8>),
    /// a name of its own space; the zero in front is not a part of it
    Abstract(Vec<u8>),
}

/// An address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// AF_UNSPEC: dissolves a connection
    Unspecified,
    /// AF_INET
    Inet(SocketAddrV4),
    /// AF_UNIX
    Unix {
        /// the name
        name: Name,
        /// the file that a path leads to
        node: Option<Node>,
    },
}

impl Address {
    /// The address of a socket of the Unix domain, to be told.
    pub(super) fn named(name: Name) -> Address {
        Address::Unix { name, node: None }
    }

    /// The address as the program's structure holds it.
    fn encode(&self) -> Vec<u8> {
        match self {
            Address::Unspecified => (AF_UNSPEC as u16).to_ne_bytes().to_vec(),
            Address::Inet(address) => {
                let mut bytes = Vec::with_capacity(INET_BYTES);
                bytes.extend((AF_INET as u16).to_ne_bytes());
                bytes.extend(address.port().to_be_bytes());
                bytes.extend(address.ip().octets());
                bytes.resize(INET_BYTES, 0);
                bytes
            }
            Address::Unix { name, .. } => {
                let mut bytes = (AF_UNIX as u16).to_ne_bytes().to_vec();
                match name {
                    Name::Unnamed => {}
                    Name::Path(path) => {
                        bytes.extend(path);
                        bytes.push(0);
                    }
                    Name::Abstract(name) => {
                        bytes.push(0);
                        bytes.extend(name);
                    }
                }
                bytes
            }
        }
    }
}

/// The bytes of an address that the program hands over.
///
/// # Errors
/// EINVAL for a length that no address has, EFAULT.
pub(super) fn read(memory: &Memory, address: u64, length: i32) -> Result<&'static [u8], Errno> {
    if !(0..=STORAGE_BYTES).contains(&length) {
        return Err(errno::EINVAL);
    }
    memory.bytes(address, length as u64)
}

fn family(bytes: &[u8]) -> Option<u32> {
    let family = bytes.first_chunk::<FAMILY_BYTES>()?;
    Some(u32::from(u16::from_ne_bytes(*family)))
}

/// An address of the internet, to connect to or to send to.
///
/// # Errors
/// EINVAL for one that is too short, EAFNOSUPPORT for another family.
pub(super) fn decode_inet(bytes: &[u8]) -> Result<Address, Errno> {
    let family = family(bytes).ok_or(errno::EINVAL)?;
    if family == AF_UNSPEC {
        return Ok(Address::Unspecified);
    }
    let bytes = bytes.first_chunk::<INET_BYTES>().ok_or(errno::EINVAL)?;
    if family != AF_INET {
        return Err(errno::EAFNOSUPPORT);
    }
    Ok(Address::Inet(inet(bytes)))
}

fn inet(bytes: &[u8; INET_BYTES]) -> SocketAddrV4 {
    let [_, _, high, low, a, b, c, d, ..] = *bytes;
    SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low]))
}

/// An address of the internet, to bind to: AF_UNSPEC stands for AF_INET where the address is zero.
///
/// # Errors
/// EINVAL for one that is too short, EAFNOSUPPORT for another family.
pub(super) fn decode_inet_to_bind(bytes: &[u8]) -> Result<Address, Errno> {
    let whole = bytes.first_chunk::<INET_BYTES>().ok_or(errno::EINVAL)?;
    let address = inet(whole);
    match family(bytes) {
        Some(AF_INET) => Ok(Address::Inet(address)),
        Some(AF_UNSPEC) if address.ip().is_unspecified() => Ok(Address::Inet(address)),
        _ => Err(errno::EAFNOSUPPORT),
    }
}

/// A name of the Unix domain; an address that is the family alone has none.
///
/// # Errors
/// EINVAL for another family, or a length that no name has.
pub(super) fn decode_unix(bytes: &[u8]) -> Result<Name, Errno> {
    if family(bytes) != Some(AF_UNIX) || bytes.len() > UNIX_BYTES {
        return Err(errno::EINVAL);
    }
    Ok(match &bytes[FAMILY_BYTES..] {
        [] => Name::Unnamed,
        [0, name @ ..] => Name::Abstract(name.to_vec()),
        path => Name::Path(path.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()),
    })
}

/// Tells the program an address: as many bytes as it has room for, and how long the address is. None is an address of no
/// length.
///
/// # Errors
/// EFAULT; EINVAL where it says that it has less room than none.
pub(super) fn write(memory: &Memory, address: Option<&Address>, to: u64, length_at: u64) -> Result<(), Errno> {
    let bytes = address.map(Address::encode).unwrap_or_default();
    let room: i32 = memory.get(length_at)?;
    let count = usize::try_from(room).map_err(|_| errno::EINVAL)?.min(bytes.len());
    memory.bytes_mut(to, count as u64)?.copy_from_slice(&bytes[..count]);
    memory.put(length_at, bytes.len() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inet_addresses_are_in_network_order() {
        let address = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 2), 6379);
        let bytes = Address::Inet(address).encode();
        assert_eq!(bytes, [2, 0, 0x18, 0xeb, 10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(decode_inet(&bytes), Ok(Address::Inet(address)));
        assert_eq!(decode_inet_to_bind(&bytes), Ok(Address::Inet(address)));
        assert_eq!(decode_inet(&bytes[..15]), Err(errno::EINVAL));
        assert_eq!(decode_inet(&[0, 0]), Ok(Address::Unspecified));
        assert_eq!(decode_inet(&[10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Err(errno::EAFNOSUPPORT));
        assert_eq!(decode_inet_to_bind(&[0; 16]), Ok(Address::Inet(NOWHERE)));
        assert_eq!(decode_inet_to_bind(&[0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Err(errno::EAFNOSUPPORT));
    }

    #[test]
    fn unix_names_are_paths_or_abstract() {
        assert_eq!(decode_unix(b"\x01\0/tmp/s\0rest"), Ok(Name::Path(b"/tmp/s".to_vec())));
        assert_eq!(decode_unix(b"\x01\0/tmp/s"), Ok(Name::Path(b"/tmp/s".to_vec())));
        assert_eq!(decode_unix(b"\x01\0\0a\0b"), Ok(Name::Abstract(b"a\0b".to_vec())));
        assert_eq!(decode_unix(b"\x01\0"), Ok(Name::Unnamed));
        assert_eq!(decode_unix(b"\x02\0/tmp"), Err(errno::EINVAL));
        assert_eq!(decode_unix(&[1; 111]), Err(errno::EINVAL));
        assert_eq!(Address::named(Name::Path(b"/s".to_vec())).encode(), b"\x01\0/s\0");
        assert_eq!(Address::named(Name::Abstract(b"s".to_vec())).encode(), b"\x01\0\0s");
        assert_eq!(Address::named(Name::Unnamed).encode(), b"\x01\0");
    }
}
