//! Why a machine cannot be built or cannot go on.

use std::fmt;

use thiserror::Error;

use super::Request;
use crate::determinism::DeterminismError;

/// Why a machine cannot be built or cannot go on.
#[derive(Debug, Error)]
pub enum MachineError {
    /// A KVM operation failed.
    #[error("KVM refused to {operation}: {source}")]
    Kvm { operation: &'static str, source: std::io::Error },
    /// The host cannot run guests.
    #[error("this host cannot run the VM: {reason}")]
    Host { reason: String },
    /// Memory for the guest cannot be had.
    #[error("cannot reserve {bytes} bytes of guest memory: {reason}")]
    Memory { bytes: u64, reason: String },
    /// The configuration does not fit the image, or itself.
    #[error("{reason}")]
    Config { reason: String },
    /// The image cannot be made deterministic.
    #[error(transparent)]
    Determinism(#[from] DeterminismError),
    /// Someone kicked the vCPU; `run` again to go on.
    #[error("the vCPU was interrupted")]
    Interrupted,
    /// The guest did what it may not: it runs no further, on any replica.
    #[error("{0}")]
    Trap(Box<TrapReport>),
    /// The driver gave an answer that the request does not take, or none was asked for.
    #[error("the answer does not fit the request: {answer} for {request}")]
    Answer { request: String, answer: &'static str },
    /// `run` was called before the last request was answered, or after the end.
    #[error("the guest cannot run: {reason}")]
    NotRunnable { reason: &'static str },
}

impl MachineError {
    pub(crate) fn kvm(operation: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> MachineError {
        move |error| MachineError::Kvm { operation, source: std::io::Error::from_raw_os_error(error.errno()) }
    }

    pub(crate) fn answer(request: Option<&Request>, answer: &super::Answer) -> MachineError {
        let request = match request {
            None => "no request at all".to_owned(),
            Some(Request::BlockRead { length, .. }) => format!("a block read of {length} bytes"),
            Some(Request::NetworkRead { capacity, .. }) => format!("a network read of at most {capacity} bytes"),
            Some(Request::Walltime) => "a wall time request".to_owned(),
            Some(Request::Poll { .. }) => "a poll".to_owned(),
            Some(Request::Instruction(instruction)) => format!("{instruction:?}"),
            Some(_) => "an output".to_owned(),
        };
        let answer = match answer {
            super::Answer::Walltime { .. } => "wall time",
            super::Answer::Poll { .. } => "ready set",
            super::Answer::BlockRead { .. } => "block data",
            super::Answer::NetworkRead { .. } => "frame",
            super::Answer::Counter { .. } => "counter",
            super::Answer::CounterWithAux { .. } => "counter with auxiliary value",
            super::Answer::Random { .. } => "random value",
            super::Answer::Done => "done",
        };
        MachineError::Answer { request, answer }
    }
}

/// What a guest did to be stopped, with the registers that tell where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrapReport {
    /// The exception's vector, or `None` where a hypercall was to blame.
    pub vector: Option<u8>,
    pub error_code: u64,
    pub rip: u64,
    pub rsp: u64,
    pub cr2: u64,
    pub reason: String,
}

impl TrapReport {
    /// The status that the stock Solo5 handlers halt with after a trap.
    pub const EXIT_STATUS: i32 = 255;
}

impl fmt::Display for TrapReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the guest was stopped: {}", self.reason)?;
        if let Some(vector) = self.vector {
            write!(formatter, " (vector {vector}, error code {:#x})", self.error_code)?;
        }
        write!(formatter, " at RIP {:#x}, RSP {:#x}, CR2 {:#x}", self.rip, self.rsp, self.cr2)
    }
}
