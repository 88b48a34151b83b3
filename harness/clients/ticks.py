"""Listens for the datagrams of the `ticker` guest (`tick NUMBER NANOSECONDS`) and keeps each with its arrival.

    python -m harness.clients.ticks --listen 10.0.0.1:9000 --ticks ticks.jsonl --control 127.0.0.1:7501

Stops on SIGTERM, SIGINT or the control port's `stop`. Over the control port `wait` counts datagrams that arrived after
the given time.
"""

from __future__ import annotations

import argparse
import bisect
import re
import selectors
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.clients.control import ControlServer, Progress
from harness.clients.journal import Journal, now_ns, reading
from harness.clients.key_value import address

_TICK = re.compile(rb"tick (\d+) (\d+)\s*")


class TickListener:
    """Writes one line a datagram; what is no tick is written with the number null."""

    def __init__(self, listen: tuple[str, int], ticks: Path, control: tuple[str, int] | None) -> None:
        self._selector = selectors.DefaultSelector()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind(listen)
        self._socket.setblocking(False)
        self._journal = Journal(ticks)
        self._arrivals_ns: list[int] = []
        self._stopped = False
        self._selector.register(self._socket, selectors.EVENT_READ, self._receive)
        self._control = (
            ControlServer(control, self._selector, progress=self._progress, answered_after=self._arrived_after)
            if control
            else None
        )

    @property
    def port(self) -> int:
        """The UDP port that it listens on."""
        return int(self._socket.getsockname()[1])

    def run(self) -> int:
        """Listen until told to stop."""
        awake, waker = socket.socketpair()
        waker.setblocking(False)
        signal.set_wakeup_fd(waker.fileno())
        self._selector.register(awake, selectors.EVENT_READ, lambda: awake.recv(64))
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        self._journal.write({"event": "start", "port": self.port, **reading()})
        control_port = self._control.port if self._control else None
        print(f"udp port {self.port} control port {control_port}", flush=True)
        while not (self._stopped or (self._control and self._control.stop_requested)):
            for key, _ in self._selector.select():
                key.data()
        self._journal.write({"event": "end", "received": len(self._arrivals_ns), **reading()})
        self._journal.close()
        if self._control:
            self._control.close()
        return 0

    def _stop(self, number: int, frame: object) -> None:
        self._stopped = True

    def _receive(self) -> None:
        payload, sender = self._socket.recvfrom(65536)
        arrived_ns = now_ns()
        bisect.insort(self._arrivals_ns, arrived_ns)
        tick = _TICK.fullmatch(payload)
        self._journal.write(
            {
                "number": int(tick[1]) if tick else None,
                "guest_ns": int(tick[2]) if tick else None,
                "arrived_ns": arrived_ns,
                "sender": f"{sender[0]}:{sender[1]}",
                "payload": payload.decode(errors="backslashreplace"),
            }
        )
        if self._control:
            self._control.note_answers()

    def _arrived_after(self, time_ns: int) -> int:
        return len(self._arrivals_ns) - bisect.bisect_right(self._arrivals_ns, time_ns)

    def _progress(self) -> Progress:
        last_ns = self._arrivals_ns[-1] if self._arrivals_ns else 0
        return Progress(now_ns(), "listen", len(self._arrivals_ns), 0, 0, 0, last_ns)


def main(arguments: Sequence[str] | None = None) -> int:
    """The program."""
    parser = argparse.ArgumentParser(prog="python -m harness.clients.ticks", description=__doc__.split("\n")[0])
    parser.add_argument("--listen", type=address, required=True, help="HOST:PORT for UDP (port 0: any)")
    parser.add_argument("--ticks", type=Path, required=True, help="the file to write")
    parser.add_argument("--control", type=address, help="HOST:PORT to listen on for the scenario (port 0: any)")
    options = parser.parse_args(arguments)
    return TickListener(options.listen, options.ticks, options.control).run()


if __name__ == "__main__":
    sys.exit(main())
