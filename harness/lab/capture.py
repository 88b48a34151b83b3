"""Captures on the switch's ports: tcpdump with nanosecond stamps, known to run before a frame could be missed."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from harness.lab.capture_source import CaptureSource
from harness.lab.interface import CaptureReport, LabError
from harness.lab.namespaces import only_child
from harness.lab.topology import VM_MAC

_HEADER_BYTES = 24
_COUNTS = re.compile(rb"(\d+) packets? captured\D+(\d+) packets? received by filter\D+(\d+) packets? dropped by kernel")


class PortCapture:
    """One tcpdump on one port, from one plugging in of the port's host to its unplugging."""

    def __init__(self, rack_pid: int, port: str, path: Path) -> None:
        self.path = path
        self._port = port
        self._errors = b""
        self._final: tuple[int, int] | None = None
        command = ["nsenter", "--target", str(rack_pid), "--net", "--pid", "--", "tcpdump", "--interface", port]
        command += ["--immediate-mode", "--packet-buffered", "--nano", "--no-promiscuous-mode", "--buffer-size=8192"]
        command += ["--relinquish-privileges=root", "-w", str(path)]
        # A pcap file does not tell which way a frame went through the port. Frames under the VM's address are kept only
        # when they came *from* this host: what another host's VM says to everybody is in that host's capture.
        command.append(f"inbound or not ether src {VM_MAC}")
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        self._await_line(b"listening on", 10.0)

    def _await_line(self, wanted: bytes, timeout_seconds: float) -> None:
        """Wait until tcpdump's standard error says something."""
        deadline = time.monotonic() + timeout_seconds
        while wanted not in self._errors:
            self._read(deadline, wanted)

    def _read(self, deadline: float, what: bytes) -> None:
        assert self._process.stderr is not None
        ready, _, _ = select.select([self._process.stderr], [], [], max(0.0, deadline - time.monotonic()))
        part = self._process.stderr.read1(65536) if ready else b""  # type: ignore[attr-defined]
        if not part:
            raise LabError(f"tcpdump on {self._port} did not say `{what.decode()}`: {self._errors.decode().strip()}")
        self._errors += part

    def counts(self) -> tuple[int, int]:
        """Frames captured and frames dropped, asked of tcpdump by SIGUSR1, once it has written all that it received.

        Frames that came before the filter was in force count as received and are never written, so being done shows by
        two answers that are the same.
        """
        if self._final is not None:
            return self._final
        deadline = time.monotonic() + 5.0
        before: tuple[int, ...] = ()
        wanted: int | None = None
        while True:
            self._errors = b""
            self._signal(signal.SIGUSR1)
            while (match := _COUNTS.search(self._errors)) is None:
                self._read(deadline, b"packets captured")
            captured, received, dropped = (int(number) for number in match.groups())
            # What had passed when this was asked is to be written; what passes meanwhile counts as received first.
            wanted = received - dropped if wanted is None else wanted
            if captured >= wanted or before == (captured, received, dropped):
                return captured, dropped
            before = (captured, received, dropped)
            time.sleep(0.02)
            if time.monotonic() > deadline:
                raise LabError(f"tcpdump on {self._port} wrote {captured} of {received} frames only")

    def _signal(self, number: signal.Signals) -> None:
        """Signal tcpdump itself, the child of nsenter."""
        pid = only_child(self._process.pid)
        if pid is None:
            raise LabError(f"tcpdump on {self._port} ended: {self._errors.decode().strip()}")
        os.kill(pid, number)

    def stop(self) -> None:
        """Stop when all that passed has been written."""
        if self._final is not None:
            return
        self._final = self.counts()
        self._signal(signal.SIGINT)
        self._process.communicate(timeout=10)

    def discard(self) -> None:
        """Stop at once, whole or not."""
        if self._process.poll() is None:
            with contextlib.suppress(LabError, ProcessLookupError):
                self._signal(signal.SIGKILL)
        self._process.communicate(timeout=10)
        self._final = self._final or (0, 0)


def merge(captures: Sequence[CaptureSource], path: Path) -> CaptureReport:
    """All captures of one port, in order of time, as one file."""
    captured = dropped = 0
    with path.open("wb") as target:
        for number, capture in enumerate(captures):
            counts = capture.counts()
            captured, dropped = captured + counts[0], dropped + counts[1]
            content = capture.path.read_bytes()
            target.write(content if number == 0 else content[_HEADER_BYTES:])
    return CaptureReport(path, captured, dropped)
