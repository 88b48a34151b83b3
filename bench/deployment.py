"""What is measured: one VM on a host of the lab without fault tolerance, or the same VM on a pair."""

import contextlib
from collections.abc import Iterator, Sequence

from harness.lab import topology
from harness.lab.interface import Host, Lab, LabError, RemoteProcess
from harness.lab.netns.lab import NetnsLab
from harness.vm.node_file import Guest
from harness.vm.pair import Pair

STOP_SECONDS_MAX = 10


@contextlib.contextmanager
def fresh_lab(*, disk_mib: int = topology.DISK_MIB) -> Iterator[Lab]:
    """A lab that nothing has happened in yet, whose VM has a disk of this size at least."""
    lab = NetnsLab(disk_mib=max(disk_mib, topology.DISK_MIB))
    lab.start()
    try:
        yield lab
    finally:
        lab.stop()


@contextlib.contextmanager
def running_pair(lab: Lab, guest: Guest) -> Iterator[Pair]:
    """The guest on the first two hosts, protected."""
    pair = Pair(lab, guest)
    pair.start()
    try:
        yield pair
    finally:
        pair.stop()


@contextlib.contextmanager
def running_alone(host: Host, guest: Guest) -> Iterator[RemoteProcess]:
    """The guest on one host, by ``ftvmm run``."""
    process = host.start(run_command(host, guest), log="/var/lib/ftvmm/run.log")
    try:
        yield process
    finally:
        if process.is_running():
            process.signal("TERM")
            try:
                process.wait(STOP_SECONDS_MAX)
            except LabError:
                process.signal("KILL")


def run_command(host: Host, guest: Guest) -> str:
    """The command line that runs the guest on a host without fault tolerance."""
    image = f"{NetnsLab.image_directory}/{guest.image}"
    devices: Sequence[str] = ()
    if guest.network:
        devices = (f"--net:service={topology.TAP}", f"--net-mac:service={topology.VM_MAC}")
    if guest.block:
        devices = (*devices, f"--block:storage={topology.DISK_PATH}")
    parts = [host.python, "-m", "ftvmm", "run", f"--mem={guest.memory_mib}", *devices, image, "--"]
    return " ".join([*parts, *guest.arguments])
