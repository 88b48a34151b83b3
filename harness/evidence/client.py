"""What the client saw: its history, its connections, the ticks that it received, and how long it waited.

`history.jsonl` has what the key-value client asked and was told, `connections.jsonl` what happened to its connections,
`ticks.jsonl` the datagrams that the ticker's listener received. All times are CLOCK_BOOTTIME of the client host.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.evidence.clocks import ClockPair
from harness.evidence.json_lines import EvidenceError, decode, read_lines

OPERATIONS = ("GET", "SET", "APPEND", "INCR", "DEL")
EVENTS = ("opened", "refused", "timed-out", "reset", "failed", "closed", "closed-by-client")
LOST_EVENTS = ("reset", "failed", "closed")
# When the client's kernel asks to be connected, counted from the first time (RFC 6298: 1 s, then doubled). So whoever's
# first SYN is lost in a stall is connected after 1 s, however soon the VM answers again.
_SYN_NS = tuple(((1 << times) - 1) * 1_000_000_000 for times in range(8))


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


@dataclass(frozen=True)
class Wait:
    """From a question to its answer (CLOCK_BOOTTIME nanoseconds); `ended`: the answer came."""

    client: int
    what: str
    start_ns: int
    end_ns: int
    ended: bool = True
    # By how much it may be shorter, by the client's clock.
    uncertainty_ns: int = 0

    @property
    def milliseconds(self) -> float:
        """Its length, up to the end of the load where it has no end."""
        return (self.end_ns - self.start_ns) / 1e6

    @property
    def milliseconds_at_least(self) -> float:
        """The length that it certainly has."""
        return self.milliseconds - self.uncertainty_ns / 1e6

    def __str__(self) -> str:
        return f"client {self.client}: {self.what}"


def operation_waits(history: History) -> list[Wait]:
    """One for each operation; those without an answer last to the end of the history, where that is known."""
    ends_ns = [one.return_ns or one.call_ns for one in history.operations]
    ends_ns += [pair.monotonic_ns for pair in history.clocks]
    end_ns = max(ends_ns)
    return [
        Wait(
            one.client,
            f"{one.operation} {one.key}",
            one.call_ns,
            end_ns if one.return_ns is None else one.return_ns,
            one.is_answered,
            2 * one.uncertainty_ns,
        )
        for one in history.operations
    ]


def longest_wait_ms(history: History, from_ns: int, to_ns: int) -> float:
    """Of the waits for an answer that touch the time between the two: the longest; 0 where nobody waited."""
    touching = (one for one in operation_waits(history) if one.end_ns >= from_ns and one.start_ns <= to_ns)
    return round(max((one.milliseconds for one in touching), default=0.0), 3)


def handshake_waits(events: Iterable[ConnectionEvent]) -> list[Wait]:
    """One for each connection that opened after the first."""
    return [
        Wait(event.client, "connecting", event.asked_ns, event.at_ns, uncertainty_ns=2 * event.uncertainty_ns)
        for event in _after_first(events)
        if event.event == "opened"
    ]


def silence_of_handshake(wait: Wait) -> float:
    """How many milliseconds at least nobody answered; the rest of a handshake is the kernel's waiting to ask again."""
    asked_ns = [syn_ns for syn_ns in _SYN_NS if syn_ns <= wait.end_ns - wait.start_ns]
    unanswered_ns = asked_ns[-2] if len(asked_ns) > 1 else 0
    return (max(unanswered_ns, _since_last_ns(wait)) - wait.uncertainty_ns) / 1e6


def _since_last_ns(wait: Wait) -> int:
    """From the last time that the client's kernel asked to the end."""
    length_ns = wait.end_ns - wait.start_ns
    return length_ns - max(syn_ns for syn_ns in _SYN_NS if syn_ns <= length_ns)


@dataclass(frozen=True)
class ClosedDoor:
    """A time in which nobody could connect, and the attempts that failed in it.

    Attributes:
        wait: from the first attempt that failed to the next that did not.
        attempts: those that failed.
        let_in_ns: when somebody was connected again; None: nobody was.
        patience_ns: how long the slowest of those who were let in waited for the answer to their last asking.
    """

    wait: Wait
    attempts: list[Wait]
    let_in_ns: int | None = None
    patience_ns: int = 0

    @property
    def ignored(self) -> list[Wait]:
        """Attempts that asked again when others were let in, and waited in vain for longer than any of those had to."""
        return [one for one in self.attempts if self._is_ignored(one)]

    def _is_ignored(self, attempt: Wait) -> bool:
        if self.let_in_ns is None:
            return False
        asked_ns = (attempt.start_ns + syn_ns for syn_ns in _SYN_NS)
        asked_again_ns = next(syn_ns for syn_ns in asked_ns if syn_ns >= self.let_in_ns)
        return attempt.end_ns - asked_again_ns > self.patience_ns + attempt.uncertainty_ns

    @property
    def length_ms(self) -> float:
        """How long it was closed at most."""
        return self.wait.milliseconds


def closed_doors(events: Sequence[ConnectionEvent]) -> list[ClosedDoor]:
    """Each from an attempt that nobody answered to the next that somebody did.

    Attempts are made all the while, so that this tells how long the VM let nobody in, whatever the kernel's timers are.
    """
    attempts = sorted(
        (event for event in _after_first(events) if event.event in ("opened", "timed-out")),
        key=lambda event: event.asked_ns,
    )
    patience_ns = max((_since_last_ns(wait) for wait in handshake_waits(events)), default=0)
    doors: list[ClosedDoor] = []
    failed: list[Wait] = []
    for event in attempts:
        attempt = Wait(
            event.client,
            f"connecting ({event.error})" if event.error else "connecting",
            event.asked_ns,
            event.at_ns,
            event.event == "opened",
            2 * event.uncertainty_ns,
        )
        if not attempt.ended:
            failed.append(attempt)
        elif failed:
            closed = replace(failed[0], end_ns=attempt.start_ns, ended=True)
            doors.append(ClosedDoor(closed, failed, attempt.end_ns, patience_ns))
            failed = []
    if failed:
        doors.append(ClosedDoor(replace(failed[0], end_ns=max(one.end_ns for one in failed)), failed))
    return doors


def _after_first(events: Iterable[ConnectionEvent]) -> list[ConnectionEvent]:
    """What went before the first connection was the VM's boot."""
    events = list(events)
    opened_ns = [event.at_ns for event in events if event.event == "opened"]
    return [event for event in events if opened_ns and event.asked_ns >= min(opened_ns)]
