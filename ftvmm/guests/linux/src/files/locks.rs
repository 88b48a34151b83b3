//! Locks on files: of ranges, which belong to the process or to one opening, and of whole files, which belong to an
//! opening.
//!
//! There is one process, so that its own locks on ranges exclude the openings' locks only.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::file_system::Node;

/// Whose a lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// the process's
    Process,
    /// one opening's
    Opening(u64),
}

/// A lock of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeLock {
    /// whose
    pub owner: Owner,
    /// whether it excludes every other lock, and not only those that do
    pub is_exclusive: bool,
    /// the first byte
    pub start: u64,
    /// behind the last byte
    pub end: u64,
}

/// A lock of a whole file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WholeLock {
    opening: u64,
    is_exclusive: bool,
}

/// All locks.
#[derive(Default)]
pub struct Locks {
    /// by file, in ascending order of their starts
    ranges: BTreeMap<Node, Vec<RangeLock>>,
    whole: BTreeMap<Node, Vec<WholeLock>>,
}

impl Locks {
    /// The first lock that excludes a wanted one.
    pub fn conflict(&self, node: Node, wanted: &RangeLock) -> Option<RangeLock> {
        let held = self.ranges.get(&node)?.iter();
        let mut conflicts = held.filter(|lock| {
            let is_other = lock.owner != wanted.owner && (lock.is_exclusive || wanted.is_exclusive);
            is_other && lock.start < wanted.end && wanted.start < lock.end
        });
        conflicts.next().copied()
    }

    /// Takes a lock, in place of what its owner has had there. The caller has looked for a conflict.
    pub fn take(&mut self, node: Node, wanted: RangeLock) {
        self.release(node, wanted.owner, wanted.start, wanted.end);
        let held = self.ranges.entry(node).or_default();
        let mut joined = wanted;
        // Neighbours of the same kind become one.
        held.retain(|lock| {
            let is_alike = lock.owner == joined.owner && lock.is_exclusive == joined.is_exclusive;
            let touches = is_alike && lock.start <= joined.end && joined.start <= lock.end;
            if touches {
                joined.start = joined.start.min(lock.start);
                joined.end = joined.end.max(lock.end);
            }
            !touches
        });
        held.push(joined);
        held.sort_by_key(|lock| lock.start);
    }

    /// Gives up what an owner has locked in a range.
    pub fn release(&mut self, node: Node, owner: Owner, start: u64, end: u64) {
        let Some(held) = self.ranges.get_mut(&node) else { return };
        let mut left = Vec::new();
        for lock in held.drain(..) {
            if lock.owner != owner || lock.end <= start || end <= lock.start {
                left.push(lock);
                continue;
            }
            if lock.start < start {
                left.push(RangeLock { end: start, ..lock });
            }
            if end < lock.end {
                left.push(RangeLock { start: end, ..lock });
            }
        }
        left.sort_by_key(|lock| lock.start);
        match left.is_empty() {
            true => drop(self.ranges.remove(&node)),
            false => *held = left,
        }
    }

    /// A descriptor of a file was closed: the process has no locks on it any more, whichever descriptor they came by.
    /// Returns whether that has changed anything.
    pub fn release_process(&mut self, node: Node) -> bool {
        let has_any = self.ranges.contains_key(&node);
        self.release(node, Owner::Process, 0, u64::MAX);
        has_any
    }

    /// Locks a whole file for an opening, or unlocks it (None). Returns whether that could be done; where it could
    /// not, the opening has no lock any more, as in Linux.
    pub fn lock_whole(&mut self, node: Node, opening: u64, exclusive: Option<bool>) -> bool {
        let held = self.whole.entry(node).or_default();
        let own = held.iter().position(|lock| lock.opening == opening);
        if let Some(own) = own {
            if exclusive == Some(held[own].is_exclusive) {
                return true;
            }
            held.remove(own);
        }
        let can_be_locked = match exclusive {
            Some(is_exclusive) => !held.iter().any(|lock| lock.is_exclusive || is_exclusive),
            None => true,
        };
        if let Some(is_exclusive) = exclusive.filter(|_| can_be_locked) {
            held.push(WholeLock { opening, is_exclusive });
        }
        if held.is_empty() {
            self.whole.remove(&node);
        }
        can_be_locked
    }

