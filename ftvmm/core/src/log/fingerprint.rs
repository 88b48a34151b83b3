//! The fingerprint chain: one short value that stands for everything the guest has asked and been told.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The first 16 bytes of a BLAKE3 hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Fingerprint(pub [u8; 16]);

impl Fingerprint {
    /// The fingerprint of some bytes on their own, outside of any chain.
    pub fn of(bytes: &[u8]) -> Fingerprint {
        Fingerprint::from_hash(blake3::hash(bytes))
    }

    pub(crate) fn from_hash(hash: blake3::Hash) -> Fingerprint {
        let mut short = [0; 16];
        short.copy_from_slice(&hash.as_bytes()[..16]);
        Fingerprint(short)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Fingerprint({self})")
    }
}

/// A running hash in which each link covers all links before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    head: Fingerprint,
}

impl Chain {
    /// A chain that starts at `origin`, the fingerprint of what was there before the first link.
    pub fn new(origin: Fingerprint) -> Chain {
        Chain { head: origin }
    }

    /// Adds one link made of several parts.
    ///
    /// Each part's length is hashed before it, so that moving a boundary between parts changes the chain.
    pub fn link(&mut self, parts: &[&[u8]]) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.head.0);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        self.head = Fingerprint::from_hash(hasher.finalize());
    }

    /// The fingerprint of all links so far.
    pub fn head(&self) -> Fingerprint {
        self.head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_between_parts_count() {
        let mut one = Chain::new(Fingerprint::default());
        let mut other = one.clone();
        one.link(&[b"ab", b"c"]);
        other.link(&[b"a", b"bc"]);
        assert_ne!(one.head(), other.head());
    }

    #[test]
    fn order_of_links_counts() {
        let mut one = Chain::new(Fingerprint::default());
        let mut other = one.clone();
        one.link(&[b"a"]);
        one.link(&[b"b"]);
        other.link(&[b"b"]);
        other.link(&[b"a"]);
        assert_ne!(one.head(), other.head());
    }

    #[test]
    fn is_printed_as_hexadecimal() {
        assert_eq!(Fingerprint([0xab; 16]).to_string(), "ab".repeat(16));
    }
}
