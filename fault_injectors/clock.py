"""A host's wall clock jumps."""

from __future__ import annotations

from dataclasses import dataclass

from fault_injectors.base import HostFault
from fault_injectors.fault import Confirmation
from harness.lab.interface import Capability, HostState

_STEP = "import time; time.clock_settime_ns(0, time.clock_gettime_ns(0) + {nanoseconds})"
_TOLERANCE_SECONDS = 1.0


@dataclass
class ClockStep(HostFault):
    """CLOCK_REALTIME of one host jumps by so many seconds, forward or (negative) back. Healing jumps back."""

    seconds: float = 3600.0
    requires = frozenset({Capability.CLOCK})
    name = "clock-step"
    _offset_before_ns: int = 0

    def _offset_ns(self) -> int:
        """What the wall clock is ahead of the time since boot, which no step changes."""
        reading = self.host.clock()
        return reading.realtime_ns - reading.boottime_ns

    def _step(self, seconds: float) -> None:
        script = _STEP.format(nanoseconds=round(seconds * 1e9))
        self.host.run(["python3", "-c", script], check=True)

    def prepare(self) -> None:
        super().prepare()
        self._offset_before_ns = self._offset_ns()

    def inject(self) -> None:
        self._step(self.seconds)

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """The wall clock, against the clock that counts from boot, has moved by these seconds."""
        moved = (self._offset_ns() - self._offset_before_ns) / 1e9
        return Confirmation.of(
            abs(moved - self.seconds) < _TOLERANCE_SECONDS,
            f"the wall clock of {self.host.name} moved by {moved:.3f} s against its time since boot",
        )

    def heal(self) -> None:
        if self.host.state is not HostState.OFF:
            self._step(-self.seconds)
