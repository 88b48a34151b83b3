//! The log in memory, in two halves: what a primary may still have to send, and what a backup holds and has yet to replay.
//!
//! Both have the same bound in bytes, and none drops anything at it: the primary's guest waits until more is acknowledged, and the backup
//! takes nothing from its socket until more is replayed. An entry that is larger than the bound is let into a log that is empty.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::lab::rule;
use crate::lock::{Condvar, Mutex};
use crate::protocol::LogPosition;

/// Encoded entries of consecutive positions.
#[derive(Debug, Default)]
struct Entries {
    /// Shared with whoever replays them: nobody copies under the lock, which the node's thread waits for.
    held: VecDeque<Arc<Vec<u8>>>,
    /// Position of the entry before the first that is held.
    forgotten: LogPosition,
    bytes: usize,
}

impl Entries {
    fn newest(&self) -> LogPosition {
        self.forgotten.after(self.held.len() as u64)
    }

    fn has_room(&self, length: usize, bytes_max: usize) -> bool {
        self.held.is_empty() || self.bytes + length <= bytes_max
    }

    fn push(&mut self, bytes: Arc<Vec<u8>>) {
        self.bytes += bytes.len();
        self.held.push_back(bytes);
    }

    /// Those from this position on; none where it is forgotten.
    fn from(&self, position: LogPosition) -> impl Iterator<Item = &Arc<Vec<u8>>> {
        let skip = position.since(self.forgotten).checked_sub(1).map_or(self.held.len(), |skip| skip as usize);
        self.held.iter().skip(skip)
    }

    /// Takes out those up to and including `through`: their memory goes back without the lock.
    fn forget(&mut self, through: LogPosition) -> Vec<Arc<Vec<u8>>> {
        let count = through.since(self.forgotten).min(self.held.len() as u64);
        let forgotten: Vec<_> = self.held.drain(..count as usize).collect();
        self.bytes -= forgotten.iter().map(|bytes| bytes.len()).sum::<usize>();
        self.forgotten = self.forgotten.after(count);
        forgotten
    }

    /// Nothing is held, and the next position is the one after this.
    fn restart_at(&mut self, position: LogPosition) {
        *self = Entries { forgotten: position, ..Entries::default() };
    }
}

/// A run of consecutive entries, as it goes into one frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Batch {
    /// position of the first entry
    pub first: LogPosition,
    /// how many entries `bytes` holds
    pub count: u32,
    /// the entries, each with its length before it
    pub bytes: Vec<u8>,
}

impl Batch {
    /// Position of the last entry.
    pub fn last(&self) -> LogPosition {
        self.first.after(u64::from(self.count) - 1)
    }
}

#[derive(Debug, Default)]
struct Sending {
    entries: Entries,
    /// The guest waits for room.
    waiting: bool,
    /// Positions that may be sent: the vCPU flushes when an output waits or the guest idles.
    flushed: LogPosition,
    stopped: bool,
}

/// The primary's half: from its vCPU to the logging channel.
#[derive(Debug)]
pub struct SendLog {
    state: Mutex<Sending>,
    changed: Condvar,
    bytes_max: usize,
}

impl SendLog {
    /// An empty log that holds at most `bytes_max` bytes before [`SendLog::append`] waits.
    pub fn new(bytes_max: usize) -> SendLog {
        SendLog { state: Mutex::default(), changed: Condvar::new(), bytes_max }
    }

    /// Whether an entry of `length` bytes fits without waiting. Only [`SendLog::append`] takes room away.
    pub fn has_room(&self, length: usize) -> bool {
        self.state.lock().entries.has_room(length, self.bytes_max)
    }

    /// Appends the entry at the next position, waiting while the log is full (the stall of lag control). Returns `false` when the node
    /// stops meanwhile.
    pub fn append(&self, bytes: Vec<u8>) -> bool {
        let bytes = Arc::new(bytes);
        let mut state = self.state.lock();
        if !state.entries.has_room(bytes.len(), self.bytes_max) {
            state.flushed = state.entries.newest();
        }
        while !state.entries.has_room(bytes.len(), self.bytes_max) && !state.stopped {
            state.waiting = true;
            self.changed.wait(&mut state);
        }
        state.waiting = false;
        if !state.stopped {
            state.entries.push(bytes);
        }
        !state.stopped
    }

