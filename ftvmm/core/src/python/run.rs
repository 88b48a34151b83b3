//! Running and replaying a VM from Python.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::error::{bad_input, failure};
use crate::devices::Console;
use crate::execution::{self, Ending, Interruption, Outcome, Outputs, RunConfig};
use crate::log::{Close, LogPosition};
use crate::machine::TrapReport;
use crate::remark::wait_until_said;

/// What a shell expects after Ctrl-C.
const STATUS_INTERRUPTED: i32 = 130;

/// Runs a VM to its end; `config_json` is a `RunConfig`.
#[pyfunction]
pub(super) fn run<'py>(py: Python<'py>, config_json: &str) -> PyResult<Bound<'py, PyDict>> {
    let config: RunConfig = serde_json::from_str(config_json).map_err(|error| bad_input(&error))?;
    let outcome = py.detach(|| -> PyResult<Outcome> {
        let (mut machine, mut world, recording) = execution::prepare_run(&config)?;
        let interruption = Interruption::install().map_err(|error| failure(&error))?;
        let outcome = execution::run(&mut machine, &mut world, recording, Some(&interruption));
        wait_until_said();
        Ok(outcome?)
    })?;
    outcome_dict(py, &outcome, None)
}

/// Replays a recorded run to its end; each output is a line in the file `outputs`, or on standard output for `-`, where
/// console text then does not go. The guest's state behind each entry of `states_at` is another line.
#[pyfunction]
#[pyo3(signature = (log, image=None, outputs=None, states_at=Vec::new()))]
pub(super) fn replay<'py>(
    py: Python<'py>,
    log: PathBuf,
    image: Option<PathBuf>,
    outputs: Option<PathBuf>,
    states_at: Vec<u64>,
) -> PyResult<Bound<'py, PyDict>> {
    let (outcome, close) = py.detach(|| -> PyResult<(Outcome, Close)> {
        let (mut machine, mut recorded) = execution::prepare_replay(&log, image.as_deref())?;
        let mut outputs = open_outputs(outputs.as_deref())?.with_states_at(states_at.into_iter().map(LogPosition));
        let interruption = Interruption::install().map_err(|error| failure(&error))?;
        let outcome = execution::replay(&mut machine, &mut recorded, &mut outputs, Some(&interruption))?;
        Ok((outcome, recorded.close))
    })?;
    let remark = match close {
        Close::End(_) => None,
        Close::Cut(cut) => Some(cut.to_string()),
    };
    outcome_dict(py, &outcome, remark)
}

fn open_outputs(path: Option<&Path>) -> PyResult<Outputs> {
    let console = || Console::standard_output().map_err(|error| failure(&error));
    Ok(match path {
        None => Outputs::new(Some(console()?), None),
        Some(path) if path == Path::new("-") => {
            let lines = std::io::stdout().as_fd().try_clone_to_owned().map_err(|error| failure(&error))?;
            Outputs::new(None, Some(File::from(lines)))
        }
        Some(path) => {
            let lines = File::create(path).map_err(|error| bad_input(&format!("{}: {error}", path.display())))?;
            Outputs::new(Some(console()?), Some(lines))
        }
    })
}

fn outcome_dict<'py>(py: Python<'py>, outcome: &Outcome, remark: Option<String>) -> PyResult<Bound<'py, PyDict>> {
    let (exit_status, report) = match &outcome.ending {
        Ending::Halted { exit_status } => (*exit_status, None),
        Ending::Trapped(report) => (TrapReport::EXIT_STATUS, Some(report.to_string())),
        Ending::Interrupted => (STATUS_INTERRUPTED, None),
        Ending::LogEnded => (0, None),
    };
    let dictionary = PyDict::new(py);
    dictionary.set_item("ending", outcome.ending.word())?;
    dictionary.set_item("remark", remark)?;
    dictionary.set_item("exit_status", exit_status)?;
    dictionary.set_item("report", report)?;
    dictionary.set_item("position", outcome.position.0)?;
    dictionary.set_item("fingerprint", outcome.fingerprint.to_string())?;
    dictionary.set_item("state_digest", outcome.state_digest.to_string())?;
    Ok(dictionary)
}
