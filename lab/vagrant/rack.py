"""Starts and ends the rack (rack.sh): the namespaces in which the lab's own libvirt and its machines live."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from harness.lab.interface import LabError
from harness.lab.namespaces import only_child
from harness.lab.process_identity import ProcessIdentity
from harness.lab.waiting import wait_until

_SCRIPT = Path(__file__).with_name("rack.sh")
_START_SECONDS = 60
_IDENTITY = "rack.json"
NAMESPACES = ("net", "mount", "pid")


def start(directory: Path) -> ProcessIdentity:
    """Start it; back when libvirt answers. Its messages go to `rack.log` in the lab's directory.

    Raises:
        LabError: it did not come up; the message has what it said.
    """
    log = directory / "rack.log"
    # It lives on when this process has ended, so it is nobody's child: `setsid --fork` leaves it to init.
    launch = ["setsid", "--fork", "bash", "-c", 'echo $$; exec "$@"', "rack"]
    isolate = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child=KILL"]
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [*launch, *isolate, "bash", str(_SCRIPT), str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        ) as launcher,
    ):
        assert launcher.stdout is not None
        number, answer = launcher.stdout.readline(), launcher.stdout.readline()
    if answer != b"ready\n":
        if number:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(number), signal.SIGKILL)
        raise LabError(f"the lab's libvirt did not start: {log.read_text(errors='replace').strip()}")
    pid = only_child(int(number))
    if pid is None:
        raise LabError(f"the lab's libvirt ended at once: {log.read_text(errors='replace').strip()}")
    process = ProcessIdentity.of(pid)
    (directory / _IDENTITY).write_text(json.dumps(dataclasses.asdict(process)))
    return process


def left_in(directory: Path) -> ProcessIdentity | None:
    """The rack that was started last for a lab, by a record of its own: it is found even if the lab's state is not."""
    try:
        return ProcessIdentity(**json.loads((directory / _IDENTITY).read_text()))
    except (FileNotFoundError, json.JSONDecodeError, TypeError):
        return None


def stop(rack: ProcessIdentity) -> None:
    """End it, and with it everything inside: its kernel namespaces take every process, link and mount along."""
    rack.kill()
    if not wait_until(lambda: not rack.is_alive(), timeout_seconds=_START_SECONDS, interval_seconds=0.05):
        raise LabError(f"process {rack.pid}, which holds the lab's namespaces, does not end")


def enter(rack: ProcessIdentity, command: Sequence[str]) -> list[str]:
    """The command, to be run inside."""
    return ["nsenter", "--target", str(rack.pid), *(f"--{kind}" for kind in NAMESPACES), "--", *command]


def become(rack: ProcessIdentity, command: Sequence[str]) -> None:
    """Replace this process by a command inside."""
    with contextlib.suppress(FileNotFoundError):
        line = enter(rack, command)
        os.execvp(line[0], line)