    /// Everything that was appended may be sent now.
    pub fn flush(&self) {
        let mut state = self.state.lock();
        state.flushed = state.entries.newest();
    }

    /// The entries from `from` on that are flushed: at most `entries_max`, and beyond the first no more than fit in `bytes_max`. `None`
    /// when there is nothing to send.
    pub fn batch(&self, from: LogPosition, entries_max: usize, bytes_max: usize) -> Option<Batch> {
        let state = self.state.lock();
        let ready = state.flushed.next().since(from) as usize;
        let mut batch = Batch { first: from, count: 0, bytes: Vec::new() };
        for bytes in state.entries.from(from).take(ready.min(entries_max)) {
            if batch.count > 0 && batch.bytes.len() + bytes.len() > bytes_max {
                break;
            }
            batch.bytes.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            batch.bytes.extend_from_slice(bytes);
            batch.count += 1;
        }
        (batch.count > 0).then_some(batch)
    }

    /// Forgets the entries up to and including `through`.
    pub fn truncate(&self, through: LogPosition) {
        let forgotten = self.state.lock().entries.forget(through);
        if !forgotten.is_empty() {
            self.changed.notify_all();
        }
    }

    /// Nothing of the log is needed any more: the VM goes on from this position without a backup.
    pub fn restart_at(&self, position: LogPosition) {
        let mut state = self.state.lock();
        state.entries.restart_at(position);
        state.flushed = position;
        self.changed.notify_all();
    }

    /// Bytes held: what is not acknowledged.
    pub fn bytes(&self) -> usize {
        self.state.lock().entries.bytes
    }

    /// Whether the guest waits for room.
    pub fn stalls(&self) -> bool {
        self.state.lock().waiting
    }

    /// The node stops: nobody waits any more.
    pub fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }
}

/// What a replaying vCPU gets next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// the entry at the position that was asked for
    Entry(Arc<Vec<u8>>),
    /// the log is closed, and replay has come to its end
    Drained {
        /// the position at which it was closed
        closed: LogPosition,
    },
    /// the node stops
    Stopped,
}

#[derive(Debug, Default)]
struct Replaying {
    entries: Entries,
    /// When each of them came here, in CLOCK_BOOTTIME nanoseconds.
    came_at: VecDeque<u64>,
    /// A candidate closes its log: nothing is stored any more, and replay ends here.
    closed: Option<LogPosition>,
    stopped: bool,
}

/// The backup's half: from the logging channel to its vCPU.
#[derive(Debug)]
pub struct ReplayLog {
    state: Mutex<Replaying>,
    changed: Condvar,
    bytes_max: usize,
}

impl ReplayLog {
    /// An empty log that holds at most `bytes_max` bytes before [`ReplayLog::has_room`] says no.
    pub fn new(bytes_max: usize) -> ReplayLog {
        ReplayLog { state: Mutex::default(), changed: Condvar::new(), bytes_max }
    }

    /// Whether a frame of `length` bytes fits. Only [`ReplayLog::store`] takes room away.
    pub fn has_room(&self, length: usize) -> bool {
        self.state.lock().entries.has_room(length, self.bytes_max)
    }

    /// Stores entries behind the newest one held. Returns the newest position held, or `None` when `first` is not the next position or the
    /// log is closed (R6: only contiguous entries are held). Replay hears of them by [`ReplayLog::wake`]: they are acknowledged first.
    pub fn store(&self, first: LogPosition, entries: Vec<Vec<u8>>, now_nanoseconds: u64) -> Option<LogPosition> {
        let mut state = self.state.lock();
        if state.closed.is_some() || first != state.entries.newest().next() {
            return None;
        }
        for bytes in entries {
            state.entries.push(Arc::new(bytes));
            state.came_at.push_back(now_nanoseconds);
        }
        Some(state.entries.newest())
    }

    /// Replay looks at the log again.
    pub fn wake(&self) {
        let _state = self.state.lock();
        self.changed.notify_all();
    }

