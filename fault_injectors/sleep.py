"""A host that sleeps, and wakes when it thinks that much more time has passed."""

from __future__ import annotations

from dataclasses import dataclass

from fault_injectors.fault import Confirmation
from fault_injectors.host import SilencedHost
from harness.lab.interface import Capability, HostState


@dataclass
class Sleep(SilencedHost):
    """The host is suspended to RAM. Healing wakes it; by its own clocks it slept `slept_seconds` longer than it did."""

    slept_seconds: int = 0
    requires = frozenset({Capability.SLEEP})
    name = "sleep"

    def inject(self) -> None:
        self.host.sleep()

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """Seen from outside the host is suspended, and it answers neither SSH nor pings."""
        if self.host.state is not HostState.ASLEEP:
            return Confirmation.of(False, f"{self.host.name} is not suspended")
        return self._confirm_silent(timeout_seconds, pings_too=True, also=f"{self.host.name} is suspended to RAM")

    def heal(self) -> None:
        if self.host.state is HostState.ASLEEP:
            self.host.wake(slept_seconds=self.slept_seconds)
