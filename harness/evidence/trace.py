"""`hosts/<host>/trace.jsonl`: what a node said of itself, read into typed events."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from harness.evidence.json_lines import EvidenceError, Line, decode, has_torn_end, read_lines


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
class Transfer(Event):
    # The state of a guest that runs goes to a joiner; `round` and `pages` in the state `round` alone.
    state: str
    position: int | None = None
    reason: str | None = None
    round: int | None = None
    pages: int | None = None


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
class FrameRefused(Event):
    # The network interface was down: the `output` line before this one did not come true.
    index: int
    reason: str
    device: int | None = None


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
    milliseconds: float
    bytes: int
    # Of the guest's time: 1 where it runs as it likes.
    share: float


@dataclass(frozen=True, kw_only=True)
class HandedOver(Event):
    position: int


@dataclass(frozen=True, kw_only=True)
class PlanGivenUp(Event):
    reason: str


@dataclass(frozen=True, kw_only=True)
class NeedsBackup(Event):
    # One of a fixed list (docs/architecture.md).
    reason: str


@dataclass(frozen=True, kw_only=True)
class Protection(Event):
    # Why the backup could not take over; None: now it could.
    lacks: str | None = None


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
class Rotated(Event):
    # A file came to its bound, and what it had before is not in it any more.
    file: str


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


# What a node says first, whenever it is started.
_FIRST_EVENT = "node-started"

KINDS: dict[str, type[Event]] = {
    _FIRST_EVENT: NodeStarted,
    "role": Role,
    "suspect": Suspect,
    "session": Session,
    "arbiter": Arbiter,
    "committed": Committed,
    "transfer": Transfer,
    "acknowledged": Acknowledged,
    "output": Output,
    "output-withheld": OutputWithheld,
    "frame-refused": FrameRefused,
    "disk-error": DiskError,
    "output-done": OutputDone,
    "replayed-output": ReplayedOutput,
    "lag": Lag,
    "handed-over": HandedOver,
    "plan-given-up": PlanGivenUp,
    "needs-backup": NeedsBackup,
    "protection": Protection,
    "closed-log": ClosedLog,
    "drained": Drained,
    "attached": Attached,
    "announced": Announced,
    "live": Live,
    "first-output": FirstOutput,
    "paused": Paused,
    "divergence": Divergence,
    "recording-ended": RecordingEnded,
    "rotated": Rotated,
    "failpoint": FailpointHit,
    "halted": Halted,
    "stopped": Stopped,
}


Kind = TypeVar("Kind", bound=Event)


@dataclass(frozen=True)
class Trace:
    """All events of one host in the order they were written (several processes, if the node was started again)."""

    host: str
    path: Path
    events: list[Event]
    torn_lines: int

    def of(self, kind: type[Kind]) -> list[Kind]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    @cached_property
    def emitted(self) -> list[Output]:
        """The outputs that left, without those withheld right before the send (R5) or refused by the interface."""
        emitted: dict[tuple[str, int, int], Output] = {}
        newest: dict[tuple[str, int], tuple[str, int, int]] = {}
        for place, event in enumerate(self.events):
            if isinstance(event, Output):
                key = (event.incarnation, event.index, place)
                emitted[key] = event
                newest[event.incarnation, event.index] = key
            elif isinstance(event, OutputWithheld | FrameRefused):
                withheld = newest.get((event.incarnation, event.index))
                # An interface refuses frames and nothing else.
                if withheld is not None and (isinstance(event, OutputWithheld) or emitted[withheld].kind == "frame"):
                    del emitted[withheld], newest[event.incarnation, event.index]
        return list(emitted.values())

    @property
    def mutants(self) -> list[str]:
        """How this node was broken on purpose."""
        return sorted({mutant for started in self.of(NodeStarted) for mutant in started.mutants})


def read_trace(path: Path, host: str) -> Trace:
    """Read a trace. Torn lines, as killed nodes leave them, are counted; anything else is an `EvidenceError`.

    So is a rotated trace or console: who judges would miss what it does not have any more.

    Events of an unknown name are kept as a plain `Event`, so that a newer node's trace can still be judged.
    """
    events = []
    number, torn = 0, int(has_torn_end(path))
    for line in read_lines(path, torn_end_allowed=True, first_event=_FIRST_EVENT):
        torn += line.number - number - 1
        number = line.number
        kind = KINDS.get(str(line.fields.get("event")), Event)
        if "from" in line.fields:
            renamed = {("before" if name == "from" else name): value for name, value in line.fields.items()}
            events.append(decode(kind, Line(line.path, line.number, renamed)))
        else:
            events.append(decode(kind, line))
    trace = Trace(host, path, events, torn)
    for rotated in trace.of(Rotated):
        raise EvidenceError(f"{path}: {rotated.file} of {host} came to its bound and was rotated")
    return trace
