"""The time of a failover taken apart: detect, drain the log, arbitrate, announce, first byte to the client."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

PARTS = ("detect", "drain", "arbitrate", "announce", "first byte")


@dataclass(frozen=True, kw_only=True)
class FailoverParts:
    """Milliseconds, each from the end of the part before it; ``detect`` from the fault."""

    detect_ms: float
    drain_ms: float
    arbitrate_ms: float
    announce_ms: float
    first_byte_ms: float

    def values(self) -> tuple[float, ...]:
        """In the order of ``PARTS``."""
        return (self.detect_ms, self.drain_ms, self.arbitrate_ms, self.announce_ms, self.first_byte_ms)


def failover_parts(
    survivor: Sequence[dict[str, Any]], *, fault_ns: int, first_answer_ns: int | None
) -> FailoverParts | None:
    """Take a failover apart.

    Arguments: the survivor's trace; when the fault was injected and when the client's first answer after the longest
    silence came, CLOCK_BOOTTIME nanoseconds. None when the survivor did not go live after the fault.
    """
    ends: list[int] = [fault_ns]
    for name in ("suspect", "drained", "won", "announced"):
        stamp = _first(survivor, name, after_ns=fault_ns)
        if stamp is None:
            return None
        ends.append(max(ends[-1], stamp))
    ends.append(max(ends[-1], first_answer_ns or ends[-1]))
    lengths = [(later - earlier) / 1e6 for earlier, later in itertools.pairwise(ends)]
    detect, drain, arbitrate, announce, first_byte = lengths
    return FailoverParts(
        detect_ms=detect,
        drain_ms=drain,
        arbitrate_ms=arbitrate,
        announce_ms=announce,
        first_byte_ms=first_byte,
    )


def _first(trace: Sequence[dict[str, Any]], name: str, *, after_ns: int) -> int | None:
    for event in trace:
        won = event["event"] == "arbiter" and event.get("outcome") == "won"
        if event["monotonic_ns"] >= after_ns and (event["event"] == name or (name == "won" and won)):
            return int(event["monotonic_ns"])
    return None
