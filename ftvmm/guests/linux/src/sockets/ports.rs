//! Port numbers: who holds which, and which are free.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

use crate::system_calls::{Errno, errno};

/// The ports from which one is chosen for a socket that names none (net.ipv4.ip_local_port_range).
const EPHEMERAL_FIRST: u16 = 32_768;
const EPHEMERAL_LAST: u16 = 60_999;
const EPHEMERAL_COUNT: u16 = EPHEMERAL_LAST - EPHEMERAL_FIRST + 1;

/// How a socket holds a port.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    /// for this address only, unless it is unspecified
    pub address: Ipv4Addr,
    /// SO_REUSEADDR
    pub shares_address: bool,
    /// SO_REUSEPORT
    pub shares_port: bool,
}

impl Claim {
    /// Whether both can hold one port. As `inet_csk_bind_conflict` in Linux's net/ipv4/inet_connection_sock.c.
    fn agrees_with(&self, other: &Claim, one_listens: bool) -> bool {
        let is_apart =
            !self.address.is_unspecified() && !other.address.is_unspecified() && self.address != other.address;
        let both_share_address = self.shares_address && other.shares_address && !one_listens;
        is_apart || both_share_address || (self.shares_port && other.shares_port)
    }
}

/// A port that a socket holds, until it is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    /// the port
    pub port: u16,
    number: u64,
}

struct Holder {
    number: u64,
    claim: Claim,
    is_listening: bool,
}

/// The ports of one protocol.
pub(super) struct Ports {
    holders: BTreeMap<u16, Vec<Holder>>,
    next_ephemeral: u16,
    next_number: u64,
}

impl Ports {
    /// All are free; the seed says which is chosen first.
    pub(super) fn new(seed: u64) -> Ports {
        let next_ephemeral = EPHEMERAL_FIRST + (seed % u64::from(EPHEMERAL_COUNT)) as u16;
        Ports { holders: BTreeMap::new(), next_ephemeral, next_number: 0 }
    }

    /// Takes that port.
    ///
    /// # Errors
    /// EADDRINUSE where another socket holds it and does not share it.
    pub(super) fn take(&mut self, port: u16, claim: Claim) -> Result<Hold, Errno> {
        let holders = self.holders.get(&port);
        let mut others = holders.into_iter().flatten();
        if others.any(|other| !claim.agrees_with(&other.claim, other.is_listening)) {
            return Err(errno::EADDRINUSE);
        }
        Ok(self.join(port, claim))
    }

    /// Takes any port that nobody holds.
    ///
    /// # Errors
    /// EADDRINUSE where there is none.
    pub(super) fn take_any(&mut self, claim: Claim) -> Result<Hold, Errno> {
        for _ in 0..EPHEMERAL_COUNT {
            let port = self.next_ephemeral;
            self.next_ephemeral = if port == EPHEMERAL_LAST { EPHEMERAL_FIRST } else { port + 1 };
            if !self.holders.contains_key(&port) {
                return Ok(self.join(port, claim));
            }
        }
        Err(errno::EADDRINUSE)
    }

    /// Takes a port together with those that hold it: for a connection that a listener has accepted.
    pub(super) fn join(&mut self, port: u16, claim: Claim) -> Hold {
        self.next_number += 1;
        let holder = Holder { number: self.next_number, claim, is_listening: false };
        self.holders.entry(port).or_default().push(holder);
        Hold { port, number: self.next_number }
    }

    /// The holder listens from now on, or no longer.
    ///
    /// # Errors
    /// EADDRINUSE where another one that holds the port listens too.
    pub(super) fn listen(&mut self, hold: Hold, listens: bool) -> Result<(), Errno> {
        let Some(holders) = self.holders.get_mut(&hold.port) else { return Ok(()) };
        let Some(index) = holders.iter().position(|holder| holder.number == hold.number) else { return Ok(()) };
        let claim = holders[index].claim;
        let conflicts = |other: &Holder| {
            other.number != hold.number && other.is_listening && !claim.agrees_with(&other.claim, true)
        };
        if listens && holders.iter().any(conflicts) {
            return Err(errno::EADDRINUSE);
        }
        holders[index].is_listening = listens;
        Ok(())
    }

