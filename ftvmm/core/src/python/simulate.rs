//! `ftvmm._core.simulate`: the protocol under random fault schedules.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::protocol::Rules;
use crate::simulation;

/// Runs the seeds from `first` on, `count` of them, with the named rules switched off (comma-separated).
/// Returns the report, and the seed whose schedule broke a promise. Raises `ValueError` for a rule that does not exist.
#[pyfunction]
pub fn simulate(python: Python<'_>, first: u64, count: u64, rules_off: &str) -> PyResult<(String, Option<u64>)> {
    let rules: Rules = rules_off.parse().map_err(|error| PyValueError::new_err(format!("{error}")))?;
    let report = python.detach(|| simulation::run(first..first.saturating_add(count), rules));
    Ok((report.to_string(), report.failure.map(|failure| failure.seed)))
}
