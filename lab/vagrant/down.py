"""`down`: takes the lab away, whatever state it is in, and leaves nothing of it behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from harness.lab.interface import LabError
from harness.lab.vagrant.state import LabState, read_state
from lab.vagrant import rack, uplink
from lab.vagrant.vagrant import Vagrant

# What the next lab can use again: the wheels that come from elsewhere, and the box as Vagrant has it.
_KEPT = frozenset({"wheelhouse", "vagrant"})


def down(directory: Path, *, progress: Callable[[str], None]) -> bool:
    """End the machines, their libvirt and its namespaces, and remove their files.

    Returns:
        whether there was a lab.
    """
    try:
        state = read_state(directory)
    except LabError as error:
        progress(f"{error}; what is left of it is removed")
        state = None
    try:
        uplink.take_back(directory, progress=progress)
    finally:
        _end_machines(directory, state, progress)
    if directory.exists():
        for entry in directory.iterdir():
            if entry.name in _KEPT:
                continue
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    return state is not None


def _end_machines(directory: Path, state: LabState | None, progress: Callable[[str], None]) -> None:
    if state is None:
        if left := rack.left_in(directory):
            progress("ending a libvirt that a lab without a state has left")
            rack.stop(left)
    elif state.rack is not None:
        # The machines are processes in there, their networks links in there: ending it is all that there is to do.
        progress("ending the machines, their libvirt and its namespaces")
        rack.stop(state.rack)
    elif (directory / "machines").exists():
        Vagrant(directory, state.provider, None, {}).run(["destroy", "--force"], progress=progress)
