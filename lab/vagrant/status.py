"""`status`: what of the lab is there, for people."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.lab.interface import LabError
from harness.lab.topology import HOSTS, OPERATOR
from harness.lab.vagrant.hypervisor import machines_of
from harness.lab.vagrant.machines import Machines
from harness.lab.vagrant.state import Door, lab_that_is_up


def show_status(directory: Path, console: Console) -> None:
    """Print each host's power, roles and addresses.

    Raises:
        LabError: there is no lab.
    """
    state = lab_that_is_up(directory)
    machines = machines_of(state)
    table = Table(title=f"the Vagrant lab ({state.provider}, {state.acceleration})")
    for column in ("host", "role", "power", "sshd", "addresses"):
        table.add_column(column)
    for plan in HOSTS:
        power, sshd = "off", "-"
        if machines.is_running(plan):
            power = "frozen" if machines.is_frozen(plan) else "asleep" if machines.is_asleep(plan) else "on"
            sshd = _banner(state.doors[plan.name], machines) if power == "on" else "-"
        addresses = ", ".join(f"{name} {address}" for name, address in plan.addresses.items() if name != OPERATOR)
        table.add_row(plan.name, plan.role.value, power, sshd, addresses)
    console.print(table)
    console.print(f"snapshot: {state.snapshot or 'none'}; a shell: make lab-ssh HOST=host-a")


def _banner(door: Door, machines: Machines) -> str:
    try:
        with machines.connect(door.address, door.port) as connection:
            connection.settimeout(5)
            return "answers" if connection.recv(4) == b"SSH-" else "answers, but not SSH"
    except (OSError, LabError):
        return "silent"
