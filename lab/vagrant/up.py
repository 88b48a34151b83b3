"""`up`: every step from nothing to a lab with a snapshot; each goes on from what an earlier call has left."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from harness.lab.interface import LabError
from harness.lab.topology import HOSTS, OPERATOR
from harness.lab.vagrant.hypervisor import machines_of
from harness.lab.vagrant.lab import VagrantLab
from harness.lab.vagrant.libvirt import LibvirtMachines
from harness.lab.vagrant.state import LIBVIRT, Door, LabState, read_state
from lab.vagrant import doors, rack, uplink
from lab.vagrant.acceleration import acceleration
from lab.vagrant.archives import install_anew
from lab.vagrant.boxes import box_settings, fetch_box, is_public
from lab.vagrant.contents import Contents, write_contents
from lab.vagrant.down import down
from lab.vagrant.ingredients import SWITCHES, changed, ingredients
from lab.vagrant.plan import plan
from lab.vagrant.providers import check_provider
from lab.vagrant.vagrant import Vagrant, archives_of

# Of all that Vagrant says of five machines, what tells how far they are.
_INTERESTING = re.compile(
    r"Successfully added|Starting domain|Waiting for|Machine booted|Running provisioner|: (is a host|installs)|error",
    re.IGNORECASE,
)
Progress = Callable[[str], None]


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
        found = doors.addresses(vagrant.run(["ssh-config"], progress=lambda _: None))
    if missing := [host.name for host in HOSTS if host.name not in found]:
        raise LabError(f"`vagrant ssh-config` does not tell of {', '.join(missing)}")
    return {host.name: doors.learn_door(host.name, *found[host.name], machines.connect) for host in HOSTS}
