"""Exact moments of a node: a scenario holds the thread that has come to one, does something, and lets it go on.

The node has to run the lab's build. What a failpoint is, `ftvmm/core/src/node/failpoints.rs` says.
"""

from __future__ import annotations

import enum
import json
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from harness.lab import topology
from harness.lab.interface import Host, LabError, Pace
from harness.lab.ssh import KeptConversation

SOCKET = f"{topology.NODE_DIRECTORY}/failpoints.sock"
_WAIT_MS = 500

_TALK = """
import json, socket, sys
connection = None
for line in sys.stdin:
    try:
        if connection is None:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(sys.argv[1])
            answers = connection.makefile()
        connection.sendall(line.encode())
        answer = answers.readline().strip()
    except OSError as error:
        answer = json.dumps({"gone": str(error)})
    if not answer or "gone" in json.loads(answer):
        connection, answer = None, answer or json.dumps({"gone": "the node has closed the connection"})
    print(answer, flush=True)
"""


class Point(enum.StrEnum):
    """Where a node can be held."""

    INPUT_APPENDED = "input-appended"
    ENTRY_HALF_SENT = "entry-half-sent"
    ENTRY_SENT = "entry-sent"
    ENTRY_RECEIVED = "entry-received"
    ENTRY_REPLAYED = "entry-replayed"
    ENTRY_ACKNOWLEDGED = "entry-acknowledged"
    OUTPUT_PRODUCED = "output-produced"
    BEFORE_SECOND_CHECK = "before-second-check"
    AFTER_SECOND_CHECK = "after-second-check"
    BLOCK_WRITE_BEGUN = "block-write-begun"
    BLOCK_WRITE_ENDED = "block-write-ended"
    SUSPECT = "suspect"
    DRAINED = "drained"
    BEFORE_ASK = "before-ask"
    AFTER_ASK = "after-ask"
    WON = "won"
    ATTACHED = "attached"
    ANNOUNCED = "announced"
    FIRST_OUTPUT = "first-output"
    TRANSFER_BEGUN = "transfer-begun"
    GUEST_STOPPED = "guest-stopped"
    STATE_RESTORED = "state-restored"
    COMMIT_SENT = "commit-sent"
    COMMIT_RECEIVED = "commit-received"


class FailpointError(Exception):
    """A failpoint that could not be armed, or was not hit; the message says why."""


class NodeGoneError(FailpointError):
    """The node does not listen: it has ended, or runs the build that is shipped."""


@dataclass(frozen=True)
class Hit:
    """A thread has come to a failpoint.

    Attributes:
        number: the log position, the output's index or the generation that the moment is about.
        monotonic_ns: CLOCK_BOOTTIME of the host.
        wall_ns: CLOCK_REALTIME of the host.
    """

    number: int
    monotonic_ns: int
    wall_ns: int


class Failpoints:
    """The failpoints of the node on one host. Timeouts are given as for this machine."""

    def __init__(self, host: Host, pace: Pace) -> None:
        self._name, self._pace = host.name, pace
        self._conversation = KeptConversation(host, _TALK, SOCKET)

    def arm(self, failpoint: str) -> int:
        """Arms one, and returns its number.

        Raises:
            FailpointError: there is no such failpoint, or the node does not listen.
        """
        number: int = self._ask(f"arm {failpoint}")["id"]
        return number

    def wait(self, number: int, *, timeout_seconds: float) -> Hit | None:
        """The hit, or None when there was none in time.

        Raises:
            FailpointError: it is not armed any more, or the node does not listen.
        """
        deadline = time.monotonic() + self._pace.stretch(timeout_seconds)
        while True:
            hit = self._ask(f"wait {number} {_WAIT_MS}")["hit"]
            if hit is not None:
                return Hit(**hit)
            if time.monotonic() > deadline:
                return None

    def release(self, number: int) -> Hit | None:
        """Lets go whoever is held there, and disarms it. Returns the hit, if there was one.

        Raises:
            FailpointError: it is not armed any more, or the node does not listen.
        """
        hit = self._ask(f"release {number}")["hit"]
        return Hit(**hit) if hit else None

    def _ask(self, line: str) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = json.loads(
                self._conversation.ask(
                    line, timeout_seconds=self._pace.stretch(3) + _WAIT_MS / 1000, start_seconds=self._pace.stretch(10)
                )
            )
        except LabError as error:
            raise NodeGoneError(f"{self._name} cannot be asked: {error}") from error
        if "gone" in answer:
            raise NodeGoneError(f"the node on {self._name} has no failpoints: {answer['gone']}")
        if "error" in answer:
            raise FailpointError(f"{self._name}: {answer['error']}")
        return answer


class Moment:
    """A moment at which a node's thread is held, from its hit to the end of the `with` block.

    Args:
        failpoints: whose.
        failpoint: which, armed at once.
    """

    def __init__(self, failpoints: Failpoints, failpoint: str) -> None:
        self._failpoints, self._failpoint = failpoints, failpoint
        self._number = failpoints.arm(failpoint)
        self._is_armed = True
        self.held_ns: int | None = None
        """Since when it has been known here that the thread is held, CLOCK_REALTIME; None: it is not."""

    def wait(self, *, timeout_seconds: float = 20) -> Hit:
        """Waits until the moment has come.

        Raises:
            FailpointError: it has not in time, or the node has gone.
        """
        hit = self._failpoints.wait(self._number, timeout_seconds=timeout_seconds)
        if hit is None:
            raise FailpointError(f"`{self._failpoint}` was not hit within {timeout_seconds:g} s")
        self.held_ns = time.time_ns()
        return hit

    def release(self) -> None:
        """Lets the thread go on. Nothing is left to do where the node, or its host, has gone meanwhile."""
        if self._is_armed:
            self._is_armed, self.held_ns = False, None
            try:
                self._failpoints.release(self._number)
            except NodeGoneError:
                return

    def __enter__(self) -> Moment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def failpoint(point: str, action: str, *, kind: str | None = None, after: int = 0, count: int | None = 1) -> str:
    """A failpoint as a node takes it.

    Args:
        point: its name, such as `before-ask`.
        action: `kill`, `stop`, `delay:MILLISECONDS` or `block`.
        kind: `frame`, `block` or `console`, where only such an output is meant.
        after: how often the point is passed first.
        count: how often it acts; None for always.

    Raises:
        ValueError: there is no such point.
    """
    words = [Point(point).value, action]
    words += [f"kind={kind}"] if kind else []
    words += [f"after={after}"] if after else []
    words += [f"count={'all' if count is None else count}"] if count != 1 else []
    return " ".join(words)
