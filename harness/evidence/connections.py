"""`connections.jsonl`: what happened to the client's connections. Times are CLOCK_BOOTTIME of the client host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.evidence.json_lines import decode, read_lines

EVENTS = ("opened", "refused", "timed-out", "reset", "failed", "closed", "closed-by-client")
LOST_EVENTS = ("reset", "failed", "closed")


@dataclass(frozen=True)
class ConnectionEvent:
    """One event. `closed`: by the peer; `failed`: by an error other than a reset; `timed-out`: nobody let it in."""

    client: int
    event: str
    at_ns: int
    local_port: int
    error: str | None
    # When the client asked to be connected.
    asked_ns: int
    # Whether it is to stay open to the end; the others come, ask a few things, and go.
    long_lived: bool = True
    # How far `at_ns` may be from the truth, where the client host has clocks of its own.
    uncertainty_ns: int = 0


def read_connections(path: Path) -> list[ConnectionEvent]:
    """All events in order. Raises `EvidenceError`."""
    events = []
    for line in read_lines(path, torn_end_allowed=True):
        if line.fields.get("event") in ("start", "end"):
            continue
        event = decode(ConnectionEvent, line)
        if event.event not in EVENTS:
            raise line.error(f"no such event: {event.event!r}")
        events.append(event)
    return events
