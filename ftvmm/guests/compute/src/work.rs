//! The work: rounds of scrambling a table in memory and hashing it, each round built on the one before, so that one wrong
//! bit anywhere changes the digest at the end.
#![no_std]

extern crate alloc;

use alloc::vec;
use alloc::vec::Vec;

use sha2::{Digest, Sha256};

const TABLE_WORDS: usize = 8192; // 64 KiB: more than the first-level cache

/// The state between two rounds.
pub struct Work {
    table: Vec<u64>,
    digest: [u8; 32],
}

impl Default for Work {
    fn default() -> Work {
        Work { table: vec![0; TABLE_WORDS], digest: [0; 32] }
    }
}

impl Work {
    /// One round: about 64 KiB written, read and hashed.
    pub fn round(&mut self) {
        let mut state = self.digest.chunks_exact(8).fold(0x9e37_79b9_7f4a_7c15, |state: u64, bytes| {
            bytes.iter().fold(state, |state, byte| state.rotate_left(9) ^ u64::from(*byte))
        });
        for index in 0..self.table.len() {
            // Marsaglia's xorshift64, and a read from a place that depends on it.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let other = self.table[state as usize % TABLE_WORDS];
            self.table[index] = self.table[index].rotate_left(5).wrapping_add(state) ^ other;
        }
        let mut hasher = Sha256::new();
        hasher.update(self.digest);
        for word in &self.table {
            hasher.update(word.to_le_bytes());
        }
        self.digest = hasher.finalize().into();
    }

    /// SHA-256 over all the rounds so far.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
}

#[cfg(test)]
mod tests {
    use super::Work;

    #[test]
    fn rounds_give_the_same_digest_every_time_and_another_one_each() {
        let mut digests = alloc::vec::Vec::new();
        for _ in 0..2 {
            let mut work = Work::default();
            for _ in 0..3 {
                work.round();
                digests.push(*work.digest());
            }
        }
        assert_eq!(digests[..3], digests[3..]);
        assert!(digests[0] != digests[1] && digests[1] != digests[2]);
    }
}
