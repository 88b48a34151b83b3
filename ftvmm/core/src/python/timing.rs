//! `ftvmm._core.TIMING`: the intervals of a node that is told none.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyMappingProxy};

use crate::protocol::TimingConfig;

/// The default intervals in milliseconds, by their names in a configuration.
pub fn defaults(python: Python<'_>) -> PyResult<Bound<'_, PyMappingProxy>> {
    let document =
        serde_json::to_value(TimingConfig::DEFAULT).map_err(|error| PyValueError::new_err(error.to_string()))?;
    let defaults = PyDict::new(python);
    for (name, milliseconds) in document.as_object().into_iter().flatten() {
        defaults.set_item(name, milliseconds.as_u64())?;
    }
    Ok(PyMappingProxy::new(python, defaults.as_mapping()))
}
