//! The first block of the device: what it says about the rest.
//!
//! | bytes | what |
//! |---|---|
//! | 0 to 1023 | ext4 leaves them to boot loaders; here they hold a copy of the superblock, or the note that formatting began |
//! | 1024 to 2047 | the superblock |

use rsext4::endian::DiskFormat;
use rsext4::superblock::Ext4Superblock;

use crate::device::BLOCK_BYTES;

/// The first block.
pub(crate) type FirstBlock = [u8; BLOCK_BYTES];
/// Where the copy of the superblock is.
pub(crate) const COPY: core::ops::Range<usize> = 0..1024;
/// Where the superblock is.
pub(crate) const SUPERBLOCK: core::ops::Range<usize> = 1024..2048;

/// Fills a sector of 512 bytes while the device is being formatted, so that it is written whole or not at all.
const FORMATTING: &[u8; 32] = b"ftvmm: formatting has not ended\n";
const FORMATTING_SECTOR: core::ops::Range<usize> = 0..512;

/// What the first block says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// all zero: nothing was ever kept here
    Blank,
    /// formatting was cut off, so nothing was ever kept here either
    Unfinished,
    /// an ext4 file system
    FileSystem,
    /// an ext4 file system whose superblock was being written, and its copy, which is whole
    Torn,
    /// an ext4 superblock that is wrong, and no copy
    Damaged,
    /// something else
    Foreign,
}

pub(crate) fn look_at(block: &FirstBlock) -> Found {
    let (copy, superblock) = (&block[COPY], &block[SUPERBLOCK]);
    if block.iter().all(|byte| *byte == 0) {
        Found::Blank
    } else if block[FORMATTING_SECTOR] == formatting()[FORMATTING_SECTOR] {
        Found::Unfinished
    } else if is_whole(superblock) {
        Found::FileSystem
    } else if is_whole(copy) {
        Found::Torn
    } else if is_ext4(superblock) || is_ext4(copy) {
        Found::Damaged
    } else {
        Found::Foreign
    }
}

/// The first block of a device that is being formatted.
pub(crate) fn formatting() -> FirstBlock {
    let mut block = [0; BLOCK_BYTES];
    for place in block[FORMATTING_SECTOR].chunks_mut(FORMATTING.len()) {
        place.copy_from_slice(FORMATTING);
    }
    block
}

fn is_ext4(superblock: &[u8]) -> bool {
    // s_magic (Linux, `fs/ext4/ext4.h`).
    superblock[0x38..0x3a] == rsext4::EXT4_SUPER_MAGIC.to_le_bytes()
}

fn is_whole(superblock: &[u8]) -> bool {
    is_ext4(superblock) && Ext4Superblock::from_disk_bytes(superblock).verify_superblock().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_neither_blank_nor_ext4_is_left_alone() {
        assert_eq!(look_at(&[0; BLOCK_BYTES]), Found::Blank);
        assert_eq!(look_at(&formatting()), Found::Unfinished);
        let mut partition_table = [0; BLOCK_BYTES];
        partition_table[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(look_at(&partition_table), Found::Foreign);
        let mut last_byte = [0; BLOCK_BYTES];
        last_byte[BLOCK_BYTES - 1] = 1;
        assert_eq!(look_at(&last_byte), Found::Foreign);
    }
}
