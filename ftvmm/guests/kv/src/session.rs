//! A client's connection: what came in, and what may go out.

use alloc::vec::Vec;

use crate::resp::reply::Replies;

/// Who is at the other end.
#[derive(Debug)]
pub struct Client {
    /// counts connections from 1
    pub id: u64,
    /// as the client calls itself
    pub name: Vec<u8>,
    /// whether the connection ends once all replies are out
    pub closing: bool,
}

/// A connection. Replies wait in `staged` until the changes they depend on are down.
#[derive(Debug)]
pub struct Session {
    /// who is at the other end
    pub client: Client,
    pub(crate) input: Vec<u8>,
    pub(crate) staged: Replies,
    /// how many replies are staged
    pub(crate) staged_count: usize,
    output: Vec<u8>,
    /// how much of the output is sent
    sent: usize,
}

impl Session {
    pub(crate) fn new(id: u64) -> Session {
        let client = Client { id, name: Vec::new(), closing: false };
        Session { client, input: Vec::new(), staged: Replies::default(), staged_count: 0, output: Vec::new(), sent: 0 }
    }

    /// Takes bytes from the client. Those that nobody will look at are thrown away, so that a client which is still sending
    /// gets to read why the connection ends.
    pub fn receive(&mut self, bytes: &[u8]) {
        if self.client.closing {
            self.input.clear();
        } else {
            self.input.extend_from_slice(bytes);
        }
    }

    /// How many bytes came in that no command has used yet.
    pub fn input_bytes(&self) -> usize {
        self.input.len()
    }

    /// The bytes that may go out now.
    pub fn output(&self) -> &[u8] {
        &self.output[self.sent..]
    }

    /// Takes note that so many bytes of the output are out.
    pub fn advance(&mut self, count: usize) {
        self.sent += count;
        if self.sent >= self.output.len() {
            self.output.clear();
            self.sent = 0;
        }
    }

    /// How many bytes of replies wait for the client or for storage.
    pub(crate) fn reply_bytes(&self) -> usize {
        self.staged.bytes().len() + self.output().len()
    }

    /// Lets the staged replies go out, or an error in the place of each.
    pub(crate) fn release(&mut self, error: Option<&crate::command::CommandError>) {
        if let Some(error) = error {
            self.staged.clear();
            (0..self.staged_count).for_each(|_| self.staged.error(error));
        }
        self.output.extend_from_slice(self.staged.bytes());
        self.staged.clear();
        self.staged_count = 0;
    }
}
