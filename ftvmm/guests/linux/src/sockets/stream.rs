//! Connections inside of the guest: two ends with a queue each way, for the Unix domain and for TCP to the guest itself.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use linux_raw_sys::general::{EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP};

use super::Directions;
use super::queue::{Queue, Taken};
use crate::files::OpenFile;
use crate::readiness::{Activity, Arrivals};
use crate::system_calls::{Errno, Stop, errno};

/// Whose rules a connection follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rules {
    /// AF_UNIX: each end sees at once what the other does (Linux's net/unix/af_unix.c)
    Unix,
    /// the same, for messages (SOCK_SEQPACKET)
    UnixMessages,
    /// TCP: each direction ends by itself, and what is sent to a closed end comes back as a reset (net/ipv4/tcp.c)
    Tcp,
}

/// So much of its buffer Linux keeps from a message.
const RESERVED_BYTES: usize = 32;

/// What was received.
pub(super) struct Moved {
    /// the bytes, and what comes with them
    pub taken: Taken,
    /// somebody may be waiting for the room
    pub wakes: bool,
}

/// One end of a connection.
pub(super) struct End {
    rules: Rules,
    /// what the other end has sent
    incoming: RefCell<Queue>,
    /// so many bytes may be on the way from here
    capacity: Cell<usize>,
    /// the other end, until one of both is closed
    peer: RefCell<Option<Rc<End>>>,
    shut: Cell<Directions>,
    /// the other end sends no more
    has_ended: Cell<bool>,
    error: Cell<Option<Errno>>,
    arrivals: Arrivals,
    /// it wanted to send and could not
    lacks_room: Cell<bool>,
}

/// Two ends that are connected; so many bytes may be on the way from the first and from the second.
pub(super) fn pair(rules: Rules, capacities: (usize, usize)) -> (Rc<End>, Rc<End>) {
    let end = |capacity| {
        Rc::new(End {
            rules,
            incoming: RefCell::new(Queue::new(rules == Rules::UnixMessages)),
            capacity: Cell::new(capacity),
            peer: RefCell::default(),
            shut: Cell::default(),
            has_ended: Cell::default(),
            error: Cell::default(),
            arrivals: Arrivals::default(),
            lacks_room: Cell::default(),
        })
    };
    let (first, second) = (end(capacities.0), end(capacities.1));
    *first.peer.borrow_mut() = Some(second.clone());
    *second.peer.borrow_mut() = Some(first.clone());
    (first, second)
}

impl End {
    fn touch(&self) {
        self.arrivals.note(!self.incoming.borrow().is_empty());
    }

    fn add_shut(&self, directions: Directions) {
        self.shut.set(self.shut.get() | directions);
    }

    fn free(&self) -> usize {
        let used = self.peer.borrow().as_ref().map_or(0, |peer| peer.incoming.borrow().charged());
        self.capacity.get().saturating_sub(used)
    }

    /// Whether there is so much room that poll says so: TCP wants a third, the Unix domain three quarters.
    fn is_writable(&self) -> bool {
        let (free, capacity) = (self.free(), self.capacity.get());
        match self.rules {
            Rules::Tcp => free >= capacity / 3,
            Rules::Unix | Rules::UnixMessages => free >= capacity / 4 * 3,
        }
    }

    /// So many bytes may be on the way from here.
    pub(super) fn set_capacity(&self, capacity: usize) {
        self.capacity.set(capacity);
    }

    /// Takes bytes out, or looks at them.
    ///
    /// # Errors
    /// What has befallen the connection, once; a wait where there is nothing yet.
    pub(super) fn receive(&self, buffer: &mut [u8], is_peek: bool) -> Result<Moved, Stop> {
        if self.incoming.borrow().is_empty() {
            return self.receive_nothing().map(|()| Moved { taken: Taken::default(), wakes: false });
        }
        let taken = self.incoming.borrow_mut().take(buffer, is_peek);
        let wakes = !is_peek && self.has_made_room();
        Ok(Moved { taken, wakes })
    }

