"""Which hypervisor keeps the machines of a lab, and what can be done to them there."""

from __future__ import annotations

from harness.lab.interface import Capability, LabError
from harness.lab.vagrant.libvirt import LibvirtMachines
from harness.lab.vagrant.machines import Machines
from harness.lab.vagrant.state import LIBVIRT, VIRTUALBOX, LabState
from harness.lab.vagrant.virtualbox import VirtualBoxMachines

_EVERYWHERE = frozenset(
    {
        Capability.POWER,
        Capability.FREEZE,
        Capability.CLOCK,
        Capability.KERNEL,
        Capability.LINK,
        Capability.DEVICE_MAPPER,
        Capability.STORAGE_SERVER,
    }
)
# Without captures the oracles say that the evidence is insufficient. VirtualBox's own trace is none: `nictrace`
# (DrvNetSniffer.cpp, Pcap.cpp) writes both directions without telling them apart, its stamps count from the start of
# the machine's process, and it does not say how many frames it lost; its internal networks have no port to listen at.
_CAPABILITIES = {LIBVIRT: _EVERYWHERE | {Capability.CAPTURE, Capability.SLEEP}, VIRTUALBOX: _EVERYWHERE}


def capabilities_of(provider: str) -> frozenset[Capability]:
    """What a lab of this provider can do beyond running commands."""
    if provider not in _CAPABILITIES:
        raise LabError(f"there is no provider {provider!r}: it is {' or '.join(_CAPABILITIES)}")
    return _CAPABILITIES[provider]


def machines_of(state: LabState) -> Machines:
    """The machines of a lab that is up."""
    if state.provider == VIRTUALBOX:
        return VirtualBoxMachines()
    if state.rack is None:
        raise LabError(f"the lab of {state.provider} has no libvirt: run `make lab-up`")
    return LibvirtMachines(state.rack.pid)
