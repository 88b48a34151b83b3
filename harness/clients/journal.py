"""What clients write: JSON lines, each by one write(2), so that whoever reads along never waits for a buffer.

They are stamped with CLOCK_BOOTTIME, the clock that the nodes' traces use too.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

DOMAIN = "CLOCK_BOOTTIME"


def now_ns() -> int:
    """Nanoseconds of CLOCK_BOOTTIME."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def reading() -> dict[str, str | int]:
    """A pair of both clocks read together, so that a reader can map between them (both in nanoseconds)."""
    before = now_ns()
    wall = time.time_ns()
    return {"clock": DOMAIN, "monotonic_ns": (before + now_ns()) // 2, "wall_ns": wall}


class Journal:
    """Appends JSON objects to a file; the file is made anew."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)

    def write(self, record: Mapping[str, object]) -> None:
        """Write one object as one line."""
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        while line:
            line = line[os.write(self._descriptor, line) :]

    def close(self) -> None:
        """Close the file; nothing is buffered here, so nothing can be lost."""
        os.close(self._descriptor)
