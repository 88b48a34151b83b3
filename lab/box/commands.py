"""Runs the build's commands: their output in the log, and nothing of them left when the build is interrupted."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from lab.box.failure import BoxFailed

SOURCE_DATE_EPOCH = 1686355200
"""2023-06-10, the day of bookworm's release: no file in the box is younger, so no two builds differ by their day."""
END_SECONDS_MAX = 20.0
"""How long an interrupted command may take to undo its mounts."""


def build_environment(path: str) -> dict[str, str]:
    """Variables for every command: those that make results depend on the day, place or language are fixed."""
    kept = {name: os.environ[name] for name in os.environ if name.lower().endswith("_proxy") or name == "HOME"}
    return {
        **kept,
        "PATH": path,
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "DEBIAN_FRONTEND": "noninteractive",
        "SOURCE_DATE_EPOCH": str(SOURCE_DATE_EPOCH),
        "E2FSPROGS_FAKE_TIME": str(SOURCE_DATE_EPOCH),
        "PYTHONHASHSEED": "0",
    }


@dataclass(frozen=True, kw_only=True)
class Commands:
    """Where commands run and write to."""

    directory: Path
    log: TextIO
    environment: Mapping[str, str] = field(default_factory=lambda: build_environment(os.environ["PATH"]))

    def run(self, command: Sequence[str | Path], *, failure: str) -> None:
        """Run a command to its end. Raises BoxFailed with the sentence ``failure`` when it does not exit with 0.

        It has a process group of its own: on Ctrl-C it is asked to end and waited for, so that it can undo its mounts.
        """
        self.log.write(f"$ {' '.join(map(str, command))}\n")
        self.log.flush()
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            cwd=self.directory,
            env=dict(self.environment),
            start_new_session=True,
        )
        try:
            status = process.wait()
        except BaseException:
            _end(process)
            raise
        if status != 0:
            raise BoxFailed(failure)


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            continue
        if number == signal.SIGTERM:
            continue  # its children may not have heard; nothing of the group survives the second round
    process.wait()
