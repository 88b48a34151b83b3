//! The server: carries out what sessions ask, round by round. In a round every session may execute commands; then one
//! commit brings all their changes down, and only then do the replies go out.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::command::{self, CommandError, Context, WallClock};
use crate::database::Database;
use crate::resp::request;
use crate::session::Session;

/// A session with so many bytes of replies waiting executes no more commands until some are out.
const REPLY_BYTES_MAX: usize = 1 << 20;

/// What the server counts.
#[derive(Debug, Default)]
pub struct Statistics {
    /// open connections
    pub clients: usize,
    /// connections so far
    pub connections: u64,
    /// commands so far
    pub commands: u64,
    /// commits so far
    pub commits: u64,
    /// scrubs so far
    pub scrubs: u64,
    /// when the server started, in milliseconds since 1970
    pub started_milliseconds: u64,
    /// whether a client asked for the end
    pub shutdown: bool,
}

/// Serves sessions from a database.
pub struct Server {
    database: Database,
    clock: Box<dyn WallClock>,
    statistics: Statistics,
    value_bytes_max: usize,
}

impl Server {
    /// A server for that database, in which a value has at most so many bytes.
    pub fn new(database: Database, mut clock: Box<dyn WallClock>, value_bytes_max: usize) -> Server {
        let started_milliseconds = clock.milliseconds();
        let statistics = Statistics { started_milliseconds, ..Statistics::default() };
        Server { database, clock, statistics, value_bytes_max }
    }

    /// Opens a session.
    pub fn connect(&mut self) -> Session {
        self.statistics.clients += 1;
        self.statistics.connections += 1;
        Session::new(self.statistics.connections)
    }

    /// Ends a session.
    pub fn disconnect(&mut self, _session: Session) {
        self.statistics.clients -= 1;
    }

    /// Whether a client asked for the end.
    pub fn is_shut_down(&self) -> bool {
        self.statistics.shutdown
    }

    /// The database.
    pub fn database(&mut self) -> &mut Database {
        &mut self.database
    }

    /// Executes what the session has asked. Replies are staged until the commit.
    pub fn execute(&mut self, session: &mut Session) {
        let input = core::mem::take(&mut session.input);
        let mut used = 0;
        while !session.client.closing && session.reply_bytes() < REPLY_BYTES_MAX {
            match request::parse(&input[used..], self.value_bytes_max) {
                Ok(None) => break,
                Ok(Some(request)) => {
                    used += request.length;
                    let words: Vec<&[u8]> = request.arguments.iter().map(AsRef::as_ref).collect();
                    if !words.is_empty() {
                        self.execute_one(session, &words);
                    }
                }
                Err(error) => {
                    session.staged.error(error);
                    session.staged_count += 1;
                    session.client.closing = true;
                }
            }
        }
        session.input = input;
        session.input.drain(..used);
    }

    fn execute_one(&mut self, session: &mut Session, words: &[&[u8]]) {
        self.statistics.commands += 1;
        let start = session.staged.bytes().len();
        let mut context = Context {
            database: &mut self.database,
            client: &mut session.client,
            statistics: &mut self.statistics,
            replies: &mut session.staged,
            clock: self.clock.as_mut(),
            value_bytes_max: self.value_bytes_max,
        };
        if let Err(error) = command::execute(&mut context, words) {
            session.staged.truncate(start);
            session.staged.error(error);
        }
        session.staged_count += usize::from(session.staged.bytes().len() > start);
        if self.database.commit_is_due() {
            // Its failure is kept, and counts at the end of the round.
            let _ = self.commit_changes();
        }
    }

    fn commit_changes(&mut self) -> Result<(), CommandError> {
        if !self.database.journal().is_clean() {
            self.statistics.commits += 1;
            self.database.commit()?;
        }
        Ok(())
    }

    /// Ends a round: brings the changes down and lets the replies go out. Where the device cannot write, each reply of the
    /// round becomes an error, because nothing that was said or read in it is certain.
    pub fn commit<'a>(&mut self, sessions: impl Iterator<Item = &'a mut Session>) {
        let error = self.commit_changes().err();
        sessions.filter(|session| session.staged_count > 0).for_each(|session| session.release(error.as_ref()));
    }
}
