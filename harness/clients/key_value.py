"""A key-value client under whose eyes a failover happens.

    python -m harness.clients.key_value --target 10.0.0.2:6379 --control 127.0.0.1:7500 \\
        --history history.jsonl --connections-log connections.jsonl

Its long-lived connections stay open from start to end; one that breaks is recorded and stays broken. All the while
visitors come: connections that are opened, ask a few things, and are closed again. Each operation is written with the
stamps of its call and return (CLOCK_BOOTTIME), long values as `harness.clients.workload.spell` has them. SIGTERM,
SIGINT or the control port's `stop` end the load; then every key is read a last time, operations without an answer are
written as such, and an `end` line seals the file.
"""

from __future__ import annotations

import argparse
import bisect
import selectors
import signal
import socket
import statistics
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import hiredis

from harness.clients.connection import Connection, ConnectionLostError
from harness.clients.control import ControlServer, Progress
from harness.clients.journal import Journal, now_ns, reading
from harness.clients.protocols import PROTOCOLS
from harness.clients.workload import Operation, Reply, Topics, Workload, key_of, spell

SECOND_NS = 1_000_000_000
# As many visitors fit into their patience; the server has room for them beside the long-lived connections.
_VISITORS_MAX = 32
_VISITOR_OPERATIONS = 2
# As many are answered in a tenth of a second.
_NEWEST_ANSWERS = 32