    /// The newest position held.
    pub fn newest(&self) -> LogPosition {
        self.state.lock().entries.newest()
    }

    /// Waits for the entry at `position`, which must not lie before what was truncated.
    pub fn wait_for(&self, position: LogPosition) -> Next {
        let mut state = self.state.lock();
        loop {
            if state.stopped {
                return Next::Stopped;
            }
            if let Some(closed) = state.closed
                && position > if rule!(whole_entries) { closed } else { closed.min(state.entries.newest()) }
            {
                return Next::Drained { closed };
            }
            if position <= state.entries.forgotten && !rule!(drained_before_ask) {
                // Live already, while replay still had entries to come to.
                return Next::Drained { closed: state.entries.forgotten };
            }
            if let Some(bytes) = state.entries.from(position).next() {
                return Next::Entry(bytes.clone());
            }
            self.changed.wait(&mut state);
        }
    }

    /// Forgets the entries up to and including `through`: they are replayed.
    pub fn truncate(&self, through: LogPosition) {
        let mut state = self.state.lock();
        let forgotten = state.entries.forget(through);
        state.came_at.drain(..forgotten.len());
        drop(state);
    }

    /// Candidate: the log ends at `position`; what lies behind is thrown away, nothing is stored any more.
    pub fn close(&self, position: LogPosition) {
        let mut state = self.state.lock();
        state.closed = Some(position);
        while state.entries.newest() > position
            && let Some(bytes) = state.entries.held.pop_back()
        {
            state.entries.bytes -= bytes.len();
            state.came_at.pop_back();
        }
        self.changed.notify_all();
    }

    /// A candidate that went back to backup (R12) stores again.
    pub fn reopen(&self) {
        self.state.lock().closed = None;
        self.changed.notify_all();
    }

    /// The VM is live at `position`: nothing of the log is needed any more.
    pub fn restart_at(&self, position: LogPosition) {
        let mut state = self.state.lock();
        state.entries.restart_at(position);
        state.came_at.clear();
        state.closed = None;
        self.changed.notify_all();
    }

    /// Bytes held: what is not replayed.
    pub fn bytes(&self) -> usize {
        self.state.lock().entries.bytes
    }

    /// When the oldest entry held came here, in CLOCK_BOOTTIME nanoseconds.
    pub fn oldest_at(&self) -> Option<u64> {
        self.state.lock().came_at.front().copied()
    }

    /// The node stops: nobody waits any more.
    pub fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }
}

