//! The messages of a pair, and their encoding: fixed little-endian fields, nothing optional, nothing of variable length.

use thiserror::Error;

use crate::log::{Fingerprint, LogPosition};
use crate::machine::HostKind;

use super::config::Terms;
use super::numbers::{Generation, Incarnation, OutputIndex};

/// An output: its number, and what the guest was then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct OutputMark {
    /// Its number, if there is an output.
    pub index: OutputIndex,
    /// The guest's fingerprint, this output being the newest that it asked for. Replicas that came here alike have the same.
    pub fingerprint: Fingerprint,
}

/// What every message carries (R3, R4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The VM's UUID.
    pub vm: [u8; 16],
    /// The sender's generation, if it has one.
    pub generation: Generation,
    /// The sender's incarnation.
    pub incarnation: Incarnation,
    /// The session, as the primary counts them; 0 outside of one.
    pub session: u64,
    /// Counts the sender's messages, over all paths.
    pub sequence: u64,
    /// The sender's clock when it sent, in nanoseconds.
    pub stamp: u64,
    /// The newest stamp of the receiver that the sender has heard.
    pub echo: u64,
}

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// Primary, on a new session: who is there? With `backup` the incarnation it committed to (a session resumed, R12).
    Hello {
        /// What the sender is configured with.
        terms: Terms,
        /// The backup that is expected; nobody's incarnation where it is a spare.
        backup: Incarnation,
    },
    /// The answer to `Hello`.
    Welcome {
        /// What the sender is configured with.
        terms: Terms,
        /// Position of the last entry held.
        stored: LogPosition,
        /// Position of the last entry replayed.
        replayed: LogPosition,
    },
    /// Primary: you are the backup, from this state on (R14).
    Commit {
        /// S: the position of the state that the joiner has (0 is the initial state).
        position: LogPosition,
        /// R: the last output that has completed.
        released: OutputMark,
    },
    /// Primary, on every path.
    Heartbeat {
        /// R: the last output that has completed.
        released: OutputMark,
    },
    /// Primary: the header of a frame of log entries; the entries follow in the same frame.
    Entries {
        /// R: the last output that has completed.
        released: OutputMark,
        /// Position of the first entry.
        first: LogPosition,
        /// Position of the last entry.
        through: LogPosition,
    },
    /// Backup: the answer to a heartbeat, and the acknowledgement of entries.
    Answer {
        /// Position of the last entry held: all up to it are held whole (R6).
        stored: LogPosition,
        /// Position of the last entry replayed.
        replayed: LogPosition,
        /// Index of R as the backup knows it: outputs up to it are not re-issued (R23).
        released: OutputIndex,
        /// What it needs for a takeover and cannot use: a bit each for NIC, disk and arbiter (R25). Two more say why a backup goes: it has
        /// diverged, or its host has failed.
        lacks: u8,
    },
    /// Joiner: the guest's state is here (R14).
    Restored {
        /// S: its position.
        position: LogPosition,
        /// A digest of all of it.
        digest: Fingerprint,
    },
    /// Primary: the first frame of a connection on which the guest's state goes to the joiner of this session.
    Transfer,
    /// Primary: nothing more leaves this node, nor is on its way; take the VM over (R21).
    HandOver {
        /// Position of the last entry.
        position: LogPosition,
        /// R: the last output that has completed.
        released: OutputMark,
    },
    /// Primary: the guest has halted and all is emitted; do not take over.
    Farewell {
        /// The guest's exit status.
        exit_status: i32,
    },
}

/// A message of one node to its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who says it, in which session, when.
    pub header: Header,
    /// What is said.
    pub body: Body,
}

/// Which entries a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntriesRange {
    /// Position of the first entry.
    pub first: LogPosition,
    /// Position of the last entry.
    pub through: LogPosition,
}

/// Bytes that are no message.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum WireError {
    /// The message ends before its last field, or goes on after it.
    #[error("a message of {0} bytes has the wrong length for its kind")]
    Length(usize),
    /// No message has this kind.
    #[error("there is no message kind {0}")]
    Kind(u8),
}

