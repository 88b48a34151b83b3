//! What a host can do, for `ftvmm doctor`, and what an image asks of it, for `ftvmm verify`.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::error::bad_input;
use crate::determinism::{disassemble, examine, trapping_and_rewritten};
use crate::devices::{BlockFile, DeviceError, Sharing, Tap};
use crate::image::Image;
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
    dictionary.set_item("task_type", report.traits.setup.task_type)?;
    dictionary.set_item("guest_cpuid", report.traits.setup.guest_cpuid)?;
    dictionary.set_item("umip", report.traits.setup.umip)?;
    dictionary.set_item("rip_past_out", report.traits.rip_past_out)?;
    dictionary.set_item("processor", report.kind.processor_name())?;
    dictionary.set_item("kvm", report.kind.kvm_name())?;
    dictionary.set_item("capabilities", capabilities)?;
    dictionary.set_item("features", report.features)?;
    let (trapping, rewritten) = trapping_and_rewritten();
    dictionary.set_item("trapping", trapping)?;
    dictionary.set_item("rewritten", rewritten)?;
    Ok(dictionary)
}

/// Opens and reads a disk as a pair's node does: its capacity and its unit, in bytes.
#[pyfunction]
pub(super) fn examine_disk(py: Python<'_>, path: PathBuf, sector_bytes: u16) -> PyResult<(u64, u64)> {
    py.detach(|| -> Result<_, DeviceError> {
        let disk = BlockFile::open(&path, Sharing::Shared, sector_bytes)?;
        disk.check()?;
        Ok((disk.capacity_bytes(), disk.unit_bytes()))
    })
    .map_err(|error| bad_input(&error))
}

/// Attaches to a TAP interface for a moment, and sees whether it is up: its MTU in bytes.
#[pyfunction]
pub(super) fn examine_tap(py: Python<'_>, name: &str) -> PyResult<u16> {
    py.detach(|| -> Result<_, DeviceError> {
        let tap = Tap::open(name)?;
        tap.check()?;
        Ok(tap.mtu_bytes())
    })
    .map_err(|error| bad_input(&error))
}

/// Looks an image through: every instruction that is rewritten, refused, or hidden inside another one, and what its
/// results depend on.
#[pyfunction]
pub(super) fn examine_image(py: Python<'_>, path: PathBuf) -> PyResult<Bound<'_, PyDict>> {
    let (image, (rewritten, refused)) = py.detach(|| -> PyResult<_> {
        let file = std::fs::read(&path).map_err(|error| bad_input(&format!("{}: {error}", path.display())))?;
        let image = Image::parse(&file).map_err(|error| bad_input(&format!("{}: {error}", path.display())))?;
        let findings = examine(&image);
        Ok((image, findings))
    })?;
    let describe = |address: u64, reason: Option<&str>| -> PyResult<Bound<'_, PyDict>> {
        let one = PyDict::new(py);
        one.set_item("address", address)?;
        one.set_item("instruction", disassemble(&image, address).unwrap_or_default())?;
        one.set_item("place", image.functions.place_of(address))?;
        one.set_item("reason", reason)?;
        Ok(one)
    };
    let mut sites: Vec<u64> = rewritten.sites.keys().copied().collect();
    sites.sort_unstable();
    let list = |addresses: &mut dyn Iterator<Item = (u64, Option<&str>)>| -> PyResult<Bound<'_, PyList>> {
        let described = addresses.map(|(address, reason)| describe(address, reason)).collect::<PyResult<Vec<_>>>()?;
        PyList::new(py, described)
    };
    let dictionary = PyDict::new(py);
    let code_bytes: usize = image.segments.iter().filter(|one| one.executable).map(|one| one.data.len()).sum();
    dictionary.set_item("code_bytes", code_bytes)?;
    let depends = PyList::empty(py);
    for (host, found) in &rewritten.depends {
        let one = describe(found.first, Some(host.reason()))?;
        one.set_item("count", found.count)?;
        depends.append(one)?;
    }
    dictionary.set_item("depends", depends)?;
    let features = rewritten.features.iter().map(|feature| format!("{feature:?}").to_lowercase());
    dictionary.set_item("features", features.collect::<Vec<String>>())?;
    dictionary.set_item("rewritten", list(&mut sites.iter().map(|address| (*address, None)))?)?;
    dictionary.set_item("doubtful", list(&mut rewritten.doubtful.iter().map(|address| (*address, None)))?)?;
    dictionary.set_item("refused", list(&mut refused.iter().map(|one| (one.address, Some(one.reason))))?)?;
    dictionary.set_item("hidden", list(&mut rewritten.hidden.iter().map(|address| (*address, None)))?)?;
    Ok(dictionary)
}
