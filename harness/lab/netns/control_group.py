"""A host's processes as one group: freezing and killing them, and how long they waited for a processor.

By cgroup version 2 where it is mounted, by version 1's freezer where not.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from harness.lab.interface import LabError
from harness.lab.waiting import wait_until

PARENT = "ftvmm-lab"


def hierarchy() -> Path:
    """Where the hierarchy that can freeze is mounted; `LabError` when there is none.

    Version 2 first: a process frozen there can still be killed, and the kernel kills a whole group at once.
    """
    freezer: Path | None = None
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
        if kind == "cgroup" and "freezer" in options.split(","):
            freezer = Path(where)
    if freezer is None:
        raise LabError("no cgroup hierarchy that can freeze is mounted: mount cgroup2 on /sys/fs/cgroup")
    return freezer


@dataclass(frozen=True)
class ControlGroup:
    """One cgroup of a run, under `ftvmm-lab/<run>/`."""

    path: Path

    @classmethod
    def create(cls, run_id: str, name: str) -> ControlGroup:
        """Make the group and the ones above it."""
        path = hierarchy() / PARENT / run_id / name

        def make() -> bool:
            # Another run that ends may take the common parent away just then.
            with contextlib.suppress(FileNotFoundError):
                path.mkdir(parents=True, exist_ok=True)
            return path.exists()

        if not wait_until(make, timeout_seconds=5.0, interval_seconds=0.001):
            raise LabError(f"{path} cannot be made")
        return cls(path)

    @property
    def _is_version_2(self) -> bool:
        return (self.path / "cgroup.events").exists()

    @property
    def processes_file(self) -> Path:
        """The file that takes a pid to move it here (`0` is the writer)."""
        return self.path / "cgroup.procs"

    def pids(self) -> list[int]:
        """The processes in the group."""
        try:
            return [int(pid) for pid in self.processes_file.read_text().split()]
        except (FileNotFoundError, OSError):
            return []

    def freeze(self, timeout_seconds: float = 5.0) -> None:
        """Freeze the group and wait until the kernel says that all of it stands still."""
        self._write("1", "FROZEN")
        if not wait_until(lambda: self.is_frozen, timeout_seconds=timeout_seconds, interval_seconds=0.001):
            raise LabError(f"{self.path} did not freeze within {timeout_seconds} s")

    def thaw(self) -> None:
        """Let the group run on."""
        self._write("0", "THAWED")

    @property
    def is_frozen(self) -> bool:
        """Whether the kernel says that every process of the group is stopped."""
        if self._is_version_2:
            return "frozen 1" in (self.path / "cgroup.events").read_text()
        return (self.path / "freezer.state").read_text().strip() == "FROZEN"

    def _write(self, version_2: str, version_1: str) -> None:
        if self._is_version_2:
            (self.path / "cgroup.freeze").write_text(version_2)
        else:
            (self.path / "freezer.state").write_text(version_1)

    def waited_us(self) -> int | None:
        """Microseconds in which something in the group waited for a processor; None where the kernel does not count.

        The sum of the line `some` in `cpu.pressure` (version 2, Documentation/accounting/psi.rst).
        """
        try:
            first = (self.path / "cpu.pressure").read_text().splitlines()[0]
        except (OSError, IndexError):
            return None
        return int(first.rpartition("total=")[2])

    def kill(self) -> None:
        """SIGKILL everything in the group, frozen or not."""
        if (self.path / "cgroup.kill").exists():
            (self.path / "cgroup.kill").write_text("1")
            return
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        self.thaw()  # version 1 delivers a signal to a frozen process only when it runs again

    def remove(self, timeout_seconds: float = 5.0) -> None:
        """Kill what is left and remove the group."""
        if not wait_until(self._is_gone, timeout_seconds=timeout_seconds, interval_seconds=0.005):
            raise LabError(f"{self.path} still holds processes {self.pids()}")

    def _is_gone(self) -> bool:
        with contextlib.suppress(OSError):
            self.kill()
        with contextlib.suppress(OSError):
            self.path.rmdir()
        return not self.path.exists()


def remove_run(run_id: str) -> None:
    """Remove all groups of a run, and the parent when it was the last."""
    try:
        root = hierarchy() / PARENT
    except LabError:
        return
    run = root / run_id
    # Whoever else looks after the run may remove it meanwhile.
    with contextlib.suppress(FileNotFoundError):
        for group in sorted(path for path in run.iterdir() if path.is_dir()):
            ControlGroup(group).remove()
        ControlGroup(run).remove()
    with contextlib.suppress(OSError):
        root.rmdir()
