//! Commands: finding the one that a request names, and the errors that they share. Names, arities and messages are those
//! of Redis.

mod connection;
mod keys;
mod numbers;
mod set;
mod storage;
mod strings;
mod table;

use alloc::string::{String, ToString};

use crate::database::{Database, DatabaseError};
use crate::resp::reply::Replies;
use crate::server::Statistics;
use crate::session::Client;
use crate::storage::disk::DiskError;

/// Why a command is not carried out. The messages go to the client as they are.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// there is no such command
    #[error("ERR unknown command '{name}', with args beginning with: {arguments}")]
    Unknown {
        /// as the client wrote it
        name: String,
        /// the first ones, in quotes
        arguments: String,
    },
    /// there is no such subcommand
    #[error("ERR unknown subcommand '{0}'. Try {1} HELP.")]
    Subcommand(String, &'static str),
    /// the command does not take so many arguments
    #[error("ERR wrong number of arguments for '{0}' command")]
    Arity(String),
    /// the arguments make no sense
    #[error("ERR syntax error")]
    Syntax,
    /// an argument or a value is no number
    #[error("ERR value is not an integer or out of range")]
    Integer,
    /// the result would be no number
    #[error("ERR increment or decrement would overflow")]
    Overflow,
    /// an expiry that cannot be
    #[error("ERR invalid expire time in '{0}' command")]
    ExpireTime(&'static str),
    /// there is one database only
    #[error("ERR DB index is out of range")]
    DatabaseIndex,
    /// only RESP2 and RESP3 are spoken
    #[error("NOPROTO unsupported protocol version")]
    Protocol,
    /// a name that cannot be printed in a list
    #[error("ERR Client names cannot contain spaces, newlines or special characters.")]
    ClientName,
    /// the value would be too long
    #[error("ERR string exceeds maximum allowed size (proto-max-bulk-len)")]
    ValueTooLong,
    /// the reply would be too long
    #[error("ERR the reply would be too large, ask for fewer keys at a time")]
    ReplyTooLong,
    /// the data cannot be read or written
    #[error("{0}")]
    Database(#[from] DatabaseError),
}

impl From<DiskError> for CommandError {
    fn from(error: DiskError) -> CommandError {
        CommandError::Database(error.into())
    }
}

/// What a command works on.
pub struct Context<'a> {
    /// keys and values
    pub database: &'a mut Database,
    /// who asks
    pub client: &'a mut Client,
    /// what the server counts
    pub statistics: &'a mut Statistics,
    /// where the reply goes
    pub replies: &'a mut Replies,
    /// wall clock, in milliseconds since 1970
    pub clock: &'a mut dyn WallClock,
    /// the longest value, in bytes
    pub value_bytes_max: usize,
}

/// The wall clock. A look may be dear, and the time does not move within a round.
pub trait WallClock {
    /// Milliseconds since 1970 (UTC); never goes back.
    fn milliseconds(&mut self) -> u64;
}

type Run = fn(&mut Context, &[&[u8]]) -> Result<(), CommandError>;

/// An entry of the table of commands.
struct Command {
    name: &'static str,
    /// how many words there are, the name included; negative: at least as many
    arity: i32,
    /// whether it reads or writes keys
    data: bool,
    run: Run,
}

/// Carries a request out and writes one reply. `words` holds at least the name.
///
/// # Errors
/// Where it is not carried out: the error is the reply.
pub fn execute(context: &mut Context, words: &[&[u8]]) -> Result<(), CommandError> {
    let name = words[0];
    let command = table::TABLE.iter().find(|command| name.eq_ignore_ascii_case(command.name.as_bytes()));
    let Some(command) = command else { return Err(unknown(words)) };
    check_arity(words, command.arity, command.name)?;
    if command.data {
        if let Some(error) = context.database.failure() {
            return Err(error.into());
        }
        if context.database.keyspace().expiring_count() > 0 {
            let now = context.clock.milliseconds();
            context.database.delete_expired(now);
        }
    }
    (command.run)(context, &words[1..])
}

fn check_arity(words: &[&[u8]], arity: i32, name: &str) -> Result<(), CommandError> {
    let count = words.len();
    let right = if arity < 0 { count >= arity.unsigned_abs() as usize } else { count == arity as usize };
    if right { Ok(()) } else { Err(CommandError::Arity(name.to_ascii_lowercase())) }
}

fn unknown(words: &[&[u8]]) -> CommandError {
    const SHOWN_BYTES: usize = 128;
    let shown = |word: &[u8]| String::from_utf8_lossy(&word[..word.len().min(SHOWN_BYTES)]).to_string();
    let mut arguments = String::new();
    for word in &words[1..] {
        if arguments.len() >= SHOWN_BYTES {
            break;
        }
        arguments.push_str(&alloc::format!("'{}' ", shown(word)));
    }
    CommandError::Unknown { name: shown(words[0]), arguments }
}

/// Finds a subcommand by its name.
fn subcommand(word: &[u8], command: &'static str) -> CommandError {
    CommandError::Subcommand(String::from_utf8_lossy(word).to_string(), command)
}

/// Whether the word is that name, in upper or lower case.
fn is(word: &[u8], name: &str) -> bool {
    word.eq_ignore_ascii_case(name.as_bytes())
}

/// A whole number as Redis takes it: no plus sign, no spaces, no leading zeros.
fn integer(word: &[u8]) -> Result<i64, CommandError> {
    let text = core::str::from_utf8(word).map_err(|_| CommandError::Integer)?;
    let number: i64 = text.parse().map_err(|_| CommandError::Integer)?;
    if number.to_string() == text { Ok(number) } else { Err(CommandError::Integer) }
}
