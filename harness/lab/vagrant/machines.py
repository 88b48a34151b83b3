"""What the lab does to a machine from outside, whichever hypervisor keeps it: power, cables, snapshots."""

from __future__ import annotations

import socket
from typing import Protocol

from harness.lab.topology import HostPlan


class Machines(Protocol):
    """The machines of the lab, by their hosts' plans. Each method raises `LabError` with the hypervisor's words."""

    def connect(self, address: str, port: int) -> socket.socket:
        """A TCP connection to a machine's sshd."""

    def is_running(self, plan: HostPlan) -> bool:
        """Whether the machine has power."""

    def cut_power(self, plan: HostPlan) -> None:
        """End the machine as a power cut would: nothing in it notices, nothing is written any more."""

    def power_on(self, plan: HostPlan) -> None:
        """Start it; back at once, the machine boots meanwhile."""

    def read_disk(self, plan: HostPlan, path: str) -> bytes | None:
        """A file below the node's directory of a machine without power; None where only the machine itself can read it.

        `FileNotFoundError` when there is none.
        """

    def freeze(self, plan: HostPlan) -> None:
        """Stop the machine between two instructions; its clocks go on."""

    def thaw(self, plan: HostPlan) -> None:
        """Let it run on."""

    def is_frozen(self, plan: HostPlan) -> bool:
        """Whether it stands still."""

    def set_cable(self, plan: HostPlan, network: str, *, plugged: bool) -> None:
        """Pull or plug one cable: the machine sees its carrier go or come."""

    def is_asleep(self, plan: HostPlan) -> bool:
        """Whether the machine is suspended to RAM."""

    def wake(self, plan: HostPlan, *, slept_seconds: int) -> None:
        """Wake it, its real-time clock put forward by so many seconds first."""

    def take_snapshot(self, plan: HostPlan, name: str) -> None:
        """Keep the running machine's state, memory included, under a name; one of that name is replaced."""

    def drop_snapshot(self, plan: HostPlan, name: str) -> None:
        """Forget what is kept under a name."""

    def restore_snapshot(self, plan: HostPlan, name: str) -> None:
        """Make the machine run from there again, whatever it is now."""
