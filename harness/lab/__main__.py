"""Labs by hand: `python -m harness.lab up | list | ssh | down | sweep`."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time

from harness.lab.interface import LabError
from harness.lab.netns import run_directory
from harness.lab.netns.lab import NetnsLab
from harness.lab.netns.run_directory import RunDirectory
from harness.lab.process_identity import ProcessIdentity
from harness.lab.topology import HOSTS, OPERATOR


def up(*, keep: bool) -> None:
    """Bring a lab up; it lives until Ctrl-C, or with `keep` until `down`."""
    started = time.monotonic()
    lab = NetnsLab()
    lab.start()
    try:
        print(f"lab {lab.run_id} is up after {time.monotonic() - started:.1f} s; hosts: {' '.join(lab.hosts)}")
        print(f"a shell on a host: python -m harness.lab ssh {lab.run_id} host-a")
        if keep:
            print(f"take it down with: python -m harness.lab down {lab.let_live()}")
            return
        print("Ctrl-C takes it down.", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)
    finally:
        lab.stop()


def find(run_id: str) -> RunDirectory:
    """The run of this name; any unambiguous beginning will do."""
    found = [run for run in run_directory.runs() if run.run_id.startswith(run_id)]
    if len(found) != 1:
        raise LabError(f"{len(found)} runs begin with `{run_id}`: see `python -m harness.lab list`")
    return found[0]


def ssh(run_id: str, host: str, command: list[str]) -> None:
    """Become an ssh client to a host, from inside the run's switch."""
    run = find(run_id)
    rack = run.read_state().rack
    plan = next((plan for plan in HOSTS if plan.name == host), None)
    if rack is None or plan is None:
        raise LabError(f"no host `{host}`; there are {', '.join(plan.name for plan in HOSTS)}")
    arguments = ["nsenter", "--target", str(rack.pid), "--net", "ssh", "-q", "-i", str(run.path / "operator_key")]
    arguments += ["-o", f"UserKnownHostsFile={run.path / 'known_hosts'}", "-o", f"HostKeyAlias={host}"]
    arguments += [f"root@{plan.address(OPERATOR)}", *command]
    os.execvp("nsenter", arguments)


def down(run_id: str) -> None:
    """Take a run down, whoever owns it."""
    run = find(run_id)
    keeper = run.read_state().keeper
    if keeper is not None:
        keeper.terminate(timeout_seconds=20)
    run.remove()


def list_runs() -> None:
    """Print all runs."""
    for run in run_directory.runs():
        owner: ProcessIdentity | None = run.read_state().owner
        print(
            run.run_id, "kept" if owner is None else f"owner {owner.pid} {'lives' if owner.is_alive() else 'is dead'}"
        )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m harness.lab", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="bring a lab up").add_argument(
        "--keep", action="store_true", help="leave it up, until `down`"
    )
    commands.add_parser("list", help="all labs of this machine")
    commands.add_parser("sweep", help="remove what dead runs left")
    commands.add_parser("down", help="take a lab down").add_argument("run")
    shell = commands.add_parser("ssh", help="a shell or a command on a host")
    shell.add_argument("run")
    shell.add_argument("host")
    shell.add_argument("remote", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    try:
        match arguments.command:
            case "up":
                up(keep=arguments.keep)
            case "list":
                list_runs()
            case "sweep":
                print("\n".join(run_directory.sweep()) or "nothing to remove")
            case "down":
                down(arguments.run)
            case "ssh":
                ssh(arguments.run, arguments.host, arguments.remote)
    except LabError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
