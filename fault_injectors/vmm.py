"""Faults of the VMM process."""

from __future__ import annotations

from dataclasses import dataclass

from fault_injectors.base import HostFault
from fault_injectors.fault import Confirmation
from harness.lab.waiting import wait_until


@dataclass
class KillVmm(HostFault):
    """SIGKILL of the node on a host; the host lives on, so its kernel closes the node's sockets."""

    pid: int
    name = "kill-vmm"
    _command_before: str = ""

    def _command(self) -> str:
        """The command line of a process that is there and no zombie."""
        return self.host.run(f"ps -o stat=,args= -p {self.pid} | grep -v '^Z'").stdout.strip()

    def prepare(self) -> None:
        self._command_before = self._command()

    def inject(self) -> None:
        self.host.run(["kill", "-KILL", str(self.pid)])

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """The process was there and is gone, by the host's process table."""
        if not self._command_before:
            return Confirmation.of(False, f"there was no process {self.pid} on {self.host.name}")
        gone = wait_until(lambda: not self._command(), timeout_seconds=timeout_seconds)
        return Confirmation.of(
            gone,
            f"before: {self._command_before}",
            f"after: process {self.pid} is {'gone' if gone else 'still there'}",
        )

    def heal(self) -> None:
        """A killed node comes back by being started again, which is the scenario's to decide."""
