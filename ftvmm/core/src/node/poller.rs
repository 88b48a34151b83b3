//! What the node's thread waits for: sockets, what other threads tell it, and a moment.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, SendError, Sender, bounded};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};

/// So many readinesses are taken at once; those beyond come with the next look.
const EVENTS_MAX: usize = 64;

/// Something that the thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// another thread has told something
    Wake,
    /// somebody connects
    Listener,
    /// a heartbeat socket, by its index in the configuration
    Heartbeat(u8),
    /// a connection of the logging channel, by its number
    Session(u64),
}

/// Connections are numbered from 1, far below.
const OTHERS: u64 = u64::MAX - 1024;

impl Source {
    fn data(self) -> EventData {
        EventData::new_u64(match self {
            Source::Session(number) => number,
            Source::Wake => OTHERS,
            Source::Listener => OTHERS + 1,
            Source::Heartbeat(index) => OTHERS + 2 + u64::from(index),
        })
    }

    fn of(data: EventData) -> Source {
        match data.u64() {
            number @ ..OTHERS => Source::Session(number),
            OTHERS => Source::Wake,
            number => match number - OTHERS - 1 {
                0 => Source::Listener,
                index => Source::Heartbeat((index - 1) as u8),
            },
        }
    }
}

/// What a source is ready for, until a call says that it would block: the kernel tells of each change once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ready {
    /// something can be read, or the connection is over
    pub reads: bool,
    /// something can be written
    pub writes: bool,
}

impl Ready {
    fn of(flags: EventFlags) -> Ready {
        let over = EventFlags::ERR | EventFlags::HUP;
        Ready {
            reads: flags.intersects(EventFlags::IN | EventFlags::RDHUP | over),
            writes: flags.intersects(EventFlags::OUT | over),
        }
    }

    /// It is ready for this, too.
    pub fn add(&mut self, more: Ready) {
        self.reads |= more.reads;
        self.writes |= more.writes;
    }
}

/// Where sources are added; one that is closed goes by itself.
#[derive(Clone, Debug)]
pub struct Registry(Arc<OwnedFd>);

impl Registry {
    /// Waits for this source from now on.
    ///
    /// # Errors
    /// The operating system's.
    pub fn add(&self, descriptor: BorrowedFd<'_>, source: Source) -> io::Result<()> {
        let wanted = match source {
            Source::Session(_) => EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP,
            // A datagram that has left makes room for another: that would wake the thread for nothing.
            Source::Wake | Source::Listener | Source::Heartbeat(_) => EventFlags::IN,
        };
        Ok(epoll::add(&*self.0, descriptor, source.data(), wanted | EventFlags::ET)?)
    }

    /// Waits no more for what another thread looks after from now on.
    ///
    /// # Errors
    /// The operating system's.
    pub fn remove(&self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        Ok(epoll::delete(&*self.0, descriptor)?)
    }
}

/// Waits for sources (epoll(7), edge-triggered: who is told reads until nothing is left).
#[derive(Debug)]
pub struct Poller {
    registry: Registry,
    wake: Arc<OwnedFd>,
}

impl Poller {
    /// Waits for nothing yet but to be woken.
    ///
    /// # Errors
    /// The operating system's.
    pub fn new() -> io::Result<Poller> {
        let registry = Registry(Arc::new(epoll::create(CreateFlags::CLOEXEC)?));
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        registry.add(wake.as_fd(), Source::Wake)?;
        let poller = Poller { registry, wake };
        // A kernel that cannot wait like this (before 5.11) says so here.
        poller.wait(Duration::ZERO, |_, _| {})?;
        Ok(poller)
    }

    /// Where sources are added.
    pub fn registry(&self) -> Registry {
        self.registry.clone()
    }

    /// A box for what other threads tell, of which at most `queued_max` wait.
    pub fn mailbox<T>(&self, queued_max: usize) -> (Teller<T>, Mailbox<T>) {
        let (sender, receiver) = bounded(queued_max);
        let told = Arc::new(AtomicBool::new(false));
        (Teller { sender, told: told.clone(), wake: self.wake.clone() }, Mailbox { receiver, told })
    }

    /// Waits until something is ready, at most for so long, and tells what.
    ///
    /// # Errors
    /// The operating system's.
    pub fn wait(&self, timeout: Duration, mut tell: impl FnMut(Source, Ready)) -> io::Result<()> {
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        let mut room = [const { MaybeUninit::uninit() }; EVENTS_MAX];
        match epoll::wait(&*self.registry.0, &mut room, Some(&timeout)) {
            Ok((events, _)) => {
                for event in events {
                    tell(Source::of(event.data), Ready::of(event.flags));
                }
                Ok(())
            }
            Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Tells the node's thread something.
#[derive(Debug)]
pub struct Teller<T> {
    sender: Sender<T>,
    told: Arc<AtomicBool>,
    wake: Arc<OwnedFd>,
}

impl<T> Clone for Teller<T> {
    fn clone(&self) -> Teller<T> {
        Teller { sender: self.sender.clone(), told: self.told.clone(), wake: self.wake.clone() }
    }
}

impl<T> Teller<T> {
    /// Tells it, and waits while the box is full.
    ///
    /// # Errors
    /// What was to be told, where nobody listens any more.
    pub fn tell(&self, what: T) -> Result<(), SendError<T>> {
        self.sender.send(what)?;
        if !self.told.swap(true, Ordering::AcqRel) {
            // The counter of an eventfd is never full here, and the box lives as long as the thread.
            let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
        }
        Ok(())
    }
}

/// What other threads have told.
#[derive(Debug)]
pub struct Mailbox<T> {
    receiver: Receiver<T>,
    told: Arc<AtomicBool>,
}

impl<T> Mailbox<T> {
    /// The next thing, if there is one. Who gets `None` is woken by whatever comes after.
    pub fn next(&self) -> Option<T> {
        self.receiver.try_recv().ok().or_else(|| {
            // Who tells from here on wakes again; who told before that is seen by the second look.
            self.told.swap(false, Ordering::AcqRel);
            self.receiver.try_recv().ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn sources_are_told_apart() {
        for source in [Source::Wake, Source::Listener, Source::Heartbeat(0), Source::Heartbeat(255), Source::Session(1)]
        {
            assert_eq!(Source::of(source.data()), source);
        }
    }

    fn waited(poller: &Poller) -> Vec<(Source, Ready)> {
        let mut told = Vec::new();
        poller.wait(Duration::from_secs(60), |source, ready| told.push((source, ready))).unwrap();
        told
    }

    #[test]
    fn whatever_is_told_wakes_and_is_there() {
        let poller = Poller::new().unwrap();
        let (teller, mailbox) = poller.mailbox(100_000);
        let other = std::thread::spawn(move || (0..100_000).for_each(|number| teller.tell(number).unwrap()));
        let mut expected = 0;
        while expected < 100_000 {
            assert_eq!(waited(&poller).len(), 1, "asleep with something in the box");
            while let Some(number) = mailbox.next() {
                assert_eq!(number, expected);
                expected += 1;
            }
        }
        other.join().unwrap();
    }

    #[test]
    fn the_end_of_a_connection_is_something_to_read() {
        let poller = Poller::new().unwrap();
        let (left, right) = UnixStream::pair().unwrap();
        poller.registry().add(left.as_fd(), Source::Session(7)).unwrap();
        assert!(matches!(waited(&poller)[..], [(Source::Session(7), Ready { reads: false, writes: true })]));
        drop(right);
        assert!(matches!(waited(&poller)[..], [(Source::Session(7), Ready { reads: true, writes: true })]));
    }
}
