"""The part of a host that is the same in every lab: what goes over its kept SSH connection."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import testinfra.host
from testinfra.backend import base

from harness.lab.interface import ClockReading, CommandResult, HostRole, HostUnreachableError
from harness.lab.ssh import SshConnection, SshConversation, SshProcess
from harness.lab.topology import HostPlan


class KeptConnectionBackend(base.BaseBackend):  # type: ignore[misc]  # testinfra is untyped
    """Runs testinfra's commands by a host's own `run`."""

    NAME = "kept-connection"

    def __init__(self, hostname: str, run: Callable[[str], CommandResult]) -> None:
        super().__init__(hostname)
        self._run = run

    def run(self, command: str, *args: str, **kwargs: Any) -> base.CommandResult:
        """Run one command; the arguments are quoted into it by testinfra's rules."""
        line = self.get_command(command, *args)
        result = self._run(line)
        return self.result(result.exit_status, self.encode(line), result.stdout.encode(), result.stderr.encode())


def as_testinfra(hostname: str, run: Callable[[str], CommandResult]) -> Any:
    """A `testinfra.host.Host` over `run`."""
    return testinfra.host.Host(KeptConnectionBackend(hostname, run))


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

    def converse(
        self, command: str | Sequence[str], *, timeout_seconds: float = 30.0
    ) -> AbstractContextManager[SshConversation]:
        return self._ssh.converse(command, timeout_seconds=timeout_seconds)

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
