"""A key-value client under whose eyes a failover happens.

    python -m harness.clients.key_value --target 10.0.0.2:6379 --control 127.0.0.1:7500 \\
        --history history.jsonl --connections-log connections.jsonl

Its connections stay open from start to end; one that breaks is recorded and stays broken. Each operation is written
with the stamps of its call and return (CLOCK_BOOTTIME). SIGTERM, SIGINT or the control port's `stop` end the load;
then every key is read a last time, operations without an answer are written as such, and an `end` line seals the file.
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import selectors
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import hiredis

from harness.clients.clock import now_ns, reading
from harness.clients.connection import Connection, ConnectionLostError
from harness.clients.control import ControlServer, Progress
from harness.clients.journal import Journal
from harness.clients.workload import Operation, Workload

SECOND_NS = 1_000_000_000


class KeyValueClient:
    """Drives all connections from one thread, so that it needs little of the machine that it shares."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._workload = Workload(keys=options.keys, prefix=options.prefix, seed=options.seed)
        self._history = Journal(options.history)
        self._connections_log = Journal(options.connections_log)
        self._selector = selectors.DefaultSelector()
        self._connections: list[Connection] = []
        self._opened = 0
        self._lost = 0
        self._answered_calls_ns: list[int] = []
        self._last_return_ns = 0
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
            self._open_connections()
            if self._control:
                print(f"control port {self._control.port}", flush=True)
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

    def _open_connections(self) -> None:
        deadline_ns = now_ns() + int(self._options.connect_seconds * SECOND_NS)
        while len(self._connections) < self._options.connections and not self._stopping:
            try:
                self._open(max(0.1, (deadline_ns - now_ns()) / SECOND_NS))
            except OSError:
                if now_ns() > deadline_ns:
                    return
                time.sleep(0.1)  # The guest may still be booting, and nothing announces that it listens.

    def _open(self, timeout_seconds: float) -> Connection:
        client = self._opened
        self._opened += 1
        connection = Connection(
            client=client, target=self._options.target, log=self._connections_log, timeout_seconds=timeout_seconds
        )
        self._connections.append(connection)
        self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        return connection

    def _load(self) -> None:
        period_ns = int(SECOND_NS * self._options.connections / self._options.rate)
        end_ns = now_ns() + int(self._options.duration * SECOND_NS) if self._options.duration else None
        for number, connection in enumerate(self._connections):
            connection.due_ns = now_ns() + number * period_ns // len(self._connections)
        while self._connections and not self._stopping and (end_ns is None or now_ns() < end_ns):
            for connection in [one for one in self._connections if one.pending is None and one.due_ns <= now_ns()]:
                # Counted from now, not from when it was due: after a stall there is no burst to catch up.
                connection.due_ns = now_ns() + int(period_ns * self._workload.jitter(0.2))
                self._send(connection, self._workload.draw(connection.client))
            due_ns = [connection.due_ns for connection in self._connections if connection.pending is None]
            self._wait(min([*due_ns, end_ns or due_ns[0]] if due_ns else [end_ns or now_ns() + SECOND_NS]))
        while not self._stopping and (end_ns is None or now_ns() < end_ns):
            self._wait(end_ns or now_ns() + SECOND_NS)  # All connections are lost: stay reachable until told to stop.

    def _settle(self, seconds: float) -> None:
        """Wait for the answers that are still out."""
        deadline_ns = now_ns() + int(seconds * SECOND_NS)
        while any(connection.pending for connection in self._connections) and now_ns() < deadline_ns:
            self._wait(deadline_ns)

    def _final_reads(self) -> None:
        self._phase = "final"
        deadline_ns = now_ns() + int(self._options.drain_seconds * SECOND_NS)
        if not any(connection.pending is None for connection in self._connections):
            with contextlib.suppress(OSError):
                self._open(self._options.drain_seconds)
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
        for connection in self._connections:
            self._record(connection, None, None, "no answer")
            connection.close()
        self._history.write(
            {"event": "end", "answered": len(self._answered_calls_ns), "unanswered": unanswered, **reading()}
        )
        self._connections_log.write({"event": "end", **reading()})
        self._history.close()
        self._connections_log.close()
        if self._control:
            self._control.close()

    def _wait(self, until_ns: int) -> None:
        for key, _ in self._selector.select(max(0.0, (until_ns - now_ns()) / SECOND_NS)):
            if isinstance(key.data, Connection):
                self._receive(key.data)
            else:
                key.data()

    def _send(self, connection: Connection, operation: Operation) -> None:
        try:
            connection.send(operation, self._phase)
        except ConnectionLostError as error:
            self._drop(connection, str(error))

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
        self._record(connection, None, None, error)
        self._selector.unregister(connection.socket)
        self._connections.remove(connection)
        self._lost += 1
        connection.discard()

    def _record(self, connection: Connection, reply: object, return_ns: int | None, error: str | None) -> None:
        pending, connection.pending = connection.pending, None
        if pending is None:
            return
        if isinstance(reply, hiredis.ReplyError):
            reply, error = None, str(reply)
        if return_ns is not None:
            self._last_return_ns = return_ns
            bisect.insort(self._answered_calls_ns, pending.call_ns)
        self._history.write(
            {
                "client": connection.client,
                "operation": pending.operation.name,
                "key": pending.operation.key,
                "value": pending.operation.value,
                "result": reply,
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
            unanswered=sum(connection.pending is not None for connection in self._connections),
            open_connections=len(self._connections),
            lost_connections=self._lost,
            last_return_ns=self._last_return_ns,
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
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--keys", type=int, default=16)
    parser.add_argument("--rate", type=float, default=300, help="operations a second over all connections")
    parser.add_argument("--duration", type=float, default=0, help="seconds of load; 0: until told to stop")
    parser.add_argument("--connect-seconds", type=float, default=15, help="how long to try at the start")
    parser.add_argument("--drain-seconds", type=float, default=5, help="how long to wait for answers at the end")
    parser.add_argument("--history", type=Path, required=True)
    parser.add_argument("--connections-log", type=Path, required=True)
    parser.add_argument("--control", type=address, help="HOST:PORT to listen on for the scenario (port 0: any)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prefix", default=None, help="of all keys; unique to this run unless given")
    options = parser.parse_args(arguments)
    options.prefix = options.prefix or f"{now_ns():x}"
    return KeyValueClient(options).run()


if __name__ == "__main__":
    sys.exit(main())
