//! All devices of one VM: finds the answer to each of the guest's requests.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};

use super::clock::{self, GuestClock};
use super::{BlockFile, Console, DeviceError, Readiness, Tap, wait};
use crate::machine::{Answer, HypercallResult, Instruction, Request};

/// The outside world of a VM that runs live. Devices are numbered by manifest index.
pub struct World {
    pub console: Console,
    pub clock: GuestClock,
    pub taps: BTreeMap<u8, Tap>,
    pub blocks: BTreeMap<u8, BlockFile>,
}

impl World {
    /// A world without devices, whose counter starts now.
    pub fn new(console: Console) -> World {
        let clock = GuestClock::starting_at(clock::boottime_nanoseconds());
        World { console, clock, taps: BTreeMap::new(), blocks: BTreeMap::new() }
    }

    /// The answer to a request, and for an output what it asks for; `None` where a wait was interrupted.
    ///
    /// [`Request::Halt`] has no answer, and is answered [`Answer::Done`].
    pub fn answer(&mut self, request: &Request, wake: Option<BorrowedFd<'_>>) -> Result<Option<Answer>, DeviceError> {
        Ok(Some(match request {
            Request::Walltime => {
                let (realtime, boottime) = (clock::wall_nanoseconds(), clock::boottime_nanoseconds());
                Answer::Walltime { nanoseconds: self.clock.wall(realtime, boottime) }
            }
            Request::Poll { timeout_nanoseconds } => return self.poll(*timeout_nanoseconds, wake),
            Request::BlockRead { device, offset, length } => {
                let data = self.block(*device)?.read(*offset, *length)?;
                Answer::BlockRead { result: HypercallResult::Ok, data }
            }
            Request::NetworkRead { device, capacity } => {
                Answer::NetworkRead { frame: self.tap(*device)?.read(*capacity)? }
            }
            Request::Instruction(instruction) => self.instruction(*instruction)?,
            Request::Console { data } => {
                self.console.write(data)?;
                Answer::Done
            }
            Request::BlockWrite { device, offset, data } => {
                self.block(*device)?.write(*offset, data)?;
                Answer::Done
            }
            Request::NetworkWrite { device, frame } => {
                match self.tap(*device)?.write(frame) {
                    // No other host could send it: to this guest it is a cable that is unplugged.
                    Err(error) if !error.is_down() => return Err(error),
                    _ => Answer::Done,
                }
            }
            Request::Halt { .. } => Answer::Done,
        }))
    }

    /// Whether frames wait for the guest.
    pub fn has_frames(&self) -> bool {
        matches!(self.poll(0, None), Ok(Some(Answer::Poll { ready_set })) if ready_set != 0)
    }

    fn poll(&self, timeout_nanoseconds: u64, wake: Option<BorrowedFd<'_>>) -> Result<Option<Answer>, DeviceError> {
        let descriptors: Vec<_> = self.taps.iter().map(|(device, tap)| (*device, tap.as_fd())).collect();
        match wait(&descriptors, wake, timeout_nanoseconds) {
            Ok(Readiness::Ready { set }) => Ok(Some(Answer::Poll { ready_set: set })),
            Ok(Readiness::Interrupted) => Ok(None),
            Err(source) => {
                Err(DeviceError::Failed { kind: "network devices", name: "all".into(), operation: "wait", source })
            }
        }
    }

    fn instruction(&mut self, instruction: Instruction) -> Result<Answer, DeviceError> {
        Ok(match instruction {
            Instruction::Rdtsc => Answer::Counter { value: self.counter() },
            Instruction::Rdtscp => Answer::CounterWithAux { value: self.counter(), aux: 0 },
            Instruction::Rdrand { .. } | Instruction::Rdseed { .. } => Answer::Random { value: random()? },
        })
    }

    fn counter(&mut self) -> u64 {
        self.clock.counter(clock::boottime_nanoseconds())
    }

    fn tap(&mut self, device: u8) -> Result<&mut Tap, DeviceError> {
        self.taps.get_mut(&device).ok_or(DeviceError::Missing { device })
    }

    fn block(&self, device: u8) -> Result<&BlockFile, DeviceError> {
        self.blocks.get(&device).ok_or(DeviceError::Missing { device })
    }
}

fn random() -> Result<u64, DeviceError> {
    let mut bytes = [0; 8];
    // SAFETY: the buffer has the length that is given.
    match unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) } {
        8 => Ok(u64::from_le_bytes(bytes)),
        _ => Err(DeviceError::Failed {
            kind: "random number source",
            name: "getrandom".into(),
            operation: "read",
            source: std::io::Error::last_os_error(),
        }),
    }
}
