//! The bindings: `ftvmm._core`. The GIL is released while a VM runs.

mod doctor;
mod error;
mod node;
mod pack;
mod run;
mod simulate;
mod timing;

use pyo3::prelude::*;
use pyo3::types::PyTuple;

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("CoreError", module.py().get_type::<error::CoreError>())?;
    module.add_function(wrap_pyfunction!(run::run, module)?)?;
    module.add_function(wrap_pyfunction!(run::replay, module)?)?;
    module.add_function(wrap_pyfunction!(doctor::examine_host, module)?)?;
    module.add_function(wrap_pyfunction!(doctor::examine_disk, module)?)?;
    module.add_function(wrap_pyfunction!(doctor::examine_tap, module)?)?;
    module.add_function(wrap_pyfunction!(doctor::examine_image, module)?)?;
    module.add_function(wrap_pyfunction!(pack::examine_program, module)?)?;
    module.add_function(wrap_pyfunction!(pack::is_library, module)?)?;
    module.add_function(wrap_pyfunction!(pack::pack, module)?)?;
    module.add_function(wrap_pyfunction!(simulate::simulate, module)?)?;
    module.add_function(wrap_pyfunction!(timing::check_timing, module)?)?;
    module.add_class::<node::Node>()?;
    module.add("BUILD", crate::node::config::BUILD)?;
    module.add("FEATURES", PyTuple::new(module.py(), crate::machine::Feature::ALL.map(|(_, name)| name))?)?;
    module.add("TIMING", timing::defaults(module.py())?)?;
    #[cfg(feature = "lab")]
    module.add("MUTANTS", PyTuple::new(module.py(), crate::node::mutants::names())?)?;
    #[cfg(feature = "lab")]
    module.add("FAILPOINTS", PyTuple::new(module.py(), crate::node::failpoints::Point::NAMES)?)?;
    module.add("NodeError", module.py().get_type::<node::NodeError>())?;
    Ok(())
}
