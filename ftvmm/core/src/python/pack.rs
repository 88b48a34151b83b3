//! Packing Linux programs, for `ftvmm pack`.

use std::path::{Path, PathBuf};

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::error::bad_input;
use crate::packing::{self, Request};

/// Looks at a program before it is packed; `path` is also what it is called in what is said of it.
#[pyfunction]
pub(super) fn examine_program(py: Python<'_>, path: PathBuf) -> PyResult<Bound<'_, PyDict>> {
    let bytes = read(&path)?;
    let found = packing::examine_program(&path.to_string_lossy(), &bytes).map_err(|error| bad_input(&error))?;
    let dictionary = PyDict::new(py);
    dictionary.set_item("loader", found.loader)?;
    dictionary.set_item("starts_processes", found.starts_processes)?;
    Ok(dictionary)
}

/// Whether a file is a shared library for x86-64.
#[pyfunction]
pub(super) fn is_library(path: PathBuf) -> PyResult<bool> {
    Ok(packing::is_library(&read(&path)?))
}

/// Packs an image; `request_json` is a `packing::Request`. A file that is there already is replaced as a whole.
#[pyfunction]
pub(super) fn pack<'py>(py: Python<'py>, request_json: &str, image: PathBuf) -> PyResult<Bound<'py, PyDict>> {
    let request: Request = serde_json::from_str(request_json).map_err(|error| bad_input(&error))?;
    let packed = py.detach(|| -> PyResult<_> {
        let packed = packing::pack(&request).map_err(|error| bad_input(&error))?;
        replace(&image, &packed.image)
            .map_err(|error| bad_input(&format!("{} cannot be written: {error}", image.display())))?;
        Ok(packed)
    })?;
    let dictionary = PyDict::new(py);
    dictionary.set_item("image_bytes", packed.image.len())?;
    dictionary.set_item("end", packed.end)?;
    dictionary.set_item("objects", packed.objects)?;
    dictionary.set_item("system_calls", packed.system_calls)?;
    dictionary.set_item("undefined", packed.undefined)?;
    dictionary.set_item("files", packed.files)?;
    Ok(dictionary)
}

fn read(path: &Path) -> PyResult<Vec<u8>> {
    std::fs::read(path).map_err(|error| bad_input(&format!("{}: {error}", path.display())))
}

/// Nobody ever sees half an image, and a VM that runs the old one keeps it.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = std::fs::write(&partial, bytes).and_then(|()| std::fs::rename(&partial, path));
    if written.is_err() {
        // What failed is told; a file that cannot be removed either would add nothing.
        let _ = std::fs::remove_file(&partial);
    }
    written
}
