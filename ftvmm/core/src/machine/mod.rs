//! A virtual machine on KVM: one vCPU at CPL 3 that stops at each hypercall.

mod config;
mod cpuid;
mod error;
mod request;

pub use config::{COUNTER_FREQUENCY_HERTZ, DeviceConfig, MTU_BYTES, MachineConfig, SECTOR_BYTES};
pub use cpuid::{CpuidLeaf, CpuidTable};
pub use error::{MachineError, TrapReport};
pub use request::{
    Answer, BLOCK_TRANSFER_BYTES_MAX, CONSOLE_BYTES_MAX, ETHERNET_HEADER_BYTES, HypercallResult, Instruction, Request,
};

use crate::image::Image;
use crate::log::Fingerprint;

/// A VM: memory and one vCPU. Owned and run by one thread at a time.
pub struct Machine;

/// Makes a `run` in another thread return [`MachineError::Interrupted`].
#[derive(Clone)]
pub struct Kicker;

impl Kicker {
    /// Interrupts the current `run`, or else the next.
    pub fn kick(&self) {}
}

impl Machine {
    /// Builds the VM up to its first instruction.
    pub fn new(_image: &Image, _config: &MachineConfig) -> Result<Machine, MachineError> {
        Err(MachineError::NotRunnable { reason: "not built yet" })
    }

    /// Enters the guest until it asks for something, and chains the request into the fingerprint.
    pub fn run(&mut self) -> Result<Request, MachineError> {
        Err(MachineError::NotRunnable { reason: "not built yet" })
    }

    /// Gives the guest the answer to its last request, and chains it.
    pub fn answer(&mut self, answer: &Answer) -> Result<(), MachineError> {
        Err(MachineError::answer(None, answer))
    }

    /// The chain so far.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::default()
    }

    /// A digest of all memory and registers; slow.
    pub fn state_digest(&mut self) -> Fingerprint {
        Fingerprint::default()
    }

    /// A handle by which another thread interrupts `run`.
    pub fn kicker(&self) -> Kicker {
        Kicker
    }
}
