"""Which process is which: a pid may be used again, a pid with its start time may not."""

from __future__ import annotations

import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path


def is_stopped(directory: Path) -> bool:
    """Whether all threads of a process are stopped by a signal. `directory` is its own in a /proc."""
    try:
        states = [parse_stat((thread / "stat").read_text())[0] for thread in (directory / "task").iterdir()]
    except (FileNotFoundError, ProcessLookupError):
        return False  # it ends
    return all(state == "T" for state in states)


@dataclass(frozen=True)
class ProcessIdentity:
    """A process by pid and start time (clock ticks since boot, proc(5) field 22)."""

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """The identity of a live process; `ProcessLookupError` when there is none."""
        ticks = _start_ticks(pid)
        if ticks is None:
            raise ProcessLookupError(f"no process {pid}")
        return cls(pid, ticks)

    @classmethod
    def own(cls) -> ProcessIdentity:
        """The calling process."""
        return cls.of(os.getpid())

    def is_alive(self) -> bool:
        """Whether this very process still exists and is no zombie."""
        return _start_ticks(self.pid) == self.start_ticks

    def kill(self) -> None:
        """SIGKILL it, if it is still this very process."""
        self._signal(signal.SIGKILL, 0.0)

    def terminate(self, timeout_seconds: float) -> None:
        """SIGTERM it, if it is still this very process, and give it time to end."""
        self._signal(signal.SIGTERM, timeout_seconds)

    def _signal(self, number: signal.Signals, timeout_seconds: float) -> None:
        """A pidfd closes the gap between looking and killing, and becomes readable when the process ends."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except (ProcessLookupError, OSError):
            return
        try:
            if self.is_alive():
                signal.pidfd_send_signal(descriptor, number)
                select.select([descriptor], [], [], timeout_seconds)
        except ProcessLookupError:
            return
        finally:
            os.close(descriptor)


def parse_stat(text: str) -> tuple[str, int]:
    """State letter and start time (clock ticks since boot) of a `/proc/<pid>/stat` (proc(5), fields 3 and 22)."""
    # The command name may hold anything, parentheses included: the fields begin after the last one.
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def _start_ticks(pid: int) -> int | None:
    try:
        state, start_ticks = parse_stat(Path(f"/proc/{pid}/stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else start_ticks
