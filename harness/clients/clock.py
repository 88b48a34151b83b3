"""The clock that clients stamp with: CLOCK_BOOTTIME, the one that the nodes' traces use too."""

from __future__ import annotations

import time

DOMAIN = "CLOCK_BOOTTIME"


def now_ns() -> int:
    """Nanoseconds of CLOCK_BOOTTIME."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def reading() -> dict[str, str | int]:
    """A pair of both clocks read together, so that a reader can map between them (both in nanoseconds)."""
    before = now_ns()
    wall = time.time_ns()
    return {"clock": DOMAIN, "monotonic_ns": (before + now_ns()) // 2, "wall_ns": wall}
