//! Replaying a recorded run: the same guest, told the same, with no network, disk or clock.

use super::live::{conclude, is_interrupted};
use super::{Ending, ExecutionError, Interruption, Outcome, Outputs, Recorded};
use crate::log::{Close, End, EndKind, LogPosition, Record};
use crate::machine::{Answer, Machine, MachineError, Request};

/// Replays a log to its end; a log without an end record to the first input that it does not hold.
///
/// # Errors
/// [`ExecutionError::Divergence`] at the first request, or in the final state, that is not what was recorded. `outputs`
/// has taken what came before.
pub fn replay(
    machine: &mut Machine,
    recorded: &mut Recorded,
    outputs: &mut Outputs,
    interruption: Option<&Interruption>,
) -> Result<Outcome, ExecutionError> {
    let outcome = replay_all(machine, recorded, outputs, interruption);
    let outcome = outcome.map_err(|error| with_host(error, recorded.other_host.as_deref()));
    outputs.end(&outcome, machine.fingerprint())?;
    outcome
}

/// A divergence may be the host's, if the guest depends on it.
fn with_host(error: ExecutionError, other_host: Option<&str>) -> ExecutionError {
    match (error, other_host) {
        (ExecutionError::Divergence { position, reason }, Some(other_host)) => {
            ExecutionError::Divergence { position, reason: format!("{reason}; {other_host}") }
        }
        (error, _) => error,
    }
}

fn replay_all(
    machine: &mut Machine,
    recorded: &mut Recorded,
    outputs: &mut Outputs,
    interruption: Option<&Interruption>,
) -> Result<Outcome, ExecutionError> {
    let interrupted_at = match recorded.close {
        Close::End(end) if end.kind == EndKind::Interrupted => Some((end.position, end.fingerprint)),
        _ => None,
    };
    let mut position = LogPosition::START;
    let ending = loop {
        // The recorded run was stopped by its operator at this very point.
        if interrupted_at == Some((position, machine.fingerprint())) {
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
            if outputs.wants_state(position) {
                outputs.state(position, machine.carried_digest()?)?;
            }
            match next(machine, recorded, &request, position.next())? {
                Next::Answer(answer) => machine.answer(&answer)?,
                Next::Ending(ending) => break ending,
            }
            position = position.next();
        } else {
            outputs.take(position, request)?;
            machine.answer(&Answer::Done)?;
        }
    };
    let outcome = conclude(machine, ending, position);
    match recorded.close {
        Close::End(end) => check_end(&outcome, &end)?,
        Close::Cut(cut) if outcome.position != cut.position => {
            let reason = format!("the guest came to its end, and the log goes on to position {}", cut.position);
            return Err(ExecutionError::Divergence { position, reason });
        }
        Close::Cut(_) => {}
    }
    Ok(outcome)
}

/// What the log has for an input.
enum Next {
    Answer(Answer),
    /// The recorded run got no answer: the log stops while the guest waits for it.
    Ending(Ending),
}

fn next(
    machine: &Machine,
    recorded: &mut Recorded,
    request: &Request,
    position: LogPosition,
) -> Result<Next, ExecutionError> {
    let diverges = |reason: String| ExecutionError::Divergence { position, reason };
    let fingerprint = machine.fingerprint();
    match recorded.log.read()? {
        Record::Close(Close::Cut(_)) => Ok(Next::Ending(Ending::LogEnded)),
        Record::Close(Close::End(end)) if end.kind == EndKind::Interrupted && fingerprint == end.fingerprint => {
            Ok(Next::Ending(Ending::Interrupted))
        }
        Record::Close(Close::End(_)) => {
            Err(diverges("the guest asks for an input and the log has come to its end".into()))
        }
        Record::Entry { entry, .. } => {
            entry.check(position, fingerprint, request).map_err(diverges)?;
            Ok(Next::Answer(entry.answer))
        }
    }
}

fn check_end(outcome: &Outcome, end: &End) -> Result<(), ExecutionError> {
    let diverges = |reason: String| Err(ExecutionError::Divergence { position: outcome.position, reason });
    if outcome.ending.kind() != Some(end.kind) || outcome.position != end.position {
        return diverges(format!(
            "the guest {} at position {}, and {:?} at {} was recorded",
            outcome.ending.word(),
            outcome.position,
            end.kind,
            end.position
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_divergence_on_another_host_says_so() {
        let diverged = || ExecutionError::Divergence { position: LogPosition(3), reason: "it differs".into() };
        let said = with_host(diverged(), Some("the guest depends on its host")).to_string();
        assert_eq!(said, "the replay diverges from the log at position 3: it differs; the guest depends on its host");
        assert_eq!(with_host(diverged(), None).to_string(), diverged().to_string());
    }
}
