//! A machine run alone: live, recorded or replayed.

mod interruption;
mod live;
mod outputs;
mod replay;
mod setup;

pub use interruption::Interruption;
pub use live::run;
pub use outputs::Outputs;
pub use replay::replay;
pub use setup::{
    BlockAttachment, NetworkAttachment, Recorded, RunConfig, SetupError, parse_mac, prepare_replay, prepare_run,
    read_image,
};

use thiserror::Error;

use crate::devices::DeviceError;
use crate::log::{EndKind, Fingerprint, LogError, LogPosition};
use crate::machine::{MachineError, TrapReport};

/// How a run came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub ending: Ending,
    /// The number of inputs that the guest got.
    pub position: LogPosition,
    pub fingerprint: Fingerprint,
    pub state_digest: Fingerprint,
}

/// Why a run is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    Halted {
        exit_status: i32,
    },
    Trapped(Box<TrapReport>),
    Interrupted,
    /// Replay only: the guest asks for an input that a log without an end record does not hold.
    LogEnded,
}

impl Ending {
    /// `None` for what is no end of a run.
    fn kind(&self) -> Option<EndKind> {
        match self {
            Ending::Halted { exit_status } => Some(EndKind::Halted { exit_status: *exit_status }),
            Ending::Trapped(_) => Some(EndKind::Trapped),
            Ending::Interrupted => Some(EndKind::Interrupted),
            Ending::LogEnded => None,
        }
    }

    /// The word for it in what programs read.
    pub fn word(&self) -> &'static str {
        match self {
            Ending::Halted { .. } => "halted",
            Ending::Trapped(_) => "trapped",
            Ending::Interrupted => "interrupted",
            Ending::LogEnded => "log-ended",
        }
    }
}

/// Why a run could not be brought to its end.
#[derive(Debug, Error)]
pub enum ExecutionError {
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("the outputs cannot be written: {0}")]
    Outputs(std::io::Error),
    /// The guest did not do what the log says that it did.
    #[error("the replay diverges from the log at position {position}: {reason}")]
    Divergence { position: LogPosition, reason: String },
}
