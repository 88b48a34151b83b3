//! What nodes count and know each other by: a type each, so that none is taken for another. Plain numbers they are only at the edges: on
//! the wire, in files, for Python.

use std::fmt;

use serde::Serialize;

/// Which owner of the VM: whoever wins the arbiter makes the next one (R8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Generation(pub u64);

impl Generation {
    /// Of a node that belongs to none yet.
    pub const NONE: Generation = Generation(0);
    /// The bootstrap's (R2).
    pub const FIRST: Generation = Generation(1);

    /// The one that is won next.
    pub fn next(self) -> Generation {
        Generation(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The random number of a process start (R1). Two are the same or not; neither is the greater one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// Of nobody.
    pub const NONE: Incarnation = Incarnation(0);
}

impl fmt::Display for Incarnation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

/// The number of an output, in program order over all devices of the VM; outputs count from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct OutputIndex(pub u64);

impl OutputIndex {
    /// Of none, before all outputs.
    pub const NONE: OutputIndex = OutputIndex(0);

    /// The next output's.
    pub fn next(self) -> OutputIndex {
        OutputIndex(self.0 + 1)
    }
}

impl fmt::Display for OutputIndex {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}
