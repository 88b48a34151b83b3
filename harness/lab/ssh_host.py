"""The part of a host that is the same in every lab: what goes over its kept SSH connection."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from harness.lab.interface import ClockReading, CommandResult, HostRole, HostUnreachableError
from harness.lab.ssh import SshConnection, SshProcess
from harness.lab.testinfra_backend import as_testinfra
from harness.lab.topology import HostPlan


class SshHost:
    """See `harness.lab.interface.Host`; a lab's own kind of host adds power and what else is done from outside."""

    def __init__(self, plan: HostPlan, ssh: SshConnection) -> None:
        self._plan = plan
        self._ssh = ssh

    @property
    def name(self) -> str:
        return self._plan.name

    @property
    def role(self) -> HostRole:
        return self._plan.role

    @property
    def addresses(self) -> Mapping[str, str]:
        return self._plan.addresses

    @property
    def python(self) -> str:
        raise NotImplementedError

    @cached_property
    def testinfra(self) -> Any:
        return as_testinfra(self.name, self.run)

    def run(
        self, command: str | Sequence[str], *, timeout_seconds: float = 30.0, check: bool = False, input: bytes = b""
    ) -> CommandResult:
        return self._ssh.run(command, timeout_seconds=timeout_seconds, check=check, input=input)

    def start(self, command: str | Sequence[str], *, log: str | None = None) -> SshProcess:
        return self._ssh.start(command, log=log)

    def read_file(self, path: str) -> bytes:
        return self._ssh.read_file(path)

    def write_file(self, path: str, content: bytes, *, mode: int = 0o644) -> None:
        self._ssh.write_file(path, content, mode=mode)

    def forward(self, port: int, *, address: str = "127.0.0.1") -> tuple[str, int]:
        return self._ssh.forward(port, address)

    def clock(self) -> ClockReading:
        script = "import time; print(time.clock_gettime_ns(0), time.clock_gettime_ns(7))"
        realtime, boottime = self.run(f"{self.python} -c {shlex.quote(script)}", check=True).stdout.split()
        return ClockReading(int(realtime), int(boottime))

    def is_alive(self, *, timeout_seconds: float = 2.0) -> bool:
        with contextlib.suppress(HostUnreachableError):
            return self.run("true", timeout_seconds=timeout_seconds).succeeded
        return False
