"""The lab's captures: one process on all ports of the switch, known to run before a frame could be missed."""

from __future__ import annotations

import gzip
import json
import select
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.evidence.capture import CaptureCount
from harness.lab.interface import LabError
from harness.lab.topology import OPERATOR, HostPlan

PROJECT = Path(__file__).resolve().parents[2]
_ANSWER_SECONDS = 20.0


class Captures:
    """What passes the ports of a lab's switch, both ways, on every network but the operator's.

    Args:
        rack_pid: a process in the network namespace of the switch.
        directory: where the process writes.
    """

    def __init__(self, rack_pid: int, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._errors = directory / "sniffer.log"
        # Hosts are powered on side by side.
        self._lock = threading.Lock()
        enter = ["nsenter", "--target", str(rack_pid), "--net", "--"]
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [*enter, sys.executable, "-m", "harness.lab.sniffer", str(directory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=PROJECT,
                start_new_session=True,
            )

    def attach(self, plan: HostPlan) -> None:
        """Capture on the ports of a host from now on; a port that this lab does not have is left out."""
        self._ask("attach", [f"{name}={port}" for name, port in _ports(plan).items()])

    def detach(self, plan: HostPlan) -> None:
        """Let go of the ports of a host, what has passed them being taken."""
        self._ask("detach", _ports(plan))

    def collect(self, directory: Path) -> Mapping[str, CaptureCount]:
        """Pack what has passed so far; how many frames each port's capture holds and missed, by `<network>.<host>`."""
        directory.mkdir(parents=True, exist_ok=True)
        counts = {}
        for name, count in self._ask("count").items():
            for file, length in count.pop("lengths").items():
                # No more than was counted: frames come all the time.
                content = _first_bytes(self._directory / file, length)
                # The lightest level: what is worth packing is zeros.
                (directory / f"{file}.gz").write_bytes(gzip.compress(content, compresslevel=1))
            counts[name] = CaptureCount(**count)
        return counts

    def stop(self) -> None:
        """End the process, whole or not. May be called again."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=_ANSWER_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _ask(self, command: str, words: Iterable[str] = ()) -> Any:
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            try:
                self._process.stdin.write(" ".join([command, *words]).encode() + b"\n")
                self._process.stdin.flush()
                ready, _, _ = select.select([self._process.stdout], [], [], _ANSWER_SECONDS)
                answer = self._process.stdout.readline() if ready else b""
            except (OSError, ValueError) as error:
                raise LabError(f"the captures have ended ({error}): {self._said()}") from error
            if not answer:
                raise LabError(f"the captures did not answer `{command}`: {self._said()}")
            return json.loads(answer)

    def _said(self) -> str:
        return self._errors.read_text(errors="replace").strip() or "nothing was said"


def _ports(plan: HostPlan) -> dict[str, str]:
    """The switch's ports to a host, by `<network>.<host>`."""
    return {f"{network}.{plan.name}": plan.port(network) for network in plan.networks if network != OPERATOR}


def _first_bytes(path: Path, length: int) -> bytes:
    with path.open("rb") as file:
        return file.read(length)
