//! Bytes on their way within the guest, with what goes with them: bounds of messages, and files that are handed over.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;

use super::mailbox::OVERHEAD_BYTES;
use crate::files::OpenFile;
use crate::heap::{self, Short};

/// A message that is to be told from those around it.
struct Mark {
    /// where it starts and ends, in bytes since the first
    start: u64,
    end: u64,
    files: Vec<Rc<OpenFile>>,
}

/// What was taken.
#[derive(Default)]
pub(super) struct Taken {
    /// bytes in the buffer
    pub count: usize,
    /// bytes that the message has
    pub length: usize,
    /// files that come with it
    pub files: Vec<Rc<OpenFile>>,
}

/// One direction of a connection.
pub(super) struct Queue {
    bytes: VecDeque<u8>,
    /// bytes that have left it
    taken: u64,
    /// every message where bounds are kept, else those with files
    marks: VecDeque<Mark>,
    keeps_bounds: bool,
}

impl Queue {
    /// An empty one that keeps the bounds of messages, or not.
    pub(super) fn new(keeps_bounds: bool) -> Queue {
        Queue { bytes: VecDeque::new(), taken: 0, marks: VecDeque::new(), keeps_bounds }
    }

    /// Bytes in it.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// What it counts for: messages whose bounds are kept count for more than their bytes.
    pub(super) fn charged(&self) -> usize {
        self.bytes.len() + if self.keeps_bounds { self.marks.len() * OVERHEAD_BYTES } else { 0 }
    }

    /// Whether there is nothing to take.
    pub(super) fn is_empty(&self) -> bool {
        if self.keeps_bounds { self.marks.is_empty() } else { self.bytes.is_empty() }
    }

    /// Puts a message in.
    ///
    /// # Errors
    /// Where memory is short.
    pub(super) fn put(&mut self, bytes: &[u8], files: &[Rc<OpenFile>]) -> Result<(), Short> {
        let before = self.bytes.capacity();
        self.bytes.try_reserve(bytes.len())?;
        if self.bytes.capacity() > before {
            heap::check().inspect_err(|_| self.bytes.shrink_to(before))?;
        }
        if self.keeps_bounds || !files.is_empty() {
            let start = self.taken + self.bytes.len() as u64;
            self.marks.push_back(Mark { start, end: start + bytes.len() as u64, files: files.to_vec() });
        }
        self.bytes.extend(bytes);
        Ok(())
    }

    /// Takes bytes out, or looks at them. As in Linux, nothing is taken together with what follows a message with files.
    pub(super) fn take(&mut self, buffer: &mut [u8], is_peek: bool) -> Taken {
        let mut taken = Taken { count: self.bytes.len().min(buffer.len()), ..Taken::default() };
        let reached = self.taken + taken.count as u64;
        let mark = self.marks.front().filter(|mark| self.keeps_bounds || mark.start < reached);
        taken.length = taken.count;
        if let Some(mark) = mark {
            taken.length = (mark.end - self.taken) as usize;
            taken.count = taken.length.min(buffer.len());
            taken.files = mark.files.clone();
        }
        self.copy(&mut buffer[..taken.count]);
        if !is_peek {
            if mark.is_some() {
                self.marks.pop_front();
            }
            let gone = if self.keeps_bounds { taken.length } else { taken.count };
            self.bytes.drain(..gone);
            self.taken += gone as u64;
        }
        taken
    }

    fn copy(&self, buffer: &mut [u8]) {
        let (front, back) = self.bytes.as_slices();
        let first = front.len().min(buffer.len());
        let second = buffer.len() - first;
        buffer[..first].copy_from_slice(&front[..first]);
        buffer[first..].copy_from_slice(&back[..second]);
    }

    /// Empties it; returns the files that nobody has taken over.
    pub(super) fn clear(&mut self) -> Vec<Rc<OpenFile>> {
        self.bytes = VecDeque::new();
        self.marks.drain(..).flat_map(|mark| mark.files).collect()
    }
}

#[cfg(test)]
mod tests {
    use core::any::Any;
    use core::cell::Cell;

    use linux_raw_sys::general::stat;

    use super::*;
    use crate::files::Object;
    use crate::files::file_system::empty_status;
    use crate::kernel::Kernel;

    struct Fake;

    impl Object for Fake {
        fn metadata(&self, _: &Kernel) -> stat {
            empty_status(0, 0)
        }

        fn as_any(&self) -> &dyn Any {
            self
        }
    }

    fn file() -> Rc<OpenFile> {
        Rc::new(OpenFile { object: Rc::new(Fake), flags: Cell::new(0) })
    }

    fn take(queue: &mut Queue, size: usize) -> (Vec<u8>, usize, usize) {
        let mut buffer = vec![0; size];
        let taken = queue.take(&mut buffer, false);
        buffer.truncate(taken.count);
        (buffer, taken.length, taken.files.len())
    }

    #[test]
    fn a_stream_has_no_bounds() {
        let mut queue = Queue::new(false);
        queue.put(b"hello", &[]).unwrap();
        queue.put(b"world", &[]).unwrap();
        assert_eq!(take(&mut queue, 7), (b"hellowo".to_vec(), 7, 0));
        assert_eq!(take(&mut queue, 7), (b"rld".to_vec(), 3, 0));
        assert!(queue.is_empty());
    }

    #[test]
    fn messages_keep_their_bounds() {
        let mut queue = Queue::new(true);
        queue.put(b"first", &[]).unwrap();
        queue.put(b"", &[file()]).unwrap();
        queue.put(b"third", &[]).unwrap();
        assert_eq!(take(&mut queue, 2), (b"fi".to_vec(), 5, 0));
        assert!(!queue.is_empty());
        assert_eq!(take(&mut queue, 9), (vec![], 0, 1));
        assert_eq!(take(&mut queue, 9), (b"third".to_vec(), 5, 0));
        assert!(queue.is_empty());
    }

    #[test]
    fn files_come_with_the_first_byte_of_their_message_and_end_a_read_with_its_last() {
        let mut queue = Queue::new(false);
        queue.put(b"before", &[]).unwrap();
        queue.put(b"with", &[file(), file()]).unwrap();
        queue.put(b"behind", &[]).unwrap();
        let mut buffer = [0; 64];
        assert_eq!(queue.take(&mut buffer, true).files.len(), 2);
        assert_eq!(take(&mut queue, 4), (b"befo".to_vec(), 4, 0));
        assert_eq!(take(&mut queue, 64), (b"rewith".to_vec(), 6, 2));
        assert_eq!(take(&mut queue, 64), (b"behind".to_vec(), 6, 0));
        queue.put(b"lost", &[file()]).unwrap();
        assert_eq!(queue.clear().len(), 1);
        assert!(queue.is_empty());
    }
}