class KeyValueClient:
    """Drives all connections from one thread, so that it needs little of the machine that it shares."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._speech = PROTOCOLS[options.protocol]
        self._workload: Workload | Topics
        if options.protocol == "mqtt":
            self._workload = Topics(prefix=options.prefix, seed=options.seed)
        else:
            self._workload = Workload(
                keys=options.keys, prefix=options.prefix, seed=options.seed, operations=self._speech.OPERATIONS
            )
        self._history = Journal(options.history)
        self._connections_log = Journal(options.connections_log)
        self._selector = selectors.DefaultSelector()
        self._connections: list[Connection] = []
        # Each with how many operations it has yet to ask.
        self._visitors: dict[Connection, int] = {}
        self._next_visit_ns = 0
        self._opened = 0
        self._lost = 0
        self._answered_calls_ns: list[int] = []
        self._last_return_ns = 0
        self._latencies_ns: deque[int] = deque(maxlen=_NEWEST_ANSWERS)
        self._phase = "load"
        self._stop_signalled = False
        self._control = (
            ControlServer(options.control, self._selector, progress=self._progress, answered_after=self._answered_after)
            if options.control
            else None
        )

    def run(self) -> int:
        """The whole life of the client; the exit status is 0 unless it never got a connection."""
        self._catch_signals()
        self._history.write({"event": "start", "seed": self._options.seed, **reading()})
        self._connections_log.write({"event": "start", **reading()})
        try:
            if self._control:
                print(f"control port {self._control.port}", flush=True)
            if self._options.held:
                self._await_begin()
            self._open_connections()
            if not self._connections:
                print(f"no connection to {self._options.target} could be opened", file=sys.stderr)
                return 1
            self._load()
            self._settle(self._options.drain_seconds)
            self._final_reads()
        finally:
            self._seal()
        return 0

    def _catch_signals(self) -> None:
        # The pair wakes select(): without it a signal that comes right before the call would be slept over.
        awake, waker = socket.socketpair()
        awake.setblocking(False)
        waker.setblocking(False)
        signal.set_wakeup_fd(waker.fileno())
        self._wakers = (awake, waker)
        self._selector.register(awake, selectors.EVENT_READ, lambda: awake.recv(64))

        def stop(number: int, frame: object) -> None:
            self._stop_signalled = True

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)

    @property
    def _stopping(self) -> bool:
        return self._stop_signalled or (self._control is not None and self._control.stop_requested)

    def _await_begin(self) -> None:
        while self._control and not (self._control.begin_requested or self._stopping):
            self._wait(now_ns() + SECOND_NS)

    def _open_connections(self) -> None:
        deadline_ns = now_ns() + int(self._options.connect_seconds * SECOND_NS)
        while len(self._connections) < self._options.connections and not self._stopping:
            if not self._open_long_lived(deadline_ns):
                if now_ns() > deadline_ns:
                    return
                time.sleep(0.1)  # The guest may still be booting, and nothing announces that it listens.

    def _open_long_lived(self, deadline_ns: int) -> bool:
        """Open one and wait until that is settled; whether it is open."""
        connection = self._begin(long_lived=True)
        self._connections.append(connection)
        while connection in self._connections and not connection.is_open:
            if now_ns() > deadline_ns:
                self._give_up(connection)
            else:
                self._wait(deadline_ns)
        return connection.is_open

    def _begin(self, *, long_lived: bool) -> Connection:
        connection = Connection(
            client=self._opened,
            target=self._options.target,
            speech=self._speech(key_of(self._options.prefix, self._opened)),
            log=self._connections_log,
            long_lived=long_lived,
        )
        self._opened += 1
        self._selector.register(connection.socket, connection.events, connection)
        return connection

    def _load(self) -> None:
        period_ns = int(SECOND_NS * self._options.connections / self._options.rate)
        end_ns = now_ns() + int(self._options.duration * SECOND_NS) if self._options.duration else None
        for number, connection in enumerate(self._connections):
            connection.due_ns = now_ns() + number * period_ns // len(self._connections)
        self._next_visit_ns = now_ns()
        while not self._stopping and (end_ns is None or now_ns() < end_ns):
            for connection in [one for one in self._connections if one.pending is None and one.due_ns <= now_ns()]:
                # Counted from now, not from when it was due: after a stall there is no burst to catch up.
                connection.due_ns = now_ns() + int(period_ns * self._workload.jitter(0.2))
                self._send(connection, self._workload.draw(connection.client))
            self._invite_visitor()
            due_ns = [connection.due_ns for connection in self._connections if connection.pending is None]
            self._wait(min([*due_ns, self._next_visit_ns, end_ns or self._next_visit_ns]))

    def _invite_visitor(self) -> None:
        for visitor in [one for one in self._visitors if not one.is_open]:
            if now_ns() - visitor.asked_ns > self._options.patience_seconds * SECOND_NS:
                self._give_up(visitor)
        if now_ns() < self._next_visit_ns:
            return
        self._next_visit_ns = now_ns() + int(SECOND_NS / self._options.visitors * self._workload.jitter(0.2))
        if len(self._visitors) < _VISITORS_MAX:
            self._visitors[self._begin(long_lived=False)] = _VISITOR_OPERATIONS

    def _serve_visitor(self, visitor: Connection) -> None:
        """It is idle: it asks on, or goes."""
        if self._visitors[visitor]:
            self._visitors[visitor] -= 1
            self._send(visitor, self._workload.draw(visitor.client, long_lived=False))
        else:
            self._forget(visitor)
            visitor.close()

    def _settle(self, seconds: float) -> None:
        """Wait for the answers that are still out, and for the visitors to be connected and to go."""
        self._visitors = {visitor: min(1, left) for visitor, left in self._visitors.items()}
        deadline_ns = now_ns() + int(seconds * SECOND_NS)
        while self._visitors or any(connection.pending for connection in self._connections):
            if now_ns() > deadline_ns:
                return
            self._wait(deadline_ns)

    def _final_reads(self) -> None:
        self._phase = "final"
        deadline_ns = now_ns() + int(self._options.drain_seconds * SECOND_NS)
        if not any(connection.pending is None for connection in self._connections):
            self._open_long_lived(deadline_ns)
        keys = list(self._workload.keys)
        while now_ns() < deadline_ns:
            for connection in [one for one in self._connections if one.pending is None]:
                if keys:
                    self._send(connection, Operation("GET", keys.pop()))
            waiting = any(one.pending and one.pending.phase == "final" for one in self._connections)
            if not self._connections or not (keys or waiting):
                return
            self._wait(deadline_ns)

    def _seal(self) -> None:
        unanswered = self._progress().unanswered
        for connection in [*self._connections, *self._visitors]:
            self._record(connection, None, None, "no answer")
            if connection.is_open:
                connection.close()
            else:
                connection.give_up_connecting()
        self._history.write(
            {"event": "end", "answered": len(self._answered_calls_ns), "unanswered": unanswered, **reading()}
        )
        self._connections_log.write({"event": "end", **reading()})
        self._history.close()
        self._connections_log.close()
        if self._control:
            self._control.close()

    def _wait(self, until_ns: int) -> None:
        for key, events in self._selector.select(max(0.0, (until_ns - now_ns()) / SECOND_NS)):
            if isinstance(key.data, Connection):
                self._handle(key.data, events)
            else:
                key.data()

    def _handle(self, connection: Connection, events: int) -> None:
        try:
            if not connection.is_open:
                connection.finish_connecting()
            elif events & selectors.EVENT_WRITE:
                connection.send_rest()
        except ConnectionLostError as error:
            self._drop(connection, str(error))
            return
        if events & selectors.EVENT_READ:
            self._receive(connection)
        if connection in self._visitors and connection.is_open and connection.pending is None:
            self._serve_visitor(connection)
        self._attend(connection)

    def _attend(self, connection: Connection) -> None:
        """Let the selector wait for what the connection waits for."""
        if connection in self._connections or connection in self._visitors:
            self._selector.modify(connection.socket, connection.events, connection)

    def _send(self, connection: Connection, operation: Operation) -> None:
        try:
            connection.send(operation, self._phase)
        except ConnectionLostError as error:
            self._drop(connection, str(error))
            return
        self._attend(connection)

    def _receive(self, connection: Connection) -> None:
        try:
            for reply, return_ns in connection.receive():
                if connection.pending is None:
                    # A reply that nobody asked for is a reply seen twice: the oracle wants to know.
                    self._history.write(
                        {"event": "unasked-reply", "client": connection.client, "at_ns": return_ns, "reply": str(reply)}
                    )
                    continue
                self._record(connection, reply, return_ns, None)
        except ConnectionLostError as error:
            self._drop(connection, str(error))
        except hiredis.ProtocolError as error:
            self._history.write(
                {"event": "protocol-error", "client": connection.client, "at_ns": now_ns(), "reply": str(error)}
            )
            connection.close()
            self._drop(connection, f"protocol error: {error}")
        if self._control:
            self._control.note_answers()

    def _drop(self, connection: Connection, error: str) -> None:
        """It was lost, or never came to be, which is recorded already."""
        self._record(connection, None, None, error)
        self._lost += connection.is_open
        self._forget(connection)
        connection.discard()

    def _give_up(self, connection: Connection) -> None:
        self._forget(connection)
        connection.give_up_connecting()

    def _forget(self, connection: Connection) -> None:
        self._selector.unregister(connection.socket)
        if connection.long_lived:
            self._connections.remove(connection)
        else:
            del self._visitors[connection]

    def _record(self, connection: Connection, reply: Reply, return_ns: int | None, error: str | None) -> None:
        pending, connection.pending = connection.pending, None
        if pending is None:
            return
        if isinstance(reply, hiredis.ReplyError):
            reply, error = None, str(reply)
        if return_ns is not None:
            self._last_return_ns = return_ns
            self._latencies_ns.append(return_ns - pending.call_ns)
            bisect.insort(self._answered_calls_ns, pending.call_ns)
        self._history.write(
            {
                "client": connection.client,
                "operation": pending.operation.name,
                "key": pending.operation.key,
                "value": None if pending.operation.value is None else spell(pending.operation.value),
                "result": spell(reply) if isinstance(reply, str) else reply,
                "call_ns": pending.call_ns,
                "return_ns": return_ns,
                "error": error,
                "phase": pending.phase,
            }
        )

    def _answered_after(self, called_after_ns: int) -> int:
        return len(self._answered_calls_ns) - bisect.bisect_right(self._answered_calls_ns, called_after_ns)

    def _progress(self) -> Progress:
        return Progress(
            now_ns=now_ns(),
            phase=self._phase,
            answered=len(self._answered_calls_ns),
            unanswered=sum(one.pending is not None for one in (*self._connections, *self._visitors)),
            open_connections=len(self._connections),
            lost_connections=self._lost,
            last_return_ns=self._last_return_ns,
            latency_ms=statistics.median(self._latencies_ns) / 1e6 if self._latencies_ns else 0.0,
        )


def address(text: str) -> tuple[str, int]:
    """`HOST:PORT` as a pair; for argparse."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host, int(port)


