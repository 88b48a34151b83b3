"""`up`: every step from nothing to a lab with a snapshot, each goes on from what an earlier call has left; `down`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.lab.interface import LabError
from harness.lab.topology import HOSTS, NETWORKS, OPERATOR
from harness.lab.vagrant.hypervisor import machines_of
from harness.lab.vagrant.lab import VagrantLab
from harness.lab.vagrant.libvirt import LibvirtMachines
from harness.lab.vagrant.state import LIBVIRT, PREFIX, PROJECT, VIRTUALBOX, Door, LabState, read_state
from lab.vagrant import rack, uplink
from lab.vagrant.archives import Contents, install_anew, write_contents
from lab.vagrant.vagrant import (
    LOCAL_BOX,
    Vagrant,
    addresses,
    archives_of,
    box_settings,
    fetch_box,
    is_public,
    learn_door,
)

_MEMORY = "LAB_MEMORY"
_MEMORY_MIB = "768"
SWITCHES = ("LAB_ACCEL", _MEMORY)
"""Variables of lab/Vagrantfile that a user may set, or leave as the machines have it."""
# What the next lab can use again: the wheels that come from elsewhere, and the box as Vagrant has it.
_KEPT = frozenset({"wheelhouse", "vagrant"})
# Of all that Vagrant says of five machines, what tells how far they are.
_INTERESTING = re.compile(
    r"Successfully added|Starting domain|Waiting for|Machine booted|Running provisioner|: (is a host|installs)|error",
    re.IGNORECASE,
)
Progress = Callable[[str], None]


def acceleration(cpuinfo: Path = Path("/proc/cpuinfo"), device: Path = Path("/dev/kvm")) -> str:
    """`kvm` where the processor has svm or vmx and the device can be opened, else `tcg`; LAB_ACCEL overrides.

    There are machines with the node and without virtualisation that a stock kernel could use: KVM-PVM is one.
    """
    wanted = os.environ.get("LAB_ACCEL")
    if wanted is not None:
        if wanted not in {"kvm", "tcg"}:
            raise LabError(f"LAB_ACCEL is {wanted!r}: it must be kvm or tcg")
        return wanted
    flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "").split()
    usable = os.access(device, os.R_OK | os.W_OK)
    return "kvm" if usable and {"svm", "vmx"} & set(flags) else "tcg"


def check_provider(provider: str) -> None:
    """`LabError` says in one sentence what is missing."""
    if provider != VIRTUALBOX:
        return
    if shutil.which("VBoxManage") is None:
        raise LabError("VBoxManage is not installed: install VirtualBox, or leave out `--provider virtualbox`")
    if (os.environ.get("LAB_BOX") or LOCAL_BOX) == LOCAL_BOX:
        raise LabError(
            "VirtualBox needs a public box, as lab/box/ makes one for libvirt only: LAB_BOX=debian/bookworm64"
        )


def plan() -> dict[str, Any]:
    """Hosts with their interfaces beside the operator's, which Vagrant makes itself as each machine's first."""
    return {
        "prefix": PREFIX,
        "networks": {name: network.prefix for name, network in NETWORKS.items()},
        "hosts": [
            {
                "name": host.name,
                "role": host.role.value,
                "operator_mac": host.hardware_address(OPERATOR),
                "interfaces": [
                    {
                        "network": network,
                        "address": host.address(network),
                        "mac": host.hardware_address(network),
                        "port": host.port(network),
                    }
                    for network in host.networks
                    if network != OPERATOR
                ],
            }
            for host in HOSTS
        ],
    }


def ingredients(settings: Mapping[str, str], contents: Contents, before: Mapping[str, str]) -> dict[str, str]:
    """Name to value or digest of each thing.

    Args:
        settings: the box, as `box_settings` gives it, and `LAB_ACCEL`.
        contents: what the hosts are given.
        before: what machines that are there were made of; a variable that is not set keeps what they have.
    """
    found = {
        "the box": f"{settings['LAB_BOX']} {settings.get('LAB_BOX_VERSION', '')}".strip(),
        "LAB_ACCEL": settings.get("LAB_ACCEL", ""),
        _MEMORY: os.environ.get(_MEMORY, _MEMORY_MIB),
        "lab/Vagrantfile": hashlib.sha256((PROJECT / "lab" / "Vagrantfile").read_bytes()).hexdigest(),
        "hosts and networks": hashlib.sha256(json.dumps(plan(), sort_keys=True).encode()).hexdigest(),
        "what runs on the hosts from their start on": contents.running,
    }
    kept = {name: before[name] for name in SWITCHES if name in before and name not in os.environ}
    return {**found, **kept}


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The names of what is not as it was."""
    return [name for name, value in now.items() if before.get(name) != value]


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


@contextmanager
def _step(title: str, progress: Progress) -> Iterator[None]:
    begin = time.monotonic()
    progress(f"{title} ...")
    yield
    progress(f"{title}: done in {time.monotonic() - begin:.0f} s")