    /// The end of the stream, an error, or a wait.
    fn receive_nothing(&self) -> Result<(), Stop> {
        if self.rules == Rules::Tcp && self.has_ended.get() {
            return Ok(());
        }
        if let Some(error) = self.error.take() {
            return Err(error.into());
        }
        if self.has_ended.get() || self.shut.get().receive {
            return Ok(());
        }
        Err(Stop::wait(None))
    }

    /// The other end has more room than before; returns whether it cares.
    fn has_made_room(&self) -> bool {
        let Some(peer) = self.peer.borrow().clone() else { return false };
        let cares = peer.lacks_room.get();
        if cares && peer.is_writable() {
            peer.lacks_room.set(false);
            peer.touch();
        }
        cares
    }

    /// Sends bytes, or as many of them as there is room for, and files with them.
    ///
    /// # Errors
    /// EPIPE where nobody takes them, EMSGSIZE for a message that is too long, what has befallen the connection; a wait
    /// where there is no room.
    pub(super) fn send(&self, bytes: &[u8], files: &[Rc<OpenFile>]) -> Result<usize, Stop> {
        let keeps_bounds = self.rules == Rules::UnixMessages;
        if keeps_bounds && bytes.len() > self.capacity.get().saturating_sub(RESERVED_BYTES) {
            return Err(errno::EMSGSIZE.into());
        }
        if self.rules != Rules::Tcp && self.shut.get().send {
            return Err(errno::EPIPE.into());
        }
        if let Some(error) = self.error.take() {
            return Err(error.into());
        }
        if self.shut.get().send {
            return Err(errno::EPIPE.into());
        }
        if bytes.is_empty() && !keeps_bounds {
            return Ok(0);
        }
        let Some(peer) = self.peer.borrow().clone() else {
            // The other end answers with a reset. Its own direction has ended before, so that reading says nothing of it.
            self.reset(errno::EPIPE);
            return Ok(bytes.len());
        };
        let mut queue = peer.incoming.borrow_mut();
        let free = self.capacity.get().saturating_sub(queue.charged());
        // A message goes as a whole where there is any room.
        let count = if keeps_bounds { bytes.len() } else { free.min(bytes.len()) };
        if count < bytes.len() || free == 0 {
            self.lacks_room.set(true);
        }
        if free == 0 {
            return Err(Stop::wait(None));
        }
        let is_more = !queue.is_empty();
        queue.put(&bytes[..count], files).map_err(|_| errno::ENOBUFS)?;
        peer.arrivals.note(is_more);
        Ok(count)
    }

    /// The connection is over.
    fn reset(&self, error: Errno) {
        self.error.set(Some(error));
        self.add_shut(Directions::BOTH);
        self.touch();
    }

    /// Ends directions.
    pub(super) fn shut_down(&self, directions: Directions) {
        let is_new = directions.send && !self.shut.get().send;
        self.add_shut(directions);
        self.touch();
        let Some(peer) = self.peer.borrow().clone() else { return };
        match self.rules {
            Rules::Tcp if is_new => peer.has_ended.set(true),
            Rules::Tcp => return,
            Rules::Unix | Rules::UnixMessages => {
                // Nobody will read what the other end sends.
                peer.add_shut(Directions { receive: directions.send, send: directions.receive });
            }
        }
        peer.touch();
    }

    /// Closes this end. The other one learns that bytes were lost where some were not read, or where it is to be so.
    /// Returns the files that were on their way here.
    pub(super) fn close(&self, is_abrupt: bool) -> Vec<Rc<OpenFile>> {
        let has_unread = !self.incoming.borrow().is_empty();
        let files = self.incoming.borrow_mut().clear();
        if let Some(peer) = self.peer.borrow_mut().take() {
            peer.lose_peer(has_unread || is_abrupt);
        }
        files
    }

    fn lose_peer(&self, is_reset: bool) {
        let was_over = self.is_over();
        self.peer.borrow_mut().take();
        match self.rules {
            Rules::Unix | Rules::UnixMessages => {
                if is_reset {
                    self.error.set(Some(errno::ECONNRESET));
                }
                self.add_shut(Directions::BOTH);
            }
            // A connection whose both directions have ended is no more.
            Rules::Tcp if is_reset && !was_over => {
                self.reset(if self.has_ended.get() { errno::EPIPE } else { errno::ECONNRESET });
            }
            Rules::Tcp => self.has_ended.set(true),
        }
        self.touch();
    }

