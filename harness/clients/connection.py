"""One client connection that is never renewed silently: what ends it is recorded."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

import hiredis

from harness.clients.clock import now_ns
from harness.clients.journal import Journal
from harness.clients.workload import Operation


@dataclass
class Pending:
    """An operation that was sent and is not answered yet."""

    operation: Operation
    phase: str
    call_ns: int


class ConnectionLostError(Exception):
    """The peer closed or reset the connection; `.args[0]` says how."""


class Connection:
    """A non-blocking TCP connection that speaks RESP2, one operation in flight at a time."""

    def __init__(self, *, client: int, target: tuple[str, int], log: Journal, timeout_seconds: float) -> None:
        """Connect within `timeout_seconds`; `OSError` when that fails (recorded)."""
        self.client = client
        self.pending: Pending | None = None
        self.due_ns = 0
        self._log = log
        try:
            self.socket = socket.create_connection(target, timeout=timeout_seconds)
        except OSError as error:
            log.write({"client": client, "event": "refused", "at_ns": now_ns(), "local_port": 0, "error": str(error)})
            raise
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.local_port: int = self.socket.getsockname()[1]
        self._reader = hiredis.Reader(encoding="utf-8", errors="backslashreplace")
        self._record("opened", None)

    def send(self, operation: Operation, phase: str) -> None:
        """Send a command. The call stamp is taken before the first byte leaves.

        Raises `ConnectionLostError` when the connection turns out to be gone; the operation stays pending, because
        nobody knows whether its bytes arrived.
        """
        self.pending = Pending(operation, phase, now_ns())
        try:
            # One small command after an answered one: it always fits into the socket buffer.
            self.socket.send(hiredis.pack_command(operation.arguments))  # type: ignore[arg-type]  # stub says 1-tuple
        except OSError as error:
            raise self._lost(error) from error

    def receive(self) -> list[tuple[object, int]]:
        """The replies that are there, each with its return stamp; `ConnectionLostError` when the peer ended it."""
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return []
        except OSError as error:
            raise self._lost(error) from error
        stamp_ns = now_ns()
        if not data:
            self._record("closed", "the peer closed the connection")
            raise ConnectionLostError("connection closed by the peer")
        self._reader.feed(data)
        replies: list[tuple[object, int]] = []
        while (reply := self._reader.gets()) is not False:
            replies.append((reply, stamp_ns))
        return replies

    def close(self) -> None:
        """Close from our side, which is recorded as such."""
        self._record("closed-by-client", None)
        self.socket.close()

    def discard(self) -> None:
        """Let go of a socket whose end was recorded already."""
        self.socket.close()

    def _lost(self, error: OSError) -> ConnectionLostError:
        reset = error.errno in (errno.ECONNRESET, errno.EPIPE)
        self._record("reset" if reset else "failed", str(error))
        return ConnectionLostError(str(error))

    def _record(self, event: str, error: str | None) -> None:
        self._log.write(
            {"client": self.client, "event": event, "at_ns": now_ns(), "local_port": self.local_port, "error": error}
        )