def up(directory: Path, *, provider: str, progress: Progress) -> None:
    """Bring the lab up.

    Args:
        directory: the lab's directory, made when it is not there.
        provider: `libvirt` or `virtualbox`.
        progress: told of every step.

    Raises:
        LabError: a step failed; the message says which, and what it said.
    """
    begin = time.monotonic()
    check_provider(provider)
    directory.mkdir(parents=True, exist_ok=True)
    state = read_state(directory)
    if state is not None and state.provider != provider:
        raise LabError(f"there is a lab of {state.provider}'s machines: run `make lab-down` first")
    if state is not None and state.rack is not None and not state.rack.is_alive():
        # Their disks are as the last scenario left them, and perhaps in the middle of a write: nothing to begin with.
        progress("the lab has ended with this machine's last start: its machines are made anew")
        down(directory, progress=progress)
        state = None
    with _step("the box that the machines boot", progress):
        settings = box_settings()
    if provider == LIBVIRT:
        settings["LAB_ACCEL"] = acceleration()
    contents = _write(directory, progress)
    made_of = ingredients(settings, contents, state.made_of if state else {})
    if state is not None and (others := changed(state.made_of, made_of)):
        progress(f"the machines are made anew, for this is not as it was: {', '.join(others)}")
        down(directory, progress=progress)
        state = None
        contents = _write(directory, progress)
        made_of = ingredients(settings, contents, made_of)
    settings |= {name: made_of[name] for name in SWITCHES if made_of[name]}
    made_before = state is not None
    if state is None:
        state = LabState(provider, made_of["LAB_ACCEL"] or "hardware", made_of=made_of)
    if provider == LIBVIRT and state.rack is None:
        with _step("libvirt, in namespaces of its own", progress):
            state = dataclasses.replace(state, rack=rack.start(directory))
    # From here on there is something to take down.
    state.write(directory)
    if state.rack is not None and is_public(settings):
        with _step("a way out for the machines' packages", progress):
            uplink.lead_out(directory, state.rack.pid)
    if state.snapshot:
        # The snapshot brings them back, whatever has become of them. Vagrant would wait for addresses that they do not
        # ask for again: leases run out in the time that passes outside, not in theirs.
        progress(f"five machines ({state.acceleration}): made already")
    else:
        state = _make_machines(directory, state, Vagrant(directory, provider, state.rack, settings), progress)
    _settle(directory, state, contents, made_before=made_before, progress=progress)
    progress(f"the lab is up after {time.monotonic() - begin:.0f} s: make lab-scenarios, make lab-ssh HOST=host-a")


def _write(directory: Path, progress: Progress) -> Contents:
    with _step("wheels, images and configuration for the hosts", progress):
        (directory / "plan.json").write_text(json.dumps(plan(), indent=2) + "\n")
        return write_contents(directory)


def _make_machines(directory: Path, state: LabState, vagrant: Vagrant, progress: Progress) -> LabState:
    """Have Vagrant bring up what there is not yet of them, and learn how they are reached."""
    if state.rack is not None and is_public(vagrant.settings):
        box = vagrant.settings["LAB_BOX"]
        with _step(f"the public box {box}", progress):
            fetch_box(vagrant, box, progress=lambda line: _tell(line, progress))
    with _step(f"five machines ({state.acceleration})", progress):
        # Vagrant holds a machine to be provisioned as soon as it has begun with it.
        vagrant.run(["up", "--parallel", "--provision"], progress=lambda line: _tell(line, progress))
    with _step("keys and addresses of the hosts", progress):
        state = dataclasses.replace(state, doors=_doors(state, vagrant))
        state.write(directory)
    return state


def _settle(directory: Path, state: LabState, contents: Contents, *, made_before: bool, progress: Progress) -> None:
    """Wait for the storage, bring the hosts up to date if the project has changed, and take the snapshot.

    `made_before`: an earlier call has begun to make the machines, perhaps of another state of the project.
    """
    lab = VagrantLab(directory, calibrated=False)
    with _step("storage mounted on every FT host", progress):
        # With a snapshot the machines are put back to it, without one they are taken as they are.
        lab.start()
    try:
        if state.snapshot and state.installed == contents.installed:
            return
        if made_before:
            with _step("the project as it is now, on every host", progress):
                lab.on_all(lambda host: install_anew(host, archives_of(directory)))
    finally:
        lab.stop()
    machines = machines_of(state)
    # Of another name than the one before: until it is whole, the state on the disk names what is there.
    name = f"fresh-{contents.installed[:12]}"
    with _step(f"snapshot `{name}`", progress), ThreadPoolExecutor(len(HOSTS)) as executor:
        list(executor.map(lambda host: machines.take_snapshot(host, name), HOSTS))
        dataclasses.replace(state, snapshot=name, installed=contents.installed).write(directory)
        if state.snapshot:
            list(executor.map(lambda host: machines.drop_snapshot(host, state.snapshot), HOSTS))


def _tell(line: str, progress: Progress) -> None:
    if _INTERESTING.search(line):
        progress(f"    {line.strip()}")


def _doors(state: LabState, vagrant: Vagrant) -> dict[str, Door]:
    machines = machines_of(state)
    if isinstance(machines, LibvirtMachines):
        found = {host.name: (machines.address_of(host, host.hardware_address(OPERATOR)), 22) for host in HOSTS}
    else:
        found = addresses(vagrant.run(["ssh-config"], progress=lambda _: None))
    if missing := [host.name for host in HOSTS if host.name not in found]:
        raise LabError(f"`vagrant ssh-config` does not tell of {', '.join(missing)}")
    return {host.name: learn_door(host.name, *found[host.name], machines.connect) for host in HOSTS}
