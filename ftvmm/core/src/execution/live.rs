//! A live run, recorded or not.

use super::{Ending, ExecutionError, Interruption, Outcome};
use crate::devices::World;
use crate::log::{End, Entry, Fingerprint, LogPosition, LogWriter};
use crate::machine::{Machine, MachineError, Request};
use crate::remark::remark;

/// Runs the guest to its end, against `world`, and records what it was told.
///
/// # Errors
/// Where a device, the recording or KVM fails. A trap of the guest is no error but an [`Ending`].
pub fn run(
    machine: &mut Machine,
    world: &mut World,
    mut recording: Option<LogWriter>,
    interruption: Option<&Interruption>,
) -> Result<Outcome, ExecutionError> {
    machine.interrupt_long_computing()?;
    let mut position = LogPosition::START;
    let ending = loop {
        let request = match machine.run() {
            Ok(Request::Halt { exit_status }) => break Ending::Halted { exit_status },
            Ok(request) => request,
            Err(MachineError::Trap(report)) => break Ending::Trapped(report),
            Err(MachineError::Interrupted) if is_interrupted(interruption) => break Ending::Interrupted,
            Err(MachineError::Interrupted) => {
                if let Some(starvation) = machine.starvation(|| world.devices.readable() != 0) {
                    remark(format!("ftvmm: {starvation}"));
                }
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let wake = interruption.map(Interruption::wake);
        let answer = loop {
            match world.answer(&request, wake)? {
                Some(answer) => break Some(answer),
                None if is_interrupted(interruption) => break None,
                None => {}
            }
        };
        let Some(answer) = answer else { break Ending::Interrupted };
        if request.is_input() {
            position = position.next();
        }
        if request.is_input()
            && let Some(recording) = &mut recording
        {
            let fingerprint = machine.fingerprint();
            let entry = Entry { position, fingerprint, answer };
            recording.append(&entry)?;
            machine.answer(&entry.answer)?;
        } else {
            machine.answer(&answer)?;
        }
    };
    let outcome = conclude(machine, ending, position);
    if let (Some(recording), Some(kind)) = (recording, outcome.ending.kind()) {
        let Outcome { position, fingerprint, state_digest, .. } = outcome;
        recording.end(&End { kind, position, fingerprint, state_digest })?;
    }
    Ok(outcome)
}

pub(super) fn conclude(machine: &mut Machine, ending: Ending, position: LogPosition) -> Outcome {
    let state_digest = match ending {
        // Between two exits the guest may be anywhere.
        Ending::Interrupted => Fingerprint::default(),
        _ => machine.state_digest(),
    };
    Outcome { ending, position, fingerprint: machine.fingerprint(), state_digest }
}

pub(super) fn is_interrupted(interruption: Option<&Interruption>) -> bool {
    interruption.is_some_and(Interruption::is_interrupted)
}
