"""One client connection that is never renewed silently: what ends it is recorded."""

from __future__ import annotations

import errno
import selectors
import socket
from dataclasses import dataclass

from harness.clients.journal import Journal, now_ns
from harness.clients.protocols import Speech
from harness.clients.workload import Operation, Reply

# Nobody answered, whoever gave up first: the client's kernel (ARP, SYN) or the client itself.
_SILENCE = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH})


@dataclass
class Pending:
    """An operation that was sent and is not answered yet."""

    operation: Operation
    phase: str
    call_ns: int


class ConnectionLostError(Exception):
    """The peer closed or reset the connection; `.args[0]` says how."""


class Connection:
    """A non-blocking TCP connection, one operation in flight at a time.

    Args:
        client: its number in the evidence.
        target: the server's address and port.
        speech: how it speaks to the server.
        log: where its life is recorded.
        long_lived: whether it is to stay open to the end.
    """

    def __init__(
        self, *, client: int, target: tuple[str, int], speech: Speech, log: Journal, long_lived: bool = True
    ) -> None:
        """Begin to connect; `finish_connecting` when the socket is writable."""
        self.client = client
        self.long_lived = long_lived
        self.is_open = False
        self.pending: Pending | None = None
        self.due_ns = 0
        self.asked_ns = now_ns()
        self._log = log
        self._local_port = 0
        self._outgoing = b""
        self._speech = speech
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # What fails at once is told by SO_ERROR or the next attempt as well.
        self._failure = self.socket.connect_ex(target)

    @property
    def events(self) -> int:
        """What a selector is to wait for."""
        if not self.is_open:
            return selectors.EVENT_WRITE
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outgoing else 0)

    def finish_connecting(self) -> None:
        """The socket is writable: it is connected, or `ConnectionLostError` (recorded)."""
        failure = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not failure and self._failure not in (0, errno.EINPROGRESS):
            failure = self._failure
        if failure:
            self._record("timed-out" if failure in _SILENCE else "refused", errno.errorcode.get(failure, str(failure)))
            raise ConnectionLostError(errno.errorcode.get(failure, str(failure)))
        self._local_port = self.socket.getsockname()[1]
        self.is_open = True
        self._record("opened", None)

    def give_up_connecting(self) -> None:
        """Nobody answered for too long, which is recorded."""
        self._record("timed-out", "no answer")
        self.socket.close()

    def send(self, operation: Operation, phase: str) -> None:
        """Send a command. The call stamp is taken before the first byte leaves.

        Raises `ConnectionLostError` when the connection turns out to be gone; the operation stays pending, because
        nobody knows whether its bytes arrived.
        """
        self.pending = Pending(operation, phase, now_ns())
        self._outgoing += self._speech.pack(operation)
        self.send_rest()

    def send_rest(self) -> None:
        """Send as much as the socket's buffer takes of what is not out yet; raises as `send` does."""
        try:
            self._outgoing = self._outgoing[self.socket.send(self._outgoing) :] if self._outgoing else b""
        except BlockingIOError:
            return
        except OSError as error:
            raise self._lost(error) from error

    def receive(self) -> list[tuple[Reply, int]]:
        """The replies that are there, each with its return stamp; `ConnectionLostError` when the peer ended it.

        Raises `hiredis.ProtocolError` where they are none.
        """
        try:
            data = self.socket.recv(1 << 18)
        except BlockingIOError:
            return []
        except OSError as error:
            raise self._lost(error) from error
        stamp_ns = now_ns()
        if not data:
            self._record("closed", "the peer closed the connection")
            raise ConnectionLostError("connection closed by the peer")
        replies = [(reply, stamp_ns) for reply in self._speech.take(data)]
        self._outgoing += self._speech.owed()
        self.send_rest()
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
            {
                "client": self.client,
                "event": event,
                "at_ns": now_ns(),
                "asked_ns": self.asked_ns,
                "local_port": self._local_port,
                "long_lived": self.long_lived,
                "error": error,
            }
        )
