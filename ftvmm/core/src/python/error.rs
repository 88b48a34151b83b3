//! The one exception of the bindings, which carries the exit status that it should lead to.

use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

use crate::execution::{ExecutionError, SetupError};
use crate::machine::MachineError;

create_exception!(_core, CoreError, PyException, "Its arguments are a sentence and an exit status.");

/// What the user gave is wrong, or lacking.
const STATUS_BAD_INPUT: i32 = 2;
/// A replica does not do what the log says.
const STATUS_DIVERGENCE: i32 = 3;
/// A device or KVM failed while the VM ran.
const STATUS_FAILURE: i32 = 1;

pub(super) fn core_error(reason: &dyn std::fmt::Display, exit_status: i32) -> PyErr {
    CoreError::new_err((reason.to_string(), exit_status))
}

pub(super) fn bad_input(reason: &dyn std::fmt::Display) -> PyErr {
    core_error(reason, STATUS_BAD_INPUT)
}

pub(super) fn failure(reason: &dyn std::fmt::Display) -> PyErr {
    core_error(reason, STATUS_FAILURE)
}

impl From<SetupError> for PyErr {
    fn from(error: SetupError) -> PyErr {
        match &error {
            SetupError::Machine(MachineError::Kvm { .. }) => failure(&error),
            _ => bad_input(&error),
        }
    }
}

impl From<ExecutionError> for PyErr {
    fn from(error: ExecutionError) -> PyErr {
        match &error {
            ExecutionError::Divergence { .. } => core_error(&error, STATUS_DIVERGENCE),
            ExecutionError::Log(_) => bad_input(&error),
            _ => failure(&error),
        }
    }
}
