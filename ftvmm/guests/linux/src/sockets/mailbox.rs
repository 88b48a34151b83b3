//! Datagrams that have come and were not read yet.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use crate::heap;
use crate::readiness::{Activity, Arrivals};

/// What a datagram counts for beside its bytes: Linux counts its own structures too (`SKB_TRUESIZE(0)`), which keeps the
/// number of empty datagrams in bounds.
pub(super) const OVERHEAD_BYTES: usize = 768;

/// The queue of a socket; A is what is known of a sender.
pub(super) struct Mailbox<A> {
    letters: RefCell<VecDeque<(A, Vec<u8>)>>,
    charged_bytes: Cell<usize>,
    capacity: Cell<usize>,
    arrivals: Arrivals,
}

/// The first datagram, as far as it fitted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Letter<A> {
    /// who has sent it
    pub from: A,
    /// bytes in the buffer
    pub count: usize,
    /// bytes that it has
    pub length: usize,
}

impl<A: Clone> Mailbox<A> {
    /// An empty one for so many bytes.
    pub(super) fn new(capacity: usize) -> Mailbox<A> {
        Mailbox {
            letters: RefCell::default(),
            charged_bytes: Cell::default(),
            capacity: Cell::new(capacity),
            arrivals: Arrivals::default(),
        }
    }

    /// Changes how many bytes it holds; what is in it stays.
    pub(super) fn set_capacity(&self, capacity: usize) {
        self.capacity.set(capacity);
    }

    /// Whether it takes another datagram. Linux looks at what was there before, not at the one that comes.
    pub(super) fn has_room(&self) -> bool {
        self.charged_bytes.get() < self.capacity.get()
    }

    /// Puts a datagram in; false where there is no room.
    pub(super) fn put(&self, from: A, bytes: &[u8]) -> bool {
        let mut copy = Vec::new();
        if !self.has_room() || heap::reserve(&mut copy, bytes.len()).is_err() {
            return false;
        }
        copy.extend_from_slice(bytes);
        self.charged_bytes.set(self.charged_bytes.get() + bytes.len() + OVERHEAD_BYTES);
        self.touch();
        self.letters.borrow_mut().push_back((from, copy));
        true
    }

    /// Takes the first datagram out, or looks at it; what does not fit is lost.
    pub(super) fn take(&self, buffer: &mut [u8], is_peek: bool) -> Option<Letter<A>> {
        let mut letters = self.letters.borrow_mut();
        let (from, bytes) = letters.front()?;
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        let letter = Letter { from: from.clone(), count, length: bytes.len() };
        if !is_peek {
            self.charged_bytes.set(self.charged_bytes.get().saturating_sub(letter.length + OVERHEAD_BYTES));
            letters.pop_front();
        }
        Some(letter)
    }

    /// The length of the first datagram.
    pub(super) fn first_length(&self) -> Option<usize> {
        self.letters.borrow().front().map(|(_, bytes)| bytes.len())
    }

    /// Datagrams in it.
    pub(super) fn count(&self) -> usize {
        self.letters.borrow().len()
    }

    /// Empties it; returns what is known of the senders.
    pub(super) fn clear(&self) -> Vec<A> {
        self.charged_bytes.set(0);
        self.letters.take().into_iter().map(|(from, _)| from).collect()
    }

    /// Something changes that poll tells of.
    pub(super) fn touch(&self) {
        self.arrivals.note(self.count() > 0);
    }

    /// What has arrived.
    pub(super) fn activity(&self) -> Activity {
        self.arrivals.activity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_keep_their_bounds() {
        let mailbox = Mailbox::new(10_000);
        assert!(mailbox.put('a', b"first"));
        assert!(mailbox.put('b', b""));
        let mut buffer = [0; 3];
        let letter = Letter { from: 'a', count: 3, length: 5 };
        assert_eq!(mailbox.take(&mut buffer, true), Some(Letter { ..letter }));
        assert_eq!(mailbox.take(&mut buffer, false), Some(letter));
        assert_eq!(&buffer, b"fir");
        assert_eq!(mailbox.first_length(), Some(0));
        assert_eq!(mailbox.take(&mut buffer, false), Some(Letter { from: 'b', count: 0, length: 0 }));
        assert_eq!(mailbox.take(&mut buffer, false), None);
    }

    #[test]
    fn a_full_one_refuses_until_something_is_read() {
        let mailbox = Mailbox::new(2 * OVERHEAD_BYTES);
        assert!(mailbox.put((), b"") && mailbox.put((), &[1; 100]));
        assert!(!mailbox.put((), b""));
        let before = mailbox.activity();
        assert!(mailbox.count() == 2 && before.last > before.since);
        mailbox.take(&mut [], false);
        assert!(mailbox.put((), b"") && mailbox.activity() > before);
        assert_eq!(mailbox.clear().len(), 2);
        assert!(mailbox.has_room());
        assert_eq!(mailbox.count(), 0);
    }
}
