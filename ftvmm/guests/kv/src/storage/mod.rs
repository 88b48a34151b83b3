//! The storage log: how the data is kept on the block device.
//!
//! **Layout.** Two copies of the [`superblock`] (at 0 and 4096), then two halves of the rest, one of which holds the log.
//! A log is a row of batches. A batch is what one commit writes with one block write: first the records, as one stream of
//! bytes over as many sectors as it needs, then the *directory*, which repeats of each record its kind, a digest of its key
//! and its place. Each sector carries its own checksum, the log's random name, the batch's number and its place in the
//! batch ([`sector`]), each record its own checksum again ([`record`]).
//!
//! **Order.** A batch is down before any reply that depends on it. When the half is full, the live data is copied to the
//! other half under a new log name, and then both superblock copies are switched; an acknowledgement never comes between
//! the two. Sectors of another log name are the remains of older logs and count as blank.
//!
//! **Damage and torn writes.** A sector is written whole or not at all. So a batch that was cut off has sectors that are
//! blank, and is dropped if it is the last one (its commit never returned); a sector that is neither blank nor right was
//! damaged. Damage is judged so ([`recovery`]):
//!
//! | what is lost | what follows |
//! |---|---|
//! | a sector of records | the directory tells the keys: each is *damaged* until it is written again |
//! | a sector of the directory | nothing, the records are all there |
//! | both, or a whole batch | every key that is not written later is *damaged* |
//! | a copy of the superblock | nothing, the other one holds |
//! | both copies | the guest refuses to start |
//!
//! Reading a damaged key is an error, never an old value and never "no such key". What no log can see is a device that
//! forgets the newest batches altogether.

pub mod batch;
pub mod disk;
pub mod journal;
pub mod record;
pub mod recovery;
pub mod sector;
pub mod superblock;

#[cfg(test)]
pub(crate) mod tests;