/// Reads fixed-size fields off a byte slice.
struct Reader<'a> {
    rest: &'a [u8],
    total: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (field, rest) = self.rest.split_first_chunk::<N>().ok_or(WireError::Length(self.total))?;
        self.rest = rest;
        Ok(*field)
    }

    fn number(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    fn position(&mut self) -> Result<LogPosition, WireError> {
        Ok(LogPosition(self.number()?))
    }

    fn index(&mut self) -> Result<OutputIndex, WireError> {
        Ok(OutputIndex(self.number()?))
    }

    fn fingerprint(&mut self) -> Result<Fingerprint, WireError> {
        Ok(Fingerprint(self.take()?))
    }

    fn terms(&mut self) -> Result<Terms, WireError> {
        let digest = self.take()?;
        let determinism_pass = u32::from_le_bytes(self.take()?);
        let (vendor, signature) = (self.take()?, u32::from_le_bytes(self.take()?));
        let [kvm, counts] = self.take()?;
        let host = HostKind { vendor, signature, kvm, counts };
        let mut terms = Terms { digest, determinism_pass, host, bounds: [0; Terms::BOUNDS.len()] };
        for bound in &mut terms.bounds {
            *bound = self.number()?;
        }
        Ok(terms)
    }
}

impl Message {
    /// The bytes of the message. Their number depends on the kind only.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(192);
        bytes.push(self.body.kind());
        bytes.extend_from_slice(&self.header.vm);
        let header = &self.header;
        let (generation, incarnation) = (header.generation.0, header.incarnation.0);
        for field in [generation, incarnation, header.session, header.sequence, header.stamp, header.echo] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        let mut numbers = |fields: &[u64]| {
            for field in fields {
                bytes.extend_from_slice(&field.to_le_bytes());
            }
        };
        match self.body {
            Body::Hello { terms, backup } => {
                numbers(&[backup.0]);
                terms.encode(&mut bytes);
            }
            Body::Welcome { terms, stored, replayed } => {
                numbers(&[stored.0, replayed.0]);
                terms.encode(&mut bytes);
            }
            Body::Commit { position, released } | Body::HandOver { position, released } => {
                numbers(&[position.0, released.index.0]);
                bytes.extend_from_slice(&released.fingerprint.0);
            }
            Body::Heartbeat { released } => {
                numbers(&[released.index.0]);
                bytes.extend_from_slice(&released.fingerprint.0);
            }
            Body::Entries { released, first, through } => {
                numbers(&[released.index.0, first.0, through.0]);
                bytes.extend_from_slice(&released.fingerprint.0);
            }
            Body::Answer { stored, replayed, released, lacks } => {
                numbers(&[stored.0, replayed.0, released.0]);
                bytes.push(lacks);
            }
            Body::Farewell { exit_status } => bytes.extend_from_slice(&exit_status.to_le_bytes()),
            Body::Restored { position, digest } => {
                numbers(&[position.0]);
                bytes.extend_from_slice(&digest.0);
            }
            Body::Transfer => {}
        }
        bytes
    }

    /// Reads a message back; every byte must belong to it.
    pub fn decode(bytes: &[u8]) -> Result<Message, WireError> {
        let mut reader = Reader { rest: bytes, total: bytes.len() };
        let [kind] = reader.take()?;
        let header = Header {
            vm: reader.take()?,
            generation: Generation(reader.number()?),
            incarnation: Incarnation(reader.number()?),
            session: reader.number()?,
            sequence: reader.number()?,
            stamp: reader.number()?,
            echo: reader.number()?,
        };
        let body = match kind {
            1 => Body::Hello { backup: Incarnation(reader.number()?), terms: reader.terms()? },
            2 => Body::Welcome { stored: reader.position()?, replayed: reader.position()?, terms: reader.terms()? },
            3 => {
                let (position, index) = (reader.position()?, reader.index()?);
                Body::Commit { position, released: OutputMark { index, fingerprint: reader.fingerprint()? } }
            }
            4 => {
                let index = reader.index()?;
                Body::Heartbeat { released: OutputMark { index, fingerprint: reader.fingerprint()? } }
            }
            5 => {
                let (index, first, through) = (reader.index()?, reader.position()?, reader.position()?);
                Body::Entries { released: OutputMark { index, fingerprint: reader.fingerprint()? }, first, through }
            }
            6 => {
                let (stored, replayed, released) = (reader.position()?, reader.position()?, reader.index()?);
                let [lacks] = reader.take()?;
                Body::Answer { stored, replayed, released, lacks }
            }
            7 => Body::Farewell { exit_status: i32::from_le_bytes(reader.take()?) },
            8 => Body::Restored { position: reader.position()?, digest: reader.fingerprint()? },
            9 => Body::Transfer,
            10 => {
                let (position, index) = (reader.position()?, reader.index()?);
                Body::HandOver { position, released: OutputMark { index, fingerprint: reader.fingerprint()? } }
            }
            _ => return Err(WireError::Kind(kind)),
        };
        if !reader.rest.is_empty() {
            return Err(WireError::Length(bytes.len()));
        }
        Ok(Message { header, body })
    }
}

