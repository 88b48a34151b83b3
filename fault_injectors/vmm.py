"""Faults of the VMM process."""

from __future__ import annotations

from dataclasses import dataclass

from fault_injectors.base import HostFault
from fault_injectors.fault import Confirmation
from fault_injectors.probes import process_command
from harness.lab.waiting import wait_until


@dataclass
class KillVmm(HostFault):
    """SIGKILL of the node on a host; the host lives on, so its kernel closes the node's sockets."""

    pid: int
    name = "kill-vmm"
    _command_before: str = ""

    def prepare(self) -> None:
        self._command_before = process_command(self.host, self.pid)

    def inject(self) -> None:
        self.host.run(["kill", "-KILL", str(self.pid)])

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """The process was there and is gone, by the host's process table."""
        if not self._command_before:
            return Confirmation.of(False, f"there was no process {self.pid} on {self.host.name}")
        gone = wait_until(lambda: not process_command(self.host, self.pid), timeout_seconds=timeout_seconds)
        return Confirmation.of(
            gone,
            f"before: {self._command_before}",
            f"after: process {self.pid} is {'gone' if gone else 'still there'}",
        )

    def heal(self) -> None:
        """A killed node comes back by being started again, which is the scenario's to decide."""
