//! What a host can do, for `ftvmm doctor`.

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::error::bad_input;
use crate::machine;

/// Tries the host's KVM out: TSS type, where RIP is after an `out`, capabilities by name.
#[pyfunction]
pub(super) fn examine_host(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let report = py.detach(machine::examine_host).map_err(|error| bad_input(&error))?;
    let capabilities = PyDict::new(py);
    for (name, is_there) in &report.capabilities {
        capabilities.set_item(name, is_there)?;
    }
    let dictionary = PyDict::new(py);
    dictionary.set_item("task_type", report.traits.task_type)?;
    dictionary.set_item("rip_past_out", report.traits.rip_past_out)?;
    dictionary.set_item("capabilities", capabilities)?;
    Ok(dictionary)
}
