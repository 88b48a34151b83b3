"""The events of a node's `trace.jsonl`, one dataclass each (docs/architecture.md, "Trace")."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Event:
    """What every event has. `monotonic_ns` is CLOCK_BOOTTIME, `wall_ns` CLOCK_REALTIME.

    Both are this machine's once the evidence is read; where the host has clocks of its own, `uncertainty_ns` is how far
    they may be from the truth.
    """

    event: str
    node: str
    incarnation: str
    generation: int
    monotonic_ns: int
    wall_ns: int
    uncertainty_ns: int = 0

    @property
    def earliest_wall_ns(self) -> int:
        """What counts where this event excuses something."""
        return self.wall_ns - self.uncertainty_ns

    @property
    def latest_wall_ns(self) -> int:
        """What counts where this event accuses somebody."""
        return self.wall_ns + self.uncertainty_ns


@dataclass(frozen=True, kw_only=True)
class NodeStarted(Event):
    vm: str
    pid: int
    build: str = "shipped"
    mutants: list[str] = field(default_factory=list)
    timing: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Role(Event):
    # `from` is a word of Python's own; the reader renames it.
    before: str
    to: str
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Suspect(Event):
    reason: str


@dataclass(frozen=True, kw_only=True)
class Session(Event):
    state: str
    session: int | str | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Arbiter(Event):
    operation: str
    outcome: str | int
    wanted: int | None = None


@dataclass(frozen=True, kw_only=True)
class Committed(Event):
    position: int
    session: int | str | None = None


@dataclass(frozen=True, kw_only=True)
class Acknowledged(Event):
    position: int
    by: str


@dataclass(frozen=True, kw_only=True)
class Output(Event):
    index: int
    kind: str
    depends_on: int
    length: int
    digest: str
    why: str
    device: int | str | None = None
    offset: int | None = None


@dataclass(frozen=True, kw_only=True)
class OutputWithheld(Event):
    # The look right before the send said no (R5): the `output` line before this one did not come true.
    index: int


@dataclass(frozen=True, kw_only=True)
class DiskError(Event):
    reason: str


@dataclass(frozen=True, kw_only=True)
class OutputDone(Event):
    through: int


@dataclass(frozen=True, kw_only=True)
class ReplayedOutput(Event):
    index: int
    kind: str
    depends_on: int
    length: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class Lag(Event):
    entries: int
    milliseconds: float


@dataclass(frozen=True, kw_only=True)
class ClosedLog(Event):
    position: int


@dataclass(frozen=True, kw_only=True)
class Drained(Event):
    position: int
    # The released mark R that the candidate knows: it re-issues what lies past it.
    released: int | None = None


@dataclass(frozen=True, kw_only=True)
class Attached(Event):
    pass


@dataclass(frozen=True, kw_only=True)
class Announced(Event):
    pass


@dataclass(frozen=True, kw_only=True)
class Live(Event):
    pass


@dataclass(frozen=True, kw_only=True)
class FirstOutput(Event):
    index: int | None = None


@dataclass(frozen=True, kw_only=True)
class Paused(Event):
    gap_ms: float


@dataclass(frozen=True, kw_only=True)
class Divergence(Event):
    position: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class RecordingEnded(Event):
    position: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class FailpointHit(Event):
    point: str
    armed: str
    number: int
    kind: str | None = None


@dataclass(frozen=True, kw_only=True)
class Halted(Event):
    reason: str


@dataclass(frozen=True, kw_only=True)
class Stopped(Event):
    exit_status: int


KINDS: dict[str, type[Event]] = {
    "node-started": NodeStarted,
    "role": Role,
    "suspect": Suspect,
    "session": Session,
    "arbiter": Arbiter,
    "committed": Committed,
    "acknowledged": Acknowledged,
    "output": Output,
    "output-withheld": OutputWithheld,
    "disk-error": DiskError,
    "output-done": OutputDone,
    "replayed-output": ReplayedOutput,
    "lag": Lag,
    "closed-log": ClosedLog,
    "drained": Drained,
    "attached": Attached,
    "announced": Announced,
    "live": Live,
    "first-output": FirstOutput,
    "paused": Paused,
    "divergence": Divergence,
    "recording-ended": RecordingEnded,
    "failpoint": FailpointHit,
    "halted": Halted,
    "stopped": Stopped,
}