def main(arguments: Sequence[str] | None = None) -> int:
    """The program."""
    parser = argparse.ArgumentParser(prog="python -m harness.clients.key_value", description=__doc__.split("\n")[0])
    parser.add_argument("--target", type=address, required=True, help="HOST:PORT of the key-value server")
    parser.add_argument("--protocol", choices=sorted(PROTOCOLS), default="resp", help="what the server speaks")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--keys", type=int, default=16)
    parser.add_argument("--rate", type=float, default=300, help="operations a second over all connections")
    parser.add_argument("--visitors", type=float, default=10, help="short-lived connections a second beside them")
    # The client's kernel asks at 0, 1 and 3 s.
    parser.add_argument("--patience-seconds", type=float, default=3.2, help="how long a visitor waits to be let in")
    parser.add_argument("--duration", type=float, default=0, help="seconds of load; 0: until told to stop")
    parser.add_argument("--connect-seconds", type=float, default=15, help="how long to try at the start")
    parser.add_argument("--drain-seconds", type=float, default=5, help="how long to wait for answers at the end")
    parser.add_argument("--history", type=Path, required=True)
    parser.add_argument("--connections-log", type=Path, required=True)
    parser.add_argument("--control", type=address, help="HOST:PORT to listen on for the scenario (port 0: any)")
    parser.add_argument("--held", action="store_true", help="connect to nobody before the control says `begin`")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prefix", default=None, help="of all keys; unique to this run unless given")
    options = parser.parse_args(arguments)
    options.prefix = options.prefix or f"{now_ns():x}"
    return KeyValueClient(options).run()


if __name__ == "__main__":
    sys.exit(main())
