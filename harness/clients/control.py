"""How a scenario talks to a running client: JSON lines over a TCP port on the client host, forwarded by SSH.

Requests: `{"command": "begin"}` (of a client that was started `--held`), `{"command": "progress"}`,
`{"command": "wait", "answered": N, "called_after_ns": T}` (answered as soon as N operations that were called after T
have been answered), `{"command": "stop"}` (answered when the files are whole).
"""

from __future__ import annotations

import json
import selectors
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Progress:
    """How far a client is. Times are CLOCK_BOOTTIME of the client host.

    `latency_ms` is the median of its newest answers' latencies, of those that are told.
    """

    now_ns: int
    phase: str
    answered: int
    unanswered: int
    open_connections: int
    lost_connections: int
    last_return_ns: int
    latency_ms: float = 0.0


@dataclass(frozen=True)
class _Wait:
    channel: socket.socket
    answered: int
    called_after_ns: int


class ControlServer:
    """The client's side: lives in the client's own selector loop."""

    def __init__(
        self,
        address: tuple[str, int],
        selector: selectors.BaseSelector,
        *,
        progress: Callable[[], Progress],
        answered_after: Callable[[int], int],
    ) -> None:
        """Listen on `address`; `answered_after(t)` counts the answered operations that were called after t."""
        self._listener = socket.create_server(address)
        self._listener.setblocking(False)
        self._selector = selector
        self._progress = progress
        self._answered_after = answered_after
        self._buffers: dict[socket.socket, bytes] = {}
        self._waits: list[_Wait] = []
        self._stoppers: list[socket.socket] = []
        self.begin_requested = self.stop_requested = False
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._listener.getsockname()[1])

    def note_answers(self) -> None:
        """Answer the waits that are met by now."""
        for wait in list(self._waits):
            if self._answered_after(wait.called_after_ns) >= wait.answered:
                self._waits.remove(wait)
                self._reply(wait.channel)

    def close(self) -> None:
        """Tell who asked for the stop that everything is written, and close."""
        for channel in self._stoppers:
            self._reply(channel)
        for channel in self._buffers:
            channel.close()
        self._listener.close()

    def _accept(self) -> None:
        channel, _ = self._listener.accept()
        channel.settimeout(1)
        self._buffers[channel] = b""
        self._selector.register(channel, selectors.EVENT_READ, lambda: self._read(channel))

    def _read(self, channel: socket.socket) -> None:
        try:
            data = channel.recv(4096)
        except OSError:
            data = b""
        if not data:
            self._forget(channel)
            return
        *lines, self._buffers[channel] = (self._buffers[channel] + data).split(b"\n")
        for line in lines:
            self._serve(channel, line)

    def _serve(self, channel: socket.socket, line: bytes) -> None:
        try:
            request = json.loads(line)
            command = request["command"]
            if command in ("begin", "progress"):
                self.begin_requested |= command == "begin"
                self._reply(channel)
            elif command == "wait":
                self._waits.append(_Wait(channel, int(request["answered"]), int(request.get("called_after_ns", 0))))
                self.note_answers()
            elif command == "stop":
                self._stoppers.append(channel)
                self.stop_requested = True
            else:
                raise ValueError(f"no command named {command!r}")
        except (ValueError, KeyError, TypeError) as error:
            self._send(channel, {"error": f"bad request: {error}"})

    def _reply(self, channel: socket.socket) -> None:
        self._send(channel, asdict(self._progress()))

    def _send(self, channel: socket.socket, message: Mapping[str, object]) -> None:
        try:
            channel.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self._forget(channel)

    def _forget(self, channel: socket.socket) -> None:
        if channel in self._buffers:
            self._selector.unregister(channel)
            del self._buffers[channel]
            self._waits = [wait for wait in self._waits if wait.channel is not channel]
            self._stoppers = [stopper for stopper in self._stoppers if stopper is not channel]
            channel.close()


class ClientControl:
    """The scenario's side."""

    def __init__(self, address: tuple[str, int], *, timeout_seconds: float = 10) -> None:
        self._channel = socket.create_connection(address, timeout=timeout_seconds)
        self._reader = self._channel.makefile("rb")
        self._timeout_seconds = timeout_seconds

    def begin(self) -> Progress:
        """Let a client begin that waits for it."""
        return self._ask({"command": "begin"}, self._timeout_seconds)

    def progress(self) -> Progress:
        """How far the client is now."""
        return self._ask({"command": "progress"}, self._timeout_seconds)

    def wait_answered(self, answered: int, *, called_after_ns: int = 0, timeout_seconds: float = 30) -> Progress:
        """Wait until `answered` operations called after `called_after_ns` are answered; `TimeoutError` if they are not.

        After a `TimeoutError` this channel is of no more use: open a new one.
        """
        request = {"command": "wait", "answered": answered, "called_after_ns": called_after_ns}
        return self._ask(request, timeout_seconds)

    def stop(self, *, timeout_seconds: float = 30) -> Progress:
        """End the load, let it read all keys a last time, and wait until its files are whole."""
        return self._ask({"command": "stop"}, timeout_seconds)

    def close(self) -> None:
        """Close the channel; the client goes on."""
        self._reader.close()
        self._channel.close()

    def _ask(self, request: Mapping[str, object], timeout_seconds: float) -> Progress:
        self._channel.settimeout(timeout_seconds)
        self._channel.sendall(json.dumps(request).encode() + b"\n")
        line = self._reader.readline()
        if not line:
            raise ConnectionError("the client ended without an answer")
        answer = json.loads(line)
        if "error" in answer:
            raise ValueError(answer["error"])
        return Progress(**answer)
