"""Which hypervisor keeps the machines of a lab."""

from __future__ import annotations

from harness.lab.interface import LabError
from harness.lab.vagrant.libvirt import LibvirtMachines
from harness.lab.vagrant.machines import Machines
from harness.lab.vagrant.state import LabState


def machines_of(state: LabState) -> Machines:
    """The machines of a lab that is up."""
    if state.rack is None:
        raise LabError(f"there is no way yet to reach the machines of {state.provider}")
    return LibvirtMachines(state.rack.pid)
