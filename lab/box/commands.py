"""Runs the build: its commands with their output in a log, a line for each step, nothing left when interrupted."""

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

SOURCE_DATE_EPOCH = 1686355200
"""2023-06-10, the day of bookworm's release: no file in the box is younger, so no two builds differ by their day."""
END_SECONDS_MAX = 20.0
"""How long an interrupted command may take to undo its mounts."""
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


class BoxFailed(Exception):
    """The box could not be built; the message says why and what to do, the details are in the log."""


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
        process: subprocess.Popen[bytes] | None = None
        try:
            with _interrupted_afterwards():
                process = subprocess.Popen(
                    [str(part) for part in command],
                    stdin=subprocess.DEVNULL,
                    stdout=self.log,
                    stderr=subprocess.STDOUT,
                    cwd=self.directory,
                    env=dict(self.environment),
                    start_new_session=True,
                )
            status = process.wait()
        except BaseException:
            if process is not None:
                _end(process)
            raise
        if status != 0:
            raise BoxFailed(failure)


@contextmanager
def _interrupted_afterwards() -> Iterator[None]:
    """Lets Ctrl-C and SIGTERM wait for the end of a block: a child that starts just then would be nobody's."""
    if threading.current_thread() is not threading.main_thread():
        yield  # they interrupt the main thread alone
        return
    told: list[int] = []
    before = {number: signal.signal(number, lambda number, _: told.append(number)) for number in _INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for late in told:
        signal.raise_signal(late)


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


@dataclass
class Progress:
    """Counts the steps of one build, of which there are ``count``."""

    stream: TextIO
    count: int
    number: int = 0

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Frame one step."""
        self.number += 1
        assert self.number <= self.count
        label = f"[{self.number}/{self.count}] {title}"
        print(f"{label} ...", file=self.stream, flush=True)
        begin = time.monotonic()
        yield
        print(f"{label}: done in {time.monotonic() - begin:.0f} s", file=self.stream, flush=True)


def remove_work(directory: Path) -> None:
    """Unmount what a killed build left mounted below the directory, and remove_work it.

    mmdebstrap mounts the machine's /dev into the tree. Removing that tree with the mount in it would empty /dev.
    """
    for mount in reversed(mounts_below(directory)):
        subprocess.run(["umount", mount], check=False, capture_output=True)
    if left := mounts_below(directory):
        raise BoxFailed(f"{left[-1]} is still mounted: `umount` it, then `rm -r {directory}`.")
    if directory.exists():
        shutil.rmtree(directory)


def mounts_below(directory: Path, *, table: Path = Path("/proc/self/mountinfo")) -> list[Path]:
    """Mount points in a directory, those inside of others last (proc(5), mountinfo)."""
    points = [Path(_unescape(line.split()[4])) for line in table.read_text().splitlines()]
    resolved = directory.resolve()
    return sorted({point for point in points if point.is_relative_to(resolved)})


def _unescape(text: str) -> str:
    return re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), text)
