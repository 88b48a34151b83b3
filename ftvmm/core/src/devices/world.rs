//! What answers the guest's requests where nobody else has a say: a VM that `ftvmm run` runs.

use std::os::fd::BorrowedFd;

use super::clock::{self, GuestClock};
use super::{Console, DeviceError, Devices, random};
use crate::machine::{Answer, HypercallResult, Instruction, Request};

/// The outside world of a VM that runs alone.
pub struct World {
    pub console: Console,
    pub clock: GuestClock,
    pub devices: Devices,
}

impl World {
    /// A world without devices, whose counter starts now.
    pub fn new(console: Console) -> World {
        let clock = GuestClock::starting_at(clock::boottime_nanoseconds());
        World { console, clock, devices: Devices::default() }
    }

    /// The answer to a request, and for an output what it asks for; `None` where a wait was interrupted.
    ///
    /// [`Request::Halt`] has no answer, and is answered [`Answer::Done`].
    pub fn answer(&mut self, request: &Request, wake: Option<BorrowedFd<'_>>) -> Result<Option<Answer>, DeviceError> {
        Ok(Some(match request {
            Request::Walltime => Answer::Walltime { nanoseconds: self.clock.wall_now() },
            Request::Instruction(instruction) => instruction_answer(&mut self.clock, *instruction)?,
            Request::Poll { timeout_nanoseconds } => {
                let ready = self.devices.poll(*timeout_nanoseconds, wake);
                return Ok(ready.map(|ready_set| Answer::Poll { ready_set }));
            }
            Request::NetworkRead { device, capacity } => {
                Answer::NetworkRead { frame: self.devices.receive_frame(*device, *capacity) }
            }
            Request::BlockRead { device, offset, length } => {
                let data = self.devices.read_block(*device, *offset, *length)?;
                Answer::BlockRead { result: HypercallResult::Ok, data }
            }
            Request::Console { data } => {
                self.console.write(data)?;
                Answer::Done
            }
            Request::BlockWrite { device, offset, data } => {
                self.devices.write_block(*device, *offset, data)?;
                Answer::Done
            }
            Request::NetworkWrite { device, frame } => {
                match self.devices.send_frame(*device, frame) {
                    // No other host could send it: to this guest it is a cable that is unplugged.
                    Err(error) if !error.is_down() => return Err(error),
                    _ => Answer::Done,
                }
            }
            Request::Halt { .. } => Answer::Done,
        }))
    }
}

/// What a rewritten instruction gives a guest that runs live.
///
/// # Errors
/// The host has no random numbers.
pub fn instruction_answer(clock: &mut GuestClock, instruction: Instruction) -> Result<Answer, DeviceError> {
    Ok(match instruction {
        Instruction::Rdtsc => Answer::Counter { value: clock.counter_now() },
        Instruction::Rdtscp => Answer::CounterWithAux { value: clock.counter_now(), aux: 0 },
        Instruction::Rdrand { .. } | Instruction::Rdseed { .. } => {
            let bytes = random().map_err(|source| DeviceError::Failed {
                kind: "random number source",
                name: "getrandom".into(),
                operation: "read",
                source,
            })?;
            Answer::Random { value: u64::from_le_bytes(bytes) }
        }
    })
}
