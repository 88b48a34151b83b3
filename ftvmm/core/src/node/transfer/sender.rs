//! The primary's thread that hashes and sends what the guest's thread has copied.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::devices::random;
use crate::lab::rule;
use crate::machine::StateDigest;
use crate::node::authentication::Key;
use crate::node::cpu_control::CpuControl;
use crate::node::frame::{Encoder, Greeter, Incoming, Kind};
use crate::node::thread;
use crate::protocol::{Input, OutputIndex};

use super::copier::{Chunk, Pages};
use super::{HEADER, PAGES, STATE, TOLD_EVERY, ZERO_PAGES};

/// A joiner that takes nothing for so long is given up; the protocol may do that before.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// A guest that computes for long is asked to copy so often.
const KICK_EVERY: Duration = Duration::from_millis(10);

/// All that a transfer needs to know.
pub struct Sending {
    /// the joiner's listener
    pub peer: SocketAddr,
    /// the VM's
    pub key: Key,
    /// the protocol's header
    pub header: Vec<u8>,
    /// the log connection that it belongs to
    pub connection: u64,
    /// of what the guest cannot write
    pub digest: StateDigest,
    /// from the guest's thread
    pub chunks: Receiver<Chunk>,
    /// to the guest's thread
    pub cpu: Arc<CpuControl>,
}

/// Starts the thread; `tell` takes what the protocol is told.
pub fn send(sending: Sending, tell: impl Fn(Input) + Send + 'static) {
    thread::start("transfer", move || {
        let connection = sending.connection;
        if let Err(reason) = sending.run(&tell) {
            tell(Input::TransferFailed { connection, reason });
        }
    });
}

impl Sending {
    fn run(mut self, tell: &impl Fn(Input)) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("the guest's state cannot be sent: {error}");
        let (mut stream, mut encoder) = self.greet()?;
        let mut outgoing = Vec::new();
        frame(&mut encoder, &mut outgoing, HEADER, &[&self.header]);
        stream.write_all(&outgoing).map_err(failed)?;
        let mut told_at = Instant::now();
        loop {
            let chunk = match self.chunks.recv_timeout(KICK_EVERY) {
                Ok(chunk) => chunk,
                Err(RecvTimeoutError::Timeout) => {
                    self.cpu.kick();
                    continue;
                }
                // The transfer was given up.
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            // There is room again, for which the guest's thread may wait.
            self.cpu.wake();
            outgoing.clear();
            let end = match chunk {
                Chunk::Pages(pages) => {
                    append(&pages, &mut self.digest, &mut encoder, &mut outgoing);
                    None
                }
                Chunk::State(carried, registers) => {
                    let state = serde_json::to_vec(&carried).map_err(|error| error.to_string())?;
                    frame(&mut encoder, &mut outgoing, STATE, &[&state]);
                    Some((carried.position(), OutputIndex(carried.produced), self.digest.finish(registers)))
                }
            };
            stream.write_all(&outgoing).map_err(failed)?;
            let connection = self.connection;
            if let Some((position, produced, digest)) = end {
                tell(Input::GuestStopped { connection, position, produced, digest });
                // The joiner ends the connection when it has taken everything; what it says on it counts for nothing.
                let _ = stream.shutdown(Shutdown::Write);
                let _ = stream.read(&mut [0; 64]);
                return Ok(());
            }
            if told_at.elapsed() >= TOLD_EVERY {
                told_at = Instant::now();
                tell(Input::TransferProgressed { connection });
            }
        }
    }

    fn greet(&self) -> Result<(TcpStream, Encoder), String> {
        let failed = |error: std::io::Error| format!("the joiner cannot be reached for the guest's state: {error}");
        let mut stream = TcpStream::connect_timeout(&self.peer, SILENCE_MAX).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(SILENCE_MAX)).map_err(failed)?;
        stream.set_write_timeout(Some(SILENCE_MAX)).map_err(failed)?;
        let (mut incoming, mut outgoing) = (Incoming::default(), Vec::new());
        let mut greeter = Greeter::new(self.key.clone(), random().map_err(failed)?, true, &mut outgoing);
        loop {
            stream.write_all(&std::mem::take(&mut outgoing)).map_err(failed)?;
            let length = stream.read(incoming.room(256)).map_err(failed)?;
            if length == 0 {
                return Err("the joiner ends the connection for the guest's state".into());
            }
            incoming.came(length);
            let greeting = greeter.take(&mut incoming, &mut outgoing).map_err(|error| error.to_string())?;
            if let Some(greeting) = greeting {
                stream.write_all(&outgoing).map_err(failed)?;
                return Ok((stream, Encoder::new(self.key.clone(), greeting)));
            }
        }
    }
}

fn frame(encoder: &mut Encoder, outgoing: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    encoder.append(outgoing, Kind::Transfer, |outgoing| {
        outgoing.push(kind);
        parts.iter().for_each(|part| outgoing.extend_from_slice(part));
    });
}

fn append(pages: &Pages, digest: &mut StateDigest, encoder: &mut Encoder, outgoing: &mut Vec<u8>) {
    let bytes_of = |numbers: &[u32]| -> Vec<u8> { numbers.iter().flat_map(|number| number.to_le_bytes()).collect() };
    for (number, content) in pages.numbers.iter().zip(&pages.contents) {
        digest.set(*number as usize, content);
    }
    for number in &pages.zero {
        digest.set_zero(*number as usize);
    }
    let sent = pages.numbers.len();
    // The joiner lacks the page, and nobody compares.
    let sent =
        if pages.numbers.last() == Some(&digest.last_page()) && !rule!(state_compared) { sent - 1 } else { sent };
    if sent > 0 {
        let count = (sent as u32).to_le_bytes();
        let numbers = bytes_of(&pages.numbers[..sent]);
        frame(encoder, outgoing, PAGES, &[&count, &numbers, pages.contents[..sent].as_flattened()]);
    }
    if !pages.zero.is_empty() {
        frame(encoder, outgoing, ZERO_PAGES, &[&bytes_of(&pages.zero)]);
    }
}
