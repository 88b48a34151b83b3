"""What an operator does on purpose: a node hands its VM over, lets its backup go, moves one of the two."""

from __future__ import annotations

from dataclasses import dataclass, field

from fault_injectors.base import LabFault
from fault_injectors.fault import Confirmation
from fault_injectors.probes import process_command
from harness.lab import topology
from harness.lab.interface import Host
from harness.lab.waiting import wait_until

_LOG = f"{topology.NODE_DIRECTORY}/operator.log"


@dataclass
class OperatorCommand(LabFault):
    """An `ftvmm` command on the host that runs the VM, which ends the node on one of the two hosts.

    Args:
        operated: where the command runs.
        ends: the host whose node ends by it.
        pid: that node's process.
        command: the line that is typed.
    """

    operated: Host
    ends: Host
    pid: int
    command: str
    name = "operator-command"
    _command_before: str = field(default="", init=False)

    @property
    def target(self) -> str:
        """The host that loses its node."""
        return self.ends.name

    @property
    def parameters(self) -> dict[str, object]:
        """What was typed, and where."""
        return {"command": self.command, "on": self.operated.name, "pid": self.pid}

    def prepare(self) -> None:
        """See `fault_injectors.fault.Fault`."""
        self._command_before = process_command(self.ends, self.pid)

    def inject(self) -> None:
        """Types the command; nobody waits for its end here."""
        self.operated.start(self.command, log=_LOG)

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """The node was there and has ended, by its host's process table."""
        if not self._command_before:
            return Confirmation.of(False, f"there was no process {self.pid} on {self.ends.name}")
        gone = wait_until(lambda: not process_command(self.ends, self.pid), timeout_seconds=timeout_seconds)
        return Confirmation.of(
            gone,
            f"before: {self._command_before}",
            f"after: process {self.pid} is {'gone' if gone else 'still there'}",
            f"the command said: {self.operated.read_file(_LOG).decode(errors='replace').strip()!r}",
        )

    def heal(self) -> None:
        """A node that has ended comes back by being started again, which is its manager's to do."""