    /// An opening was closed.
    pub fn close(&mut self, node: Node, opening: u64) {
        self.release(node, Owner::Opening(opening), 0, u64::MAX);
        if self.whole.contains_key(&node) {
            self.lock_whole(node, opening, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: Node = Node { mount: 0, number: 1 };

    fn lock(owner: Owner, is_exclusive: bool, start: u64, end: u64) -> RangeLock {
        RangeLock { owner, is_exclusive, start, end }
    }

    fn try_take(locks: &mut Locks, wanted: RangeLock) -> bool {
        let is_free = locks.conflict(NODE, &wanted).is_none();
        if is_free {
            locks.take(NODE, wanted);
        }
        is_free
    }

    #[test]
    fn an_exclusive_range_excludes_other_openings_where_it_overlaps() {
        let mut locks = Locks::default();
        let (first, second) = (Owner::Opening(1), Owner::Opening(2));
        assert!(try_take(&mut locks, lock(first, true, 0, 10)));
        assert!(!try_take(&mut locks, lock(second, false, 9, 20)));
        assert!(try_take(&mut locks, lock(second, true, 10, 20)));
        assert_eq!(locks.conflict(NODE, &lock(second, true, 5, 15)), Some(lock(first, true, 0, 10)));
        assert!(try_take(&mut locks, lock(first, true, 0, 10)));
        locks.close(NODE, 1);
        assert!(try_take(&mut locks, lock(second, true, 0, u64::MAX)));
    }

    #[test]
    fn shared_ranges_exclude_exclusive_ones_only() {
        let mut locks = Locks::default();
        assert!(try_take(&mut locks, lock(Owner::Opening(1), false, 0, 10)));
        assert!(try_take(&mut locks, lock(Owner::Opening(2), false, 0, 10)));
        assert!(!try_take(&mut locks, lock(Owner::Process, true, 5, 6)));
        assert!(try_take(&mut locks, lock(Owner::Process, false, 5, 6)));
    }

    #[test]
    fn a_released_middle_splits_a_range_and_a_taken_one_joins_it() {
        let mut locks = Locks::default();
        let owner = Owner::Process;
        locks.take(NODE, lock(owner, true, 0, 30));
        locks.release(NODE, owner, 10, 20);
        assert_eq!(locks.ranges[&NODE], [lock(owner, true, 0, 10), lock(owner, true, 20, 30)]);
        locks.take(NODE, lock(owner, true, 10, 20));
        assert_eq!(locks.ranges[&NODE], [lock(owner, true, 0, 30)]);
        locks.take(NODE, lock(owner, false, 5, 10));
        assert_eq!(
            locks.ranges[&NODE],
            [lock(owner, true, 0, 5), lock(owner, false, 5, 10), lock(owner, true, 10, 30)]
        );
        assert!(locks.release_process(NODE));
        assert!(locks.ranges.is_empty());
        assert!(!locks.release_process(NODE));
    }

    #[test]
    fn whole_files_are_locked_by_openings() {
        let mut locks = Locks::default();
        assert!(locks.lock_whole(NODE, 1, Some(true)));
        assert!(!locks.lock_whole(NODE, 2, Some(false)));
        assert!(locks.lock_whole(NODE, 1, Some(false)));
        assert!(locks.lock_whole(NODE, 2, Some(false)));
        // An upgrade that fails loses what there was.
        assert!(!locks.lock_whole(NODE, 2, Some(true)));
        assert!(locks.lock_whole(NODE, 1, Some(true)));
        locks.close(NODE, 1);
        assert!(locks.whole.is_empty());
        assert!(locks.lock_whole(NODE, 2, None));
    }
}
