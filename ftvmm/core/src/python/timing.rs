//! `ftvmm._core.TIMING` and `check_timing`: the intervals of a node that is told none, and which ones it refuses.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMappingProxy};

use crate::protocol::{Timing, TimingConfig};

/// The default intervals in milliseconds, by their names in a configuration.
pub fn defaults(python: Python<'_>) -> PyResult<Bound<'_, PyMappingProxy>> {
    let document = serde_json::to_value(TimingConfig::DEFAULT).map_err(refused)?;
    let defaults = PyDict::new(python);
    for (name, milliseconds) in document.as_object().into_iter().flatten() {
        defaults.set_item(name, milliseconds.as_u64())?;
    }
    Ok(PyMappingProxy::new(python, defaults.as_mapping()))
}

/// Refuses intervals with which the protocol's promises would not hold. Raises `ValueError`, which says why.
#[pyfunction]
pub fn check_timing(timing_json: &str) -> PyResult<()> {
    let config: TimingConfig = serde_json::from_str(timing_json).map_err(refused)?;
    Timing::from(config).validate().map_err(refused)
}

fn refused(error: impl std::error::Error) -> PyErr {
    PyValueError::new_err(error.to_string())
}
