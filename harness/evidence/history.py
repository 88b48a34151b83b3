"""`history.jsonl`: what the key-value client asked and was told. Times are CLOCK_BOOTTIME of the client host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.evidence.clock_samples import ClockPair
from harness.evidence.json_lines import EvidenceError, decode, read_lines

OPERATIONS = ("GET", "SET", "APPEND", "INCR", "DEL")


@dataclass(frozen=True)
class Operation:
    """One operation; `return_ns` is None where no answer came, `error` says why, or what error the server answered."""

    client: int
    operation: str
    key: str
    value: str | None
    result: str | int | None
    call_ns: int
    return_ns: int | None
    error: str | None
    phase: str = "load"
    # How far either stamp may be from the truth, where the client host has clocks of its own.
    uncertainty_ns: int = 0

    @property
    def is_answered(self) -> bool:
        """Whether an answer came, an error included."""
        return self.return_ns is not None

    @property
    def latency_ns(self) -> int | None:
        """From call to return."""
        return None if self.return_ns is None else self.return_ns - self.call_ns


@dataclass(frozen=True)
class StrayReply:
    """A reply that nobody asked for, or that is not of the protocol."""

    event: str
    client: int
    at_ns: int
    reply: str


@dataclass(frozen=True)
class History:
    """The whole file. `sealed`: the client ended in order, so that no operation is missing."""

    operations: list[Operation]
    stray_replies: list[StrayReply]
    clocks: list[ClockPair]
    sealed: bool

    @property
    def answers(self) -> list[Operation]:
        """The answered operations in the order of their return."""
        return sorted((one for one in self.operations if one.is_answered), key=lambda one: one.return_ns or 0)


def read_history(path: Path) -> History:
    """Read the file; a torn last line is tolerated, the history is then not sealed. Raises `EvidenceError`."""
    operations: list[Operation] = []
    strays: list[StrayReply] = []
    clocks: list[ClockPair] = []
    sealed = False
    for line in read_lines(path, torn_end_allowed=True):
        if sealed:
            raise line.error("a line after the end of the history")
        event = line.fields.get("event")
        if event in ("start", "end"):
            clocks.append(decode(ClockPair, line))
            sealed = event == "end"
        elif event in ("unasked-reply", "protocol-error"):
            strays.append(decode(StrayReply, line))
        elif event is not None:
            raise line.error(f"no such event: {event!r}")
        else:
            operation = decode(Operation, line)
            if operation.operation not in OPERATIONS:
                raise line.error(f"no such operation: {operation.operation!r}")
            if operation.return_ns is not None and operation.return_ns < operation.call_ns:
                raise line.error("it returned before it was called")
            operations.append(operation)
    if not clocks:
        raise EvidenceError(f"{path}: it has no start line with the clocks")
    return History(operations, strays, clocks, sealed)
