"""testinfra over a connection that is already open.

testinfra's own paramiko backend opens a connection for each backend and hands the ssh config's GSSAPI options to
paramiko, which version 5 rejects. This one takes the host's kept connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import testinfra.host
from testinfra.backend import base

from harness.lab.interface import CommandResult


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
