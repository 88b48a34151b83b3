//! `ftvmm._core`: what Python sees of the core.

mod node;

use pyo3::prelude::*;

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<node::Node>()?;
    module.add("NodeError", module.py().get_type::<node::NodeError>())?;
    Ok(())
}
