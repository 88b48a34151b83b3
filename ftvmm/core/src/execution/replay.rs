//! Replaying a recorded run: the same guest, told the same, with no network, disk or clock.

use super::live::{conclude, is_interrupted};
use super::{Ending, ExecutionError, Interruption, Outcome};
use crate::devices::Console;
use crate::log::{End, EndKind, LogReader, Record};
use crate::machine::{Answer, Machine, MachineError, Request};

/// Replays `log` to its end; console output goes to `console`, all other output nowhere.
///
/// The whole log is checked before the guest runs.
///
/// # Errors
/// [`ExecutionError::Divergence`] at the first request, or in the final state, that is not what was recorded.
pub fn replay(
    machine: &mut Machine,
    log: &mut LogReader,
    console: &mut Console,
    interruption: Option<&Interruption>,
) -> Result<Outcome, ExecutionError> {
    let end = log.check_all()?;
    let mut position = 0;
    let ending = loop {
        // The recorded run was stopped by its operator at this very point.
        if end.kind == EndKind::Interrupted && position == end.position && machine.fingerprint() == end.fingerprint {
            break Ending::Interrupted;
        }
        let request = match machine.run() {
            Ok(Request::Halt { exit_status }) => break Ending::Halted { exit_status },
            Ok(request) => request,
            Err(MachineError::Trap(report)) => break Ending::Trapped(report),
            Err(MachineError::Interrupted) if is_interrupted(interruption) => {
                return Ok(conclude(machine, Ending::Interrupted, position));
            }
            Err(MachineError::Interrupted) => continue,
            Err(error) => return Err(error.into()),
        };
        if request.is_input() {
            match next_answer(machine, log, &request, position + 1, &end)? {
                Some(answer) => machine.answer(&answer)?,
                None => break Ending::Interrupted,
            }
            position += 1;
        } else {
            if let Request::Console { data } = &request {
                console.write(data)?;
            }
            machine.answer(&Answer::Done)?;
        }
    };
    let outcome = conclude(machine, ending, position);
    check_end(&outcome, &end)?;
    Ok(outcome)
}

/// The logged answer to an input; `None` where the recorded run was interrupted while the guest waited for it.
fn next_answer(
    machine: &Machine,
    log: &mut LogReader,
    request: &Request,
    position: u64,
    end: &End,
) -> Result<Option<Answer>, ExecutionError> {
    let diverges = |reason: String| ExecutionError::Divergence { position, reason };
    let fingerprint = machine.fingerprint();
    match log.read()? {
        Record::End(_) if end.kind == EndKind::Interrupted && fingerprint == end.fingerprint => Ok(None),
        Record::End(_) => Err(diverges("the guest asks for an input and the log has come to its end".into())),
        Record::Entry { entry, .. } if entry.fingerprint != fingerprint => {
            let reason = format!("the fingerprint is {fingerprint}, and {} was recorded", entry.fingerprint);
            Err(diverges(reason))
        }
        Record::Entry { entry, .. } if !request.takes(&entry.answer) => {
            Err(diverges("the recorded answer is not one to this request".into()))
        }
        Record::Entry { entry, .. } => Ok(Some(entry.answer)),
    }
}

fn check_end(outcome: &Outcome, end: &End) -> Result<(), ExecutionError> {
    let diverges = |reason: String| Err(ExecutionError::Divergence { position: outcome.position, reason });
    if outcome.ending.kind() != end.kind || outcome.position != end.position {
        let found = (outcome.ending.kind(), outcome.position);
        return diverges(format!(
            "the guest came to its end as {found:?}, and {:?} was recorded",
            (end.kind, end.position)
        ));
    }
    if outcome.fingerprint != end.fingerprint {
        return diverges(format!(
            "the final fingerprint is {}, and {} was recorded",
            outcome.fingerprint, end.fingerprint
        ));
    }
    if outcome.state_digest != end.state_digest {
        let found = outcome.state_digest;
        return diverges(format!("the final state's digest is {found}, and {} was recorded", end.state_digest));
    }
    Ok(())
}
