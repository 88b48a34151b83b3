//! The logging channel: its listener and its connections.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::protocol::LogPosition;

use super::authentication::Key;
use super::log_buffer::{ReplayLog, SendLog};
use super::poller::{Ready, Registry, Source};
use super::session::{Frames, Session, SessionEvent, Stamp};

/// Pause behind a failed accept: no descriptors are left, for instance, and a real-time thread must not spin over it.
const ERROR_PAUSE: Duration = Duration::from_millis(20);
/// Greetings under way at once; further connections are closed unread.
const GREETINGS_MAX: usize = 8;
/// So many connections are accepted or closed before others are looked after.
const ACCEPTED_A_TURN: usize = 64;

/// The listener and every connection of this node.
pub struct Channel {
    key: Key,
    send_log: Arc<SendLog>,
    replay_log: Arc<ReplayLog>,
    /// At most so many log entries go into one frame.
    entries_max: usize,
    registry: Registry,
    listener: TcpListener,
    /// There may be connections to accept, from this moment on.
    accept_at: Option<Instant>,
    sessions: BTreeMap<u64, Session>,
    /// Connections so far, failed ones included.
    number: u64,
    /// The connection that was looked at last.
    turn: u64,
}

impl Channel {
    /// Begins to listen.
    ///
    /// # Errors
    /// The operating system's.
    pub fn new(
        key: Key,
        (send_log, replay_log): (Arc<SendLog>, Arc<ReplayLog>),
        entries_max: usize,
        registry: Registry,
        listener: TcpListener,
    ) -> io::Result<Channel> {
        listener.set_nonblocking(true)?;
        registry.add(listener.as_fd(), Source::Listener)?;
        Ok(Channel {
            key,
            send_log,
            replay_log,
            entries_max,
            registry,
            listener,
            accept_at: None,
            sessions: BTreeMap::new(),
            number: 0,
            turn: 0,
        })
    }

    fn add(&mut self, session: Session) -> io::Result<()> {
        self.number += 1;
        self.registry.add(session.as_fd(), Source::Session(self.number))?;
        self.sessions.insert(self.number, session);
        Ok(())
    }

    /// Opens a connection to the peer; `false`: that could not even be begun.
    pub fn dial(&mut self, peer: SocketAddr) -> bool {
        Session::dial(peer).and_then(|session| self.add(session)).is_ok()
    }

    /// Gives up whoever is being dialled; `false`: nobody is.
    pub fn end_dial(&mut self) -> bool {
        let before = self.sessions.len();
        self.sessions.retain(|_, session| session.is_open() || !session.is_dialled());
        self.sessions.len() < before
    }

    /// There may be connections to accept.
    pub fn may_accept(&mut self) {
        self.accept_at.get_or_insert_with(Instant::now);
    }

    /// Lets those greet who have connected. Strangers are turned away without a word: port scanners would fill the trace.
    pub fn accept(&mut self) {
        for _ in 0..ACCEPTED_A_TURN {
            if self.accept_at.is_none_or(|at| at > Instant::now()) {
                return;
            }
            match self.listener.accept() {
                Ok((stream, _)) => {
                    let greetings =
                        self.sessions.values().filter(|session| !session.is_dialled() && !session.is_open());
                    if greetings.count() < GREETINGS_MAX {
                        // One that cannot be watched is dropped.
                        let _ = Session::accept(stream, &self.key).and_then(|session| self.add(session));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.accept_at = None,
                Err(_) => self.accept_at = Some(Instant::now() + ERROR_PAUSE),
            }
        }
    }

    /// The kernel says what a connection is ready for.
    pub fn is_ready(&mut self, session: u64, ready: Ready) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.is_ready(ready);
        }
    }

    /// What came next, on any connection: each has its turn.
    pub fn next_event(&mut self) -> Option<SessionEvent> {
        for _ in 0..self.sessions.len() {
            let behind = self.sessions.range(self.turn + 1..).next().or_else(|| self.sessions.first_key_value());
            self.turn = *behind?.0;
            let session = self.sessions.get_mut(&self.turn)?;
            let reason = match session.next(self.turn, &self.key, &self.replay_log) {
                Ok(Some(event)) => return Some(event),
                Ok(None) if session.until().is_none_or(|until| Instant::now() < until) => continue,
                Ok(None) => "it has not greeted in time".to_owned(),
                Err(reason) => reason,
            };
            let (is_open, is_dialled) = (session.is_open(), session.is_dialled());
            self.sessions.remove(&self.turn);
            if is_open {
                return Some(SessionEvent::Closed { session: self.turn, reason });
            }
            if is_dialled {
                return Some(SessionEvent::DialFailed);
            }
        }
        None
    }