/// Splits the bytes of a batch into its entries, or says why it cannot.
///
/// # Errors
/// A sentence that names the offset, when an entry does not end within the batch or the count is wrong.
pub fn split(count: u32, bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut entries = Vec::new();
    let mut offset = 0;
    for index in 0..count {
        let length = bytes
            .get(offset..offset + 4)
            .and_then(|field| field.try_into().ok())
            .map(u32::from_le_bytes)
            .ok_or_else(|| format!("entry {index} of {count} has no length at offset {offset}"))?
            as usize;
        let entry = bytes
            .get(offset + 4..(offset + 4).saturating_add(length))
            .ok_or_else(|| format!("entry {index} of {count} at offset {offset} is longer than its frame"))?;
        entries.push(entry.to_vec());
        offset += 4 + length;
    }
    if offset != bytes.len() {
        return Err(format!("{} bytes behind the last entry", bytes.len() - offset));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: usize = usize::MAX;

    #[test]
    fn only_the_next_position_is_stored() {
        let log = ReplayLog::new(1000);
        assert_eq!(log.store(LogPosition(2), vec![vec![0]], 0), None);
        assert_eq!(log.store(LogPosition(1), vec![vec![1], vec![2]], 0), Some(LogPosition(2)));
        assert_eq!(log.store(LogPosition(2), vec![vec![2]], 0), None);
        assert_eq!(log.wait_for(LogPosition(2)), Next::Entry(vec![2].into()));
    }

    #[test]
    fn a_closed_log_stores_nothing_and_ends() {
        let log = ReplayLog::new(1000);
        log.store(LogPosition(1), vec![vec![1]], 0);
        log.close(LogPosition(1));
        assert_eq!(log.store(LogPosition(2), vec![vec![2]], 0), None);
        assert_eq!(log.wait_for(LogPosition(1)), Next::Entry(vec![1].into()));
        assert_eq!(log.wait_for(LogPosition(2)), Next::Drained { closed: LogPosition(1) });
        log.reopen();
        assert_eq!(log.store(LogPosition(2), vec![vec![2]], 0), Some(LogPosition(2)));
    }

    #[test]
    fn a_batch_holds_what_was_flushed_and_splits_again() {
        let log = SendLog::new(1000);
        for byte in 1..=3 {
            assert!(log.append(vec![byte; byte as usize]));
        }
        assert_eq!(log.batch(LogPosition(1), ALL, 100), None);
        log.flush();
        log.append(vec![9]);
        let batch = log.batch(LogPosition(2), ALL, 100).unwrap();
        assert_eq!((batch.first, batch.last()), (LogPosition(2), LogPosition(3)));
        assert_eq!(split(batch.count, &batch.bytes).unwrap(), vec![vec![2, 2], vec![3, 3, 3]]);
        log.truncate(LogPosition(2));
        assert_eq!(log.batch(LogPosition(2), ALL, 100), None, "what was forgotten cannot be sent again");
        assert_eq!(log.batch(LogPosition(3), ALL, 1).unwrap().count, 1, "one entry always fits");
    }

    #[test]
    fn no_position_is_hidden_where_a_batch_holds_one_entry() {
        let log = SendLog::new(1000);
        for byte in 1..=3 {
            log.append(vec![byte]);
        }
        log.flush();
        let mut firsts = Vec::new();
        let mut next = LogPosition(1);
        while next <= LogPosition(3) {
            let batch = log.batch(next, 1, 100).unwrap();
            assert_eq!(batch.count, 1);
            firsts.push(batch.first.0);
            next = batch.last().next();
        }
        assert_eq!(firsts, [1, 2, 3]);
    }

    #[test]
    fn a_full_buffer_makes_the_primary_wait_until_the_backup_has_caught_up() {
        let log = Arc::new(SendLog::new(8));
        assert!(log.append(vec![0; 8]));
        let appender = {
            let log = log.clone();
            std::thread::spawn(move || log.append(vec![1; 8]))
        };
        while !log.stalls() {
            std::thread::yield_now();
        }
        let batch = log.batch(LogPosition(1), ALL, 100).unwrap();
        assert_eq!(batch.last(), LogPosition(1), "a waiting primary flushes what it has");
        assert_eq!(log.bytes(), 8);
        log.truncate(LogPosition(1));
        assert!(appender.join().unwrap());
        assert_eq!((log.bytes(), log.stalls()), (8, false));
        log.flush();
        assert_eq!(log.batch(LogPosition(2), ALL, 100).unwrap().last(), LogPosition(2));
    }

    #[test]
    fn a_backup_takes_no_more_than_its_bound_until_replay_has_made_room() {
        let log = ReplayLog::new(8);
        assert_eq!(log.store(LogPosition(1), vec![vec![0; 3], vec![0; 3]], 0), Some(LogPosition(2)));
        assert!(log.has_room(2) && !log.has_room(3));
        log.truncate(LogPosition(1));
        assert!(log.has_room(5) && !log.has_room(6));
        assert_eq!((log.newest(), log.bytes(), log.oldest_at()), (LogPosition(2), 3, Some(0)), "nothing was dropped");
        log.truncate(LogPosition(2));
        assert!(log.has_room(100), "what is larger than the bound is taken once the log is empty");
    }

    #[test]
    fn a_batch_that_lies_about_its_length_is_refused() {
        let log = SendLog::new(1000);
        log.append(vec![7; 10]);
        log.flush();
        let batch = log.batch(LogPosition(1), ALL, 100).unwrap();
        assert!(split(2, &batch.bytes).unwrap_err().contains("offset 14"));
        assert!(split(1, &batch.bytes[..13]).unwrap_err().contains("longer than its frame"));
        assert!(split(0, &batch.bytes).unwrap_err().contains("14 bytes behind"));
    }
}
