//! What a node is to the VM.

use std::fmt;

/// The states of the protocol. `Alone` and `Protected` are the primary without and with a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A fresh process, entitled to nothing (R1).
    Spare,
    /// Connected to a primary, not committed to: entitled to nothing (R14).
    Joining,
    /// Holds the log, answers the primary, may become a candidate.
    Backup,
    /// Suspects the primary: silent, drains its log, waits the lease out, asks the arbiter (R9, R10).
    Candidate,
    /// Won the arbiter as a backup; attaches the devices (R16).
    Won,
    /// The primary of its generation, without a backup: releases outputs freely.
    Alone,
    /// The primary with a backup: releases what R5 allows.
    Protected,
    /// Out: nothing is attached, nothing is said. The way back is a new process.
    Halted,
}

impl Role {
    /// Whether this node runs the guest live, or would if the guest were started.
    pub fn is_primary(self) -> bool {
        matches!(self, Role::Alone | Role::Protected)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Role::Spare => "SPARE",
            Role::Joining => "JOINING",
            Role::Backup => "BACKUP",
            Role::Candidate => "CANDIDATE",
            Role::Won => "WON",
            Role::Alone => "ALONE",
            Role::Protected => "PROTECTED",
            Role::Halted => "HALTED",
        })
    }
}