impl Terms {
    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.digest);
        bytes.extend_from_slice(&self.determinism_pass.to_le_bytes());
        bytes.extend_from_slice(&self.host.vendor);
        bytes.extend_from_slice(&self.host.signature.to_le_bytes());
        bytes.extend_from_slice(&[self.host.kvm, self.host.counts]);
        for bound in self.bounds {
            bytes.extend_from_slice(&bound.to_le_bytes());
        }
    }
}

impl Body {
    fn kind(&self) -> u8 {
        match self {
            Body::Hello { .. } => 1,
            Body::Welcome { .. } => 2,
            Body::Commit { .. } => 3,
            Body::Heartbeat { .. } => 4,
            Body::Entries { .. } => 5,
            Body::Answer { .. } => 6,
            Body::Farewell { .. } => 7,
            Body::Restored { .. } => 8,
            Body::Transfer => 9,
            Body::HandOver { .. } => 10,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn terms() -> impl Strategy<Value = Terms> {
        let host = any::<([u8; 12], u32, u8, u8)>().prop_map(|(vendor, signature, kvm, counts)| HostKind {
            vendor,
            signature,
            kvm,
            counts,
        });
        (any::<([u8; 32], u32, [u64; Terms::BOUNDS.len()])>(), host)
            .prop_map(|((digest, determinism_pass, bounds), host)| Terms { digest, determinism_pass, host, bounds })
    }

    fn marks() -> impl Strategy<Value = OutputMark> {
        (any::<u64>(), any::<[u8; 16]>())
            .prop_map(|(index, bytes)| OutputMark { index: OutputIndex(index), fingerprint: Fingerprint(bytes) })
    }

    fn positions() -> impl Strategy<Value = LogPosition> {
        any::<u64>().prop_map(LogPosition)
    }

    fn bodies() -> impl Strategy<Value = Body> {
        prop_oneof![
            (terms(), any::<u64>()).prop_map(|(terms, backup)| Body::Hello { terms, backup: Incarnation(backup) }),
            (terms(), positions(), positions()).prop_map(|(terms, stored, replayed)| Body::Welcome {
                terms,
                stored,
                replayed
            }),
            (positions(), marks()).prop_map(|(position, released)| Body::Commit { position, released }),
            marks().prop_map(|released| Body::Heartbeat { released }),
            (marks(), positions(), positions()).prop_map(|(released, first, through)| Body::Entries {
                released,
                first,
                through
            }),
            (positions(), positions(), marks(), any::<u8>()).prop_map(|(stored, replayed, mark, lacks)| Body::Answer {
                stored,
                replayed,
                released: mark.index,
                lacks
            }),
            any::<i32>().prop_map(|exit_status| Body::Farewell { exit_status }),
            (positions(), marks()).prop_map(|(position, released)| Body::HandOver { position, released }),
        ]
    }

    proptest! {
        #[test]
        fn a_message_survives_its_encoding(vm: [u8; 16], fields: [u64; 6], body in bodies()) {
            let [generation, incarnation, session, sequence, stamp, echo] = fields;
            let (generation, incarnation) = (Generation(generation), Incarnation(incarnation));
            let header = Header { vm, generation, incarnation, session, sequence, stamp, echo };
            let message = Message { header, body };
            prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
        }

        #[test]
        fn no_bytes_make_the_decoder_panic_and_none_are_ignored(bytes: Vec<u8>) {
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert_eq!(message.encode(), bytes);
            }
        }
    }
}