    /// Gives a port back.
    pub(super) fn release(&mut self, hold: Hold) {
        if let Some(holders) = self.holders.get_mut(&hold.port) {
            holders.retain(|holder| holder.number != hold.number);
            if holders.is_empty() {
                self.holders.remove(&hold.port);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: Claim = Claim { address: Ipv4Addr::UNSPECIFIED, shares_address: false, shares_port: false };
    const SHARES_ADDRESS: Claim = Claim { shares_address: true, ..ALONE };
    const SHARES_PORT: Claim = Claim { shares_port: true, ..ALONE };

    fn ports() -> Ports {
        Ports::new(0)
    }

    #[test]
    fn a_port_is_held_by_one_socket_until_it_is_released() {
        let mut ports = ports();
        let hold = ports.take(80, ALONE).unwrap();
        assert_eq!(ports.take(80, ALONE), Err(errno::EADDRINUSE));
        assert_eq!(ports.take(80, SHARES_ADDRESS), Err(errno::EADDRINUSE));
        ports.release(hold);
        assert!(ports.take(80, ALONE).is_ok());
    }

    #[test]
    fn different_addresses_do_not_conflict_but_all_addresses_do() {
        let mut ports = ports();
        let at = |last| Claim { address: Ipv4Addr::new(127, 0, 0, last), ..ALONE };
        ports.take(80, at(1)).unwrap();
        assert!(ports.take(80, at(2)).is_ok());
        assert_eq!(ports.take(80, at(1)), Err(errno::EADDRINUSE));
        assert_eq!(ports.take(80, ALONE), Err(errno::EADDRINUSE));
    }

    #[test]
    fn a_shared_address_is_not_shared_with_a_listener() {
        let mut ports = ports();
        let first = ports.take(80, SHARES_ADDRESS).unwrap();
        let second = ports.take(80, SHARES_ADDRESS).unwrap();
        assert_eq!(ports.listen(first, true), Ok(()));
        assert_eq!(ports.listen(second, true), Err(errno::EADDRINUSE));
        assert_eq!(ports.take(80, SHARES_ADDRESS), Err(errno::EADDRINUSE));
        // What it has accepted outlives it, and does not keep the next one from the port.
        ports.join(80, SHARES_ADDRESS);
        ports.release(first);
        ports.release(second);
        let third = ports.take(80, SHARES_ADDRESS).unwrap();
        assert_eq!(ports.listen(third, true), Ok(()));
        assert_eq!(ports.take(80, ALONE), Err(errno::EADDRINUSE));
    }

    #[test]
    fn a_shared_port_has_several_listeners() {
        let mut ports = ports();
        for _ in 0..2 {
            let hold = ports.take(80, SHARES_PORT).unwrap();
            assert_eq!(ports.listen(hold, true), Ok(()));
        }
        assert_eq!(ports.take(80, SHARES_ADDRESS), Err(errno::EADDRINUSE));
    }

    #[test]
    fn ephemeral_ports_run_out_and_come_back() {
        let mut ports = Ports::new(u64::from(EPHEMERAL_COUNT) - 1);
        let first = ports.take_any(ALONE).unwrap();
        assert_eq!(first.port, EPHEMERAL_LAST);
        assert_eq!(ports.take_any(ALONE).unwrap().port, EPHEMERAL_FIRST);
        for _ in 2..EPHEMERAL_COUNT {
            ports.take_any(ALONE).unwrap();
        }
        assert_eq!(ports.take_any(ALONE), Err(errno::EADDRINUSE));
        ports.release(first);
        assert_eq!(ports.take_any(ALONE).unwrap().port, first.port);
    }
}
