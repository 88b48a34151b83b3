"""`clocks.json`: what was measured of the clocks of hosts that do not share this machine's; and the mapping from it.

Captures and faults have CLOCK_REALTIME, the client and the order of events CLOCK_BOOTTIME.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from harness.evidence.json_lines import Line, decode, read_object

Record = TypeVar("Record")


@dataclass(frozen=True)
class ClockPair:
    """CLOCK_BOOTTIME and CLOCK_REALTIME read together, in nanoseconds."""

    monotonic_ns: int
    wall_ns: int


@dataclass(frozen=True)
class ClockSample:
    """One reading of a host's clocks. It took place between two stamps of this machine: a bound, not an estimate.

    Attributes:
        boot_id: tells one boot of the host from the next.
        before_ns, after_ns: this machine's CLOCK_BOOTTIME before the question left and after the answer was here.
        boottime_ns, realtime_ns: the host's clocks.
    """

    host: str
    boot_id: str
    before_ns: int
    after_ns: int
    boottime_ns: int
    realtime_ns: int

    @property
    def width_ns(self) -> int:
        """How far apart the bounds are."""
        return self.after_ns - self.before_ns

    @property
    def pair_ns(self) -> int:
        """CLOCK_REALTIME less CLOCK_BOOTTIME: the same all through a boot, unless somebody steps the clock."""
        return self.realtime_ns - self.boottime_ns


@dataclass(frozen=True)
class Pause:
    """A host that stood still or slept, seen from outside; this machine's CLOCK_BOOTTIME.

    Its clock stood still with it, or went ahead. It stopped within `stop_after_ns` and `stop_before_ns`, and ran on
    within the other two; those are None when it never did.
    """

    host: str
    stop_after_ns: int
    stop_before_ns: int
    resume_after_ns: int | None = None
    resume_before_ns: int | None = None


@dataclass
class ClockRecord:
    """The whole file. `machine` are pairs of this machine's own clocks."""

    samples: list[ClockSample] = field(default_factory=list)
    machine: list[ClockPair] = field(default_factory=list)
    pauses: list[Pause] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write the file."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def read_clock_record(path: Path) -> ClockRecord:
    """Read the file. Raises `EvidenceError`."""
    line = read_object(path)
    return ClockRecord(
        samples=_decode_all(ClockSample, line, "samples"),
        machine=_decode_all(ClockPair, line, "machine"),
        pauses=_decode_all(Pause, line, "pauses"),
    )


def _decode_all(kind: type[Record], line: Line, name: str) -> list[Record]:
    entries: Sequence[Any] = line.fields.get(name, ())
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise line.error(f"`{name}` is no list of objects")
    return [decode(kind, Line(line.path, line.number, entry)) for entry in entries]


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
