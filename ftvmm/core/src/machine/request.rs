//! What a guest asks for and what it is told: the border between a machine and whoever drives it.

use serde::{Deserialize, Serialize};

/// The largest block transfer of one hypercall; a longer one is answered EINVAL.
pub const BLOCK_TRANSFER_BYTES_MAX: u32 = 1 << 20;
/// The longest console output of one hypercall; a longer one stops the guest with a report.
pub const CONSOLE_BYTES_MAX: u64 = 1 << 20;
/// The Ethernet header that comes before an MTU's worth of data.
pub const ETHERNET_HEADER_BYTES: u32 = 14;

/// A question or an output of the guest; pointers and lengths are already checked against guest memory.
///
/// `device` is the device's index in the image's manifest, which is the guest's handle for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Input: nanoseconds since the epoch.
    Walltime,
    /// Input: wait until a network device is readable, or the time is over.
    Poll { timeout_nanoseconds: u64 },
    /// Input: `length` bytes at `offset`, both multiples of the sector size and within the device.
    BlockRead { device: u8, offset: u64, length: u32 },
    /// Input: the next received frame that has at most `capacity` bytes; a longer one is dropped whole.
    NetworkRead { device: u8, capacity: u32 },
    /// Input: the result of a non-deterministic instruction.
    Instruction(Instruction),
    /// Output.
    Console { data: Vec<u8> },
    /// Output.
    BlockWrite { device: u8, offset: u64, data: Vec<u8> },
    /// Output.
    NetworkWrite { device: u8, frame: Vec<u8> },
    /// The end: the guest runs no further.
    Halt { exit_status: i32 },
}

impl Request {
    /// Whether the answer is an input, which a log entry has to carry.
    pub fn is_input(&self) -> bool {
        matches!(
            self,
            Request::Walltime
                | Request::Poll { .. }
                | Request::BlockRead { .. }
                | Request::NetworkRead { .. }
                | Request::Instruction(_)
        )
    }

    /// Whether it leaves the VM: the Output Rule holds for it.
    pub fn is_output(&self) -> bool {
        matches!(self, Request::Console { .. } | Request::BlockWrite { .. } | Request::NetworkWrite { .. })
    }

    /// Whether `answer` is of the kind that this request takes.
    pub fn takes(&self, answer: &Answer) -> bool {
        match (self, answer) {
            (Request::Walltime, Answer::Walltime { .. })
            | (Request::Poll { .. }, Answer::Poll { .. })
            | (Request::Instruction(Instruction::Rdtsc), Answer::Counter { .. })
            | (Request::Instruction(Instruction::Rdtscp), Answer::CounterWithAux { .. })
            | (Request::Instruction(Instruction::Rdrand { .. } | Instruction::Rdseed { .. }), Answer::Random { .. }) => {
                true
            }
            (Request::BlockRead { length, .. }, Answer::BlockRead { result, data }) => match result {
                HypercallResult::Ok => data.len() == *length as usize,
                _ => data.is_empty(),
            },
            (Request::NetworkRead { capacity, .. }, Answer::NetworkRead { frame }) => {
                frame.as_ref().is_none_or(|frame| frame.len() <= *capacity as usize)
            }
            (request, Answer::Done) => request.is_output(),
            _ => false,
        }
    }
}

/// A non-deterministic instruction whose result is an input. Registers are numbered as in the encoding (0 = RAX).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Instruction {
    Rdtsc,
    Rdtscp,
    Rdrand { register: u8, width_bytes: u8 },
    Rdseed { register: u8, width_bytes: u8 },
}

/// What the guest is told; for an input this is what a log entry carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Walltime {
        nanoseconds: u64,
    },
    /// One bit per readable device, numbered by manifest index.
    Poll {
        ready_set: u64,
    },
    /// `data` is as long as was asked for, and empty where `result` is not OK.
    BlockRead {
        result: HypercallResult,
        data: Vec<u8>,
    },
    /// `None`: nothing to read (AGAIN).
    NetworkRead {
        frame: Option<Vec<u8>>,
    },
    /// RDTSC.
    Counter {
        value: u64,
    },
    /// RDTSCP.
    CounterWithAux {
        value: u64,
        aux: u32,
    },
    /// RDRAND and RDSEED, which always succeed; the value is cut to the register's width.
    Random {
        value: u64,
    },
    /// The answer to every output.
    Done,
}

/// `solo5_result_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HypercallResult {
    Ok,
    Again,
    InvalidArgument,
    Unspecified,
}

impl HypercallResult {
    /// The number of this result in the ABI.
    pub fn code(self) -> u8 {
        match self {
            HypercallResult::Ok => 0,
            HypercallResult::Again => 1,
            HypercallResult::InvalidArgument => 2,
            HypercallResult::Unspecified => 3,
        }
    }

    /// The result that has this number in the ABI.
    pub fn from_code(code: u8) -> Option<HypercallResult> {
        Some(match code {
            0 => HypercallResult::Ok,
            1 => HypercallResult::Again,
            2 => HypercallResult::InvalidArgument,
            3 => HypercallResult::Unspecified,
            _ => return None,
        })
    }
}
