"""Mapping between CLOCK_REALTIME (captures, faults) and CLOCK_BOOTTIME (client, order of events)."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


class Pair(Protocol):
    """Anything stamped with both clocks."""

    @property
    def monotonic_ns(self) -> int: ...

    @property
    def wall_ns(self) -> int: ...


@dataclass(frozen=True)
class Clocks:
    """The offset between the two clocks, learnt from pairs. `spread_ns` says how far the pairs disagree."""

    offset_ns: int
    spread_ns: int
    pairs: int

    @classmethod
    def learn(cls, pairs: Iterable[Pair]) -> Clocks | None:
        """The median offset; a pair can be torn apart by the scheduler, so single ones count for little."""
        offsets = sorted(pair.wall_ns - pair.monotonic_ns for pair in pairs)
        if not offsets:
            return None
        # The outer hundredth on either side is what the scheduler did, not what the clock did.
        edge = len(offsets) // 100
        return cls(int(statistics.median(offsets)), offsets[-1 - edge] - offsets[edge], len(offsets))

    def to_monotonic_ns(self, wall_ns: int) -> int:
        """CLOCK_BOOTTIME for a stamp of CLOCK_REALTIME."""
        return wall_ns - self.offset_ns

    def to_wall_ns(self, monotonic_ns: int) -> int:
        """CLOCK_REALTIME for a stamp of CLOCK_BOOTTIME."""
        return monotonic_ns + self.offset_ns
