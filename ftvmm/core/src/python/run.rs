//! Running and replaying a VM from Python.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::error::{bad_input, failure};
use crate::devices::Console;
use crate::execution::{self, Ending, Interruption, Outcome, RunConfig};
use crate::machine::TrapReport;

/// What a shell expects after Ctrl-C.
const STATUS_INTERRUPTED: i32 = 130;

/// Runs a VM to its end; `config_json` is a `RunConfig`.
#[pyfunction]
pub(super) fn run<'py>(py: Python<'py>, config_json: &str) -> PyResult<Bound<'py, PyDict>> {
    let config: RunConfig = serde_json::from_str(config_json).map_err(|error| bad_input(&error))?;
    let outcome = py.detach(|| -> PyResult<Outcome> {
        let (mut machine, mut world, recording) = execution::prepare_run(&config)?;
        let interruption = Interruption::install().map_err(|error| failure(&error))?;
        Ok(execution::run(&mut machine, &mut world, recording, Some(&interruption))?)
    })?;
    outcome_dict(py, &outcome)
}

/// Replays a recorded run to its end.
#[pyfunction]
#[pyo3(signature = (log, image=None))]
pub(super) fn replay<'py>(py: Python<'py>, log: PathBuf, image: Option<PathBuf>) -> PyResult<Bound<'py, PyDict>> {
    let outcome = py.detach(|| -> PyResult<Outcome> {
        let (mut machine, mut log) = execution::prepare_replay(&log, image.as_deref())?;
        let interruption = Interruption::install().map_err(|error| failure(&error))?;
        let mut console = Console::standard_output().map_err(|error| failure(&error))?;
        Ok(execution::replay(&mut machine, &mut log, &mut console, Some(&interruption))?)
    })?;
    outcome_dict(py, &outcome)
}

fn outcome_dict<'py>(py: Python<'py>, outcome: &Outcome) -> PyResult<Bound<'py, PyDict>> {
    let (ending, exit_status, report) = match &outcome.ending {
        Ending::Halted { exit_status } => ("halted", *exit_status, None),
        Ending::Trapped(report) => ("trapped", TrapReport::EXIT_STATUS, Some(report.to_string())),
        Ending::Interrupted => ("interrupted", STATUS_INTERRUPTED, None),
    };
    let dictionary = PyDict::new(py);
    dictionary.set_item("ending", ending)?;
    dictionary.set_item("exit_status", exit_status)?;
    dictionary.set_item("report", report)?;
    dictionary.set_item("position", outcome.position)?;
    dictionary.set_item("fingerprint", outcome.fingerprint.to_string())?;
    dictionary.set_item("state_digest", outcome.state_digest.to_string())?;
    Ok(dictionary)
}