    /// Whether both directions have ended: Linux's TCP_CLOSE.
    pub(super) fn is_over(&self) -> bool {
        let shut = self.shut.get();
        shut.send && (self.has_ended.get() || (shut.receive && self.peer.borrow().is_none()))
    }

    /// What has befallen the connection, once.
    pub(super) fn take_error(&self) -> Option<Errno> {
        self.error.take()
    }

    /// Bytes that can be read now.
    pub(super) fn readable(&self) -> usize {
        self.incoming.borrow().len()
    }

    /// Bytes that the other end has not read.
    pub(super) fn unread(&self) -> usize {
        self.peer.borrow().as_ref().map_or(0, |peer| peer.readable())
    }

    /// Whether the other end sends no more.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.get()
    }

    /// The directions that have been ended here.
    pub(super) fn shut(&self) -> Directions {
        self.shut.get()
    }

    /// What has arrived: data, room, changes of state.
    pub(super) fn activity(&self) -> Activity {
        self.arrivals.activity()
    }

    /// What poll says. As tcp_poll and unix_poll.
    pub(super) fn ready(&self) -> u32 {
        let shut = self.shut.get();
        let receives_no_more = shut.receive || self.has_ended.get();
        let mut mask = 0;
        if self.error.get().is_some() {
            mask |= EPOLLERR;
        }
        if (receives_no_more && shut.send) || (self.rules == Rules::Tcp && self.is_over()) {
            mask |= EPOLLHUP;
        }
        if receives_no_more {
            mask |= EPOLLIN | EPOLLRDHUP;
        }
        if !self.incoming.borrow().is_empty() {
            mask |= EPOLLIN;
        }
        if self.is_writable() || (self.rules == Rules::Tcp && shut.send) {
            mask |= EPOLLOUT;
        } else {
            self.lacks_room.set(true);
        }
        mask
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    const WAIT: Stop = Stop::wait(None);

    fn receive(end: &End) -> Result<Vec<u8>, Stop> {
        let mut buffer = [0; 64];
        end.receive(&mut buffer, false).map(|moved| buffer[..moved.taken.count].to_vec())
    }

    fn send(end: &End, bytes: &[u8]) -> Result<usize, Stop> {
        end.send(bytes, &[])
    }

    fn error<T>(error: Errno) -> Result<T, Stop> {
        Err(Stop::Error(error))
    }

    #[test]
    fn bytes_arrive_in_order_and_can_be_looked_at() {
        let (first, second) = pair(Rules::Unix, (8, 8));
        assert_eq!(receive(&second), Err(WAIT));
        assert_eq!(send(&first, b"hello"), Ok(5));
        let mut buffer = [0; 3];
        assert_eq!(second.receive(&mut buffer, true).map(|moved| moved.taken.count), Ok(3));
        assert_eq!(&buffer, b"hel");
        assert_eq!(second.readable(), 5);
        assert_eq!(receive(&second), Ok(b"hello".to_vec()));
    }

    #[test]
    fn a_sender_without_room_waits_and_is_woken() {
        let (first, second) = pair(Rules::Tcp, (6, 6));
        assert_eq!(send(&first, &[7; 8]), Ok(6));
        assert_eq!(send(&first, b"x"), Err(WAIT));
        assert_eq!(first.ready() & EPOLLOUT, 0);
        let before = first.activity();
        let read = || second.receive(&mut [0; 1], false).map(|moved| (moved.taken.count, moved.wakes));
        // Room for one byte wakes a sender that waits, but poll wants a third.
        assert_eq!(read(), Ok((1, true)));
        assert_eq!((first.activity(), first.ready() & EPOLLOUT), (before, 0));
        assert_eq!(read(), Ok((1, true)));
        assert!(first.activity() > before && first.ready() & EPOLLOUT != 0);
        assert_eq!(read(), Ok((1, false)));
    }

    #[test]
    fn tcp_ends_each_direction_by_itself() {
        let (first, second) = pair(Rules::Tcp, (64, 64));
        send(&first, b"last").unwrap();
        first.shut_down(Directions::SEND);
        assert_eq!(send(&first, b"x"), error(errno::EPIPE));
        assert_eq!(second.ready(), EPOLLIN | EPOLLRDHUP | EPOLLOUT);
        assert_eq!(receive(&second), Ok(b"last".to_vec()));
        assert_eq!(receive(&second), Ok(vec![]));
        assert!(!first.is_over());
        send(&second, b"answer").unwrap();
        assert_eq!(receive(&first), Ok(b"answer".to_vec()));
        second.close(false);
        assert_eq!(receive(&first), Ok(vec![]));
        assert!(first.is_over());
        assert_eq!(first.ready(), EPOLLIN | EPOLLRDHUP | EPOLLOUT | EPOLLHUP);
    }

    #[test]
    fn tcp_takes_what_is_sent_to_a_closed_end_once() {
        let (first, second) = pair(Rules::Tcp, (64, 64));
        second.close(false);
        assert_eq!(first.ready(), EPOLLIN | EPOLLRDHUP | EPOLLOUT);
        assert_eq!(send(&first, b"lost"), Ok(4));
        assert_eq!(first.ready(), EPOLLIN | EPOLLRDHUP | EPOLLOUT | EPOLLHUP | EPOLLERR);
        assert_eq!(receive(&first), Ok(vec![]));
        assert_eq!(send(&first, b"x"), error(errno::EPIPE));
        assert_eq!(first.take_error(), None);
        assert_eq!(send(&first, b"x"), error(errno::EPIPE));
    }

    #[test]
    fn tcp_resets_where_bytes_were_not_read() {
        let (first, second) = pair(Rules::Tcp, (64, 64));
        send(&second, b"for you").unwrap();
        send(&first, b"unread").unwrap();
        second.close(false);
        assert_eq!(receive(&first), Ok(b"for you".to_vec()));
        assert_eq!(receive(&first), error(errno::ECONNRESET));
        assert_eq!(receive(&first), Ok(vec![]));
        assert_eq!(send(&first, b"x"), error(errno::EPIPE));
        assert!(first.is_over());
    }

    #[test]
    fn unix_sees_at_once_that_the_other_end_is_closed() {
        let (first, second) = pair(Rules::Unix, (64, 64));
        send(&second, b"bye").unwrap();
        second.close(false);
        assert_eq!(first.ready() & EPOLLHUP, EPOLLHUP);
        assert_eq!(send(&first, b"x"), error(errno::EPIPE));
        assert_eq!(receive(&first), Ok(b"bye".to_vec()));
        assert_eq!(receive(&first), Ok(vec![]));

        let (first, second) = pair(Rules::Unix, (64, 64));
        send(&first, b"unread").unwrap();
        second.close(false);
        assert_eq!(receive(&first), error(errno::ECONNRESET));
        assert_eq!(receive(&first), Ok(vec![]));
    }

    #[test]
    fn unix_refuses_what_nobody_will_read() {
        let (first, second) = pair(Rules::Unix, (64, 64));
        second.shut_down(Directions::RECEIVE);
        assert_eq!(send(&first, b"x"), error(errno::EPIPE));
        assert_eq!(receive(&second), Ok(vec![]));
        send(&second, b"still").unwrap();
        assert_eq!(receive(&first), Ok(b"still".to_vec()));
    }

    #[test]
    fn messages_go_as_a_whole() {
        let (first, second) = pair(Rules::UnixMessages, (2000, 2000));
        assert_eq!(send(&first, &[0; 2000]), error(errno::EMSGSIZE));
        assert_eq!(send(&first, &[1; 1500]), Ok(1500));
        assert_eq!(send(&first, b"two"), Err(WAIT));
        let mut buffer = [0; 10];
        let moved = second.receive(&mut buffer, false).ok().unwrap();
        assert_eq!((moved.taken.count, moved.taken.length, moved.wakes), (10, 1500, true));
        assert_eq!(send(&first, b""), Ok(0));
        first.close(false);
        assert_eq!(receive(&second), Ok(vec![]));
        assert_eq!(send(&second, b"x"), error(errno::EPIPE));
    }
}
