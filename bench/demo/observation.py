"""What the demonstration sees, by a thread a source: each node's status and trace, and the client's progress."""

import json
import shlex
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.clients.control import Progress
from harness.lab import topology
from harness.lab.interface import Host, HostState, LabError
from harness.vm.client import Client

NODE_PERIOD_SECONDS = 0.4
CLIENT_PERIOD_SECONDS = 0.1
ANSWER_SECONDS_MAX = 2.0
SAMPLES_KEPT = 96

TOLD_EVENTS = (
    *("role", "suspect", "closed-log", "drained", "arbiter", "attached", "announced", "live", "first-output"),
    *("node-started", "transfer", "paused", "divergence", "halted", "stopped"),
)

_ASK_NODE = f"""
import socket
node = socket.socket(socket.AF_UNIX)
node.settimeout(1)
node.connect("{topology.NODE_DIRECTORY}/control.sock")
node.sendall(b"status\\n")
print(node.makefile().readline(), end="")
"""


@dataclass
class NodeView:
    """The last that was heard of a node, and when (time.monotonic())."""

    name: str
    status: dict[str, Any] | None = None
    heard_at: float | None = None
    powered: bool = True
    events: list[dict[str, Any]] = field(default_factory=list)

    def silence_seconds(self, now: float) -> float | None:
        """How long nothing was heard of it; None when nothing ever was. ``now`` is time.monotonic()."""
        return None if self.heard_at is None else now - self.heard_at


@dataclass
class ClientView:
    """The last that was heard of the client, and the answers of each period so far."""

    progress: Progress | None = None
    answers: deque[int] = field(default_factory=lambda: deque(maxlen=SAMPLES_KEPT))
    silence_ms_max: float = 0.0


@dataclass(frozen=True)
class Deed:
    """What the demonstration itself did to a host, at this time (CLOCK_BOOTTIME)."""

    at_ns: int
    what: str
    is_fault: bool = True


@dataclass(frozen=True)
class Scene:
    """All that is seen: what the picture is drawn from."""

    nodes: dict[str, NodeView]
    client: ClientView = field(default_factory=ClientView)
    deeds: list[Deed] = field(default_factory=list)

    @property
    def fault_ns(self) -> int | None:
        """When the newest fault was injected; None before the first."""
        return max((deed.at_ns for deed in self.deeds if deed.is_fault), default=None)


class Observation:
    """Runs the threads between ``start`` and ``stop``. Its scene may be read at any time."""

    def __init__(self, hosts: Sequence[Host], client: Client) -> None:
        self.scene = Scene({host.name: NodeView(host.name) for host in hosts})
        self._ended = threading.Event()
        sources: list[Callable[[], None]] = [lambda: self._watch_client(client)]
        sources += [lambda host=host: self._watch_node(host) for host in hosts]  # type: ignore[misc]
        self._threads = [threading.Thread(target=source, daemon=True) for source in sources]

    def start(self) -> None:
        """Begin to look."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()
        for thread in self._threads:
            thread.join(timeout=ANSWER_SECONDS_MAX + 1)

    def _watch_node(self, host: Host) -> None:
        view = self.scene.nodes[host.name]
        # Without site-packages Python starts five times as fast, and the demonstration shares the lab's few cores.
        interpreter = host.python.split()[-1]
        ask = shlex.join([interpreter, "-S", "-c", _ASK_NODE])
        told = f'grep -E \'"event": ?"({"|".join(TOLD_EVENTS)})"\' {topology.NODE_DIRECTORY}/trace.jsonl'
        while not self._ended.wait(NODE_PERIOD_SECONDS):
            view.powered = host.state is not HostState.OFF
            if not view.powered:
                continue
            try:
                answer = host.run(f"{ask} 2>/dev/null; echo; {told}", timeout_seconds=ANSWER_SECONDS_MAX)
            except LabError:
                continue
            first, *events = answer.stdout.splitlines() or [""]
            view.events = _parsed(events) or view.events
            if status := _parsed([first]):
                view.status = status[0].get("answer")
                view.heard_at = time.monotonic()

    def _watch_client(self, client: Client) -> None:
        view = self.scene.client
        control = client.control()  # a channel carries one question at a time
        while not self._ended.wait(CLIENT_PERIOD_SECONDS):
            try:
                progress = control.progress()
            except (OSError, ValueError):
                return
            before = view.progress.answered if view.progress else progress.answered
            view.answers.append(progress.answered - before)
            view.progress = progress
            if progress.last_return_ns:
                view.silence_ms_max = max(view.silence_ms_max, (progress.now_ns - progress.last_return_ns) / 1e6)
        control.close()


def _parsed(lines: list[str]) -> list[dict[str, Any]]:
    parsed = []
    for line in lines:
        try:
            parsed.append(json.loads(line))
        except ValueError:
            continue  # a line that is being written
    return parsed
