"""`ticks.jsonl`: the datagrams that the ticker's listener received. Times are CLOCK_BOOTTIME of the client host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.evidence.clock_samples import ClockPair
from harness.evidence.json_lines import EvidenceError, decode, read_lines


@dataclass(frozen=True)
class Tick:
    """One datagram; `number` and `guest_ns` (the guest's own clock) are None when it was no tick."""

    number: int | None
    guest_ns: int | None
    arrived_ns: int
    payload: str
    # How far `arrived_ns` may be from the truth, where the client host has clocks of its own.
    uncertainty_ns: int = 0


@dataclass(frozen=True)
class Ticks:
    """The whole file."""

    ticks: list[Tick]
    clocks: list[ClockPair]
    sealed: bool


def read_ticks(path: Path) -> Ticks:
    """Read the file. Raises `EvidenceError`."""
    ticks: list[Tick] = []
    clocks: list[ClockPair] = []
    sealed = False
    for line in read_lines(path, torn_end_allowed=True):
        if line.fields.get("event") in ("start", "end"):
            clocks.append(decode(ClockPair, line))
            sealed = line.fields["event"] == "end"
        else:
            ticks.append(decode(Tick, line))
    if not clocks:
        raise EvidenceError(f"{path}: it has no start line with the clocks")
    return Ticks(ticks, clocks, sealed)
