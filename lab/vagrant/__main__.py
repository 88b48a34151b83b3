"""The command line of the Vagrant lab, `python -m lab.vagrant`; the Makefile's `lab-*` targets call it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from harness.lab.interface import LabError
from harness.lab.topology import HOSTS, OPERATOR
from harness.lab.vagrant.hypervisor import machines_of
from harness.lab.vagrant.lab import VagrantLab
from harness.lab.vagrant.machines import Machines
from harness.lab.vagrant.state import DIRECTORY, LIBVIRT, PROJECT, VIRTUALBOX, Door, lab_that_is_up, read_state
from lab.vagrant import rack
from lab.vagrant.archives import require_current
from lab.vagrant.up import down as take_down
from lab.vagrant.up import plan as plan_of_the_lab
from lab.vagrant.up import up as bring_up

MARKER = "smoke"
EXIT_FAILED = 2
_PROVIDERS = (LIBVIRT, VIRTUALBOX)


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


def run_smoke(directory: Path, *, progress: Callable[[str], None]) -> int:
    """Run it; gives pytest's exit status. A lab that was up before is used as it is, and stays up.

    Raises:
        LabError: the lab did not come up.
    """
    state = read_state(directory)
    try:
        bring_up(directory, provider=state.provider if state else LIBVIRT, progress=progress)
        environment = {**os.environ, "LAB": "vagrant", "ARGS": f"-m {MARKER} {os.environ.get('ARGS', '')}"}
        checks = [sys.executable, "-m", "pytest", "-q", str(PROJECT / "lab" / "checks")]
        checked = subprocess.run(checks, cwd=PROJECT, check=False).returncode
        if checked != 0:
            return checked
        program = [sys.executable, str(PROJECT / "reports" / "scenarios.py")]
        return subprocess.run(program, cwd=PROJECT, env=environment, check=False).returncode
    finally:
        if state is None:
            take_down(directory, progress=progress)


def _progress(line: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {line}", err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--directory", type=click.Path(path_type=Path), default=DIRECTORY, help="where the lab keeps its files")
@click.pass_context
def cli(context: click.Context, directory: Path) -> None:
    """The lab of nested virtual machines: three FT hosts with KVM of their own, a storage and a client host.

    Settings by environment variable: LAB_BOX (a public box such as debian/bookworm64; without it the one that lab/box/
    builds), LAB_ACCEL (kvm or tcg), LAB_MEMORY (MiB for each FT host). lab/README.md tells more.
    """
    context.obj = directory


@cli.command()
@click.option("--provider", type=click.Choice(_PROVIDERS), default=LIBVIRT, show_default=True)
@click.pass_obj
def up(directory: Path, provider: str) -> None:
    """Bring the lab up; called again, it goes on where it stopped, and brings in what has changed."""
    bring_up(directory, provider=provider, progress=_progress)


@cli.command()
@click.pass_obj
def down(directory: Path) -> None:
    """Take the lab down and leave nothing behind but the box and the wheels, in .state/."""
    begin = time.monotonic()
    there = take_down(directory, progress=_progress)
    _progress(f"the lab is down after {time.monotonic() - begin:.0f} s" if there else "there was no lab")


@cli.command()
@click.pass_obj
def smoke(directory: Path) -> None:
    """Up, the hosts' checks, five scenarios of five fault families, their Allure report; exits with pytest's status.

    Then down, unless the lab was up before.
    """
    raise click.exceptions.Exit(run_smoke(directory, progress=_progress))


@cli.command()
@click.pass_obj
def status(directory: Path) -> None:
    """Show what of the lab is there."""
    show_status(directory, Console())


@cli.command()
@click.pass_obj
def check(directory: Path) -> None:
    """See that the lab is up and has the project as it is now; if not, say what to do and exit with 2."""
    require_current(directory)


@cli.command()
@click.pass_obj
def reset(directory: Path) -> None:
    """Put every machine back to the snapshot that `up` took."""
    begin = time.monotonic()
    VagrantLab(directory).reset()
    _progress(f"the lab is fresh again after {time.monotonic() - begin:.1f} s")


@cli.command(context_settings={"ignore_unknown_options": True})
@click.argument("host", type=click.Choice([plan.name for plan in HOSTS]))
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def ssh(directory: Path, host: str, command: tuple[str, ...]) -> None:
    """A root shell on a host, or one command there."""
    state = lab_that_is_up(directory)
    door = state.doors[host]
    known_hosts = directory / "known_hosts"
    known_hosts.write_text("".join(f"{name} {each.host_key}\n" for name, each in state.doors.items()))
    line = ["ssh", "-q", "-i", str(directory / "operator_key"), "-p", str(door.port)]
    line += ["-o", f"UserKnownHostsFile={known_hosts}", "-o", f"HostKeyAlias={host}", "-o", "IdentitiesOnly=yes"]
    line += [f"root@{door.address}", *command]
    if state.rack is not None:
        line = rack.enter(state.rack, line)
    os.execvp(line[0], line)


@cli.command()
def plan() -> None:
    """Print the plan of hosts and networks that lab/Vagrantfile reads."""
    click.echo(json.dumps(plan_of_the_lab(), indent=2))


def main() -> int:
    """Run it; 0, or 2 with one message on standard error."""
    try:
        return int(cli(standalone_mode=False) or 0)
    except LabError as error:
        click.echo(str(error), err=True)
        return EXIT_FAILED
    except click.ClickException as error:
        error.show()
        return EXIT_FAILED
    except (click.Abort, KeyboardInterrupt):
        click.echo(
            "Interrupted; the same command goes on from here, `make lab-down` takes away what there is.", err=True
        )
        return 130


if __name__ == "__main__":
    sys.exit(main())