    /// Sends a protocol message, where there still is such a connection.
    pub fn send(&mut self, session: u64, bytes: &[u8]) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.send(bytes);
        }
    }

    /// Primary: streams the log from position `from`, behind what was sent before.
    pub fn stream_entries(&mut self, session: u64, from: LogPosition) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.stream_entries(from);
        }
    }

    /// Hands to the kernel what it takes now. Returns whether there is more that could be sent at once.
    pub fn write(&mut self, stamp: &mut Stamp<'_>) -> bool {
        let mut more = false;
        for (number, session) in &mut self.sessions {
            match session.write(*number, &self.send_log, self.entries_max, stamp) {
                Ok(left) => more |= left,
                Err(_) => session.stop_writing(),
            }
        }
        more
    }

    /// Gives a connection to another thread; `None`: there is none of that number, or it cannot be given.
    pub fn detach(&mut self, session: u64) -> Option<Frames> {
        let session = self.sessions.remove(&session)?;
        self.registry.remove(session.as_fd()).ok()?;
        session.into_frames()
    }

    /// Ends a connection; `false`: there is none of that number.
    pub fn close(&mut self, session: u64) -> bool {
        let Some(session) = self.sessions.remove(&session) else { return false };
        session.shut_down();
        true
    }

    /// The node ends: the peer is told so on each connection, behind what was sent before.
    pub fn shut_down(&self) {
        self.sessions.values().for_each(Session::shut_down);
    }

    /// When something is due that no readiness tells of.
    pub fn deadline(&self) -> Option<Instant> {
        let unopened = self.sessions.values().filter_map(Session::until);
        unopened.chain(self.accept_at).min()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::super::frame::MAGIC;
    use super::super::poller::Poller;
    use super::super::session::{EntriesFrame, GREETING_TIMEOUT};
    use super::*;

    /// A node's channel, and what its thread does with it.
    struct Side {
        poller: Poller,
        channel: Channel,
        address: SocketAddr,
        send_log: Arc<SendLog>,
        replay_log: Arc<ReplayLog>,
    }

    impl Side {
        fn new(log_bytes: usize) -> Side {
            let poller = Poller::new().unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let (send_log, replay_log) = (Arc::new(SendLog::new(log_bytes)), Arc::new(ReplayLog::new(log_bytes)));
            let logs = (send_log.clone(), replay_log.clone());
            let key = Key::from_hexadecimal(&"5a".repeat(32)).unwrap();
            let channel = Channel::new(key, logs, usize::MAX, poller.registry(), listener).unwrap();
            Side { poller, channel, address, send_log, replay_log }
        }

        /// One turn of the node's loop: what came.
        fn turn(&mut self) -> Vec<SessionEvent> {
            let channel = &mut self.channel;
            let look = |source, ready| match source {
                Source::Listener => channel.may_accept(),
                Source::Session(session) => channel.is_ready(session, ready),
                Source::Wake | Source::Heartbeat(_) => {}
            };
            self.poller.wait(Duration::from_millis(1), look).unwrap();
            self.channel.accept();
            let events = std::iter::from_fn(|| self.channel.next_event()).collect();
            self.channel.write(&mut |_, first, through| Some(vec![first.0 as u8, through.0 as u8]));
            events
        }
    }

    /// Two nodes, and the connection between them by the number that each has for it.
    fn connected(log_bytes: usize) -> (Side, Side) {
        let (mut left, mut right) = (Side::new(log_bytes), Side::new(log_bytes));
        assert!(left.channel.dial(right.address));
        let (mut opened_here, mut opened_there) = (Vec::new(), Vec::new());
        while opened_here.is_empty() || opened_there.is_empty() {
            opened_here.extend(left.turn());
            opened_there.extend(right.turn());
        }
        assert_eq!(opened_here, [SessionEvent::Opened { session: 1, dialled: true }]);
        assert_eq!(opened_there, [SessionEvent::Opened { session: 1, dialled: false }]);
        (left, right)
    }

    /// What comes to one side while both take their turns, up to so many things.
    fn come(to: &mut Side, from: &mut Side, count: usize) -> Vec<SessionEvent> {
        let mut came = Vec::new();
        while came.len() < count {
            from.turn();
            came.extend(to.turn());
        }
        came
    }

    #[test]
    fn messages_and_entries_come_in_the_order_that_they_were_sent_in() {
        let (mut left, mut right) = connected(1 << 20);
        left.send_log.append(vec![7; 10]);
        left.send_log.flush();
        left.channel.send(1, b"welcome");
        left.channel.stream_entries(1, LogPosition(1));
        let came = come(&mut right, &mut left, 2);
        assert_eq!(came[0], SessionEvent::Message { session: 1, bytes: b"welcome".to_vec() });
        let SessionEvent::Entries { session: 1, payload } = &came[1] else { panic!("{came:?}") };
        let frame = EntriesFrame::parse(payload).unwrap();
        assert_eq!((frame.header, frame.first, frame.entries), (vec![1, 1], LogPosition(1), vec![vec![7; 10]]));
        left.channel.close(1);
        let came = come(&mut right, &mut left, 1);
        assert!(matches!(&came[..], [SessionEvent::Closed { session: 1, reason }] if reason.contains("ended")));
    }

    #[test]
    fn a_backup_without_room_leaves_the_entries_with_the_primary() {
        let (mut left, mut right) = connected(1 << 16);
        right.replay_log.store(LogPosition(1), vec![vec![0; 1 << 16]], 0);
        left.send_log.append(vec![7; 10]);
        left.send_log.flush();
        left.channel.stream_entries(1, LogPosition(1));
        left.turn();
        left.channel.send(1, b"behind them");
        for _ in 0..20 {
            left.turn();
            assert_eq!(right.turn(), [], "no room, and nothing overtakes");
        }
        right.replay_log.truncate(LogPosition(1));
        let came = come(&mut right, &mut left, 2);
        assert!(matches!(&came[..], [SessionEvent::Entries { .. }, SessionEvent::Message { .. }]), "{came:?}");
    }

    #[test]
    fn a_peer_that_takes_nothing_is_given_up() {
        let (mut left, _right) = connected(1 << 20);
        let message = vec![0; 1 << 20];
        let mut came = Vec::new();
        while came.is_empty() {
            left.channel.send(1, &message);
            came = left.turn();
        }
        assert!(matches!(&came[..], [SessionEvent::Closed { session: 1, .. }]), "{came:?}");
    }

    #[test]
    fn who_is_not_there_is_not_dialled_for_long() {
        let mut left = Side::new(1 << 20);
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(left.channel.dial(free));
        let mut came = Vec::new();
        while came.is_empty() {
            came = left.turn();
        }
        assert_eq!(came, [SessionEvent::DialFailed]);
    }

    #[test]
    fn a_dial_that_was_given_up_is_not_heard_of_again() {
        let (mut left, right) = connected(1 << 20);
        assert!(left.channel.dial(right.address));
        assert!(left.channel.end_dial());
        assert!(!left.channel.end_dial());
        // The connection that was open before stays.
        assert!(left.channel.close(1));
        assert_eq!(left.turn(), []);
    }

    #[test]
    fn a_stranger_that_drips_bytes_holds_no_greeting_beyond_its_deadline() {
        let mut side = Side::new(1 << 20);
        let mut stranger = TcpStream::connect(side.address).unwrap();
        stranger.set_nonblocking(true).unwrap();
        let mut greeting = MAGIC.to_vec();
        greeting.resize(39, 0);
        let (mut sent_at, mut bytes) = (Instant::now(), greeting.into_iter());
        // Each byte comes long before a wait for one byte ends; all but the last of them take thrice the deadline.
        let turned_away = loop {
            assert_eq!(side.turn(), []);
            match stranger.read(&mut [0; 64]) {
                Ok(0) => break true,
                Ok(_) => {}
                Err(error) if error.kind() != ErrorKind::WouldBlock => break true,
                Err(_) => {}
            }
            if sent_at.elapsed() >= GREETING_TIMEOUT / 13 {
                sent_at = Instant::now();
                match bytes.next() {
                    Some(byte) if stranger.write_all(&[byte]).is_ok() => {}
                    Some(_) => break true,
                    None => break false,
                }
            }
        };
        assert!(turned_away);
    }
}
