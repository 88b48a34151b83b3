"""Faults of a whole host: its power goes, or it stands still."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fault_injectors.base import HostFault
from fault_injectors.fault import Confirmation
from fault_injectors.probes import answers_ping, answers_ssh, witness
from harness.lab.interface import Capability, HostState
from harness.lab.topology import MANAGEMENT
from harness.lab.waiting import wait_until

_SILENCE_SECONDS = 0.5


@dataclass
class SilencedHost(HostFault):
    """What the faults share after which no process of a host says anything any more."""

    def _confirm_silent(self, timeout_seconds: float, *, pings_too: bool, also: str = "") -> Confirmation:
        """The host answered before, and no longer answers SSH, nor the pings of another host where `pings_too`.

        `also` is what else was seen, for the evidence.
        """
        if not self._was_alive:
            return Confirmation.of(False, f"{self.host.name} did not answer before the blow either")
        wait_seconds = min(self.lab.pace.stretch(_SILENCE_SECONDS), timeout_seconds)

        def is_silent() -> bool:
            return not answers_ssh(self.lab, self.host, timeout_seconds=wait_seconds)

        # It may answer once more before the blow falls.
        if not wait_until(is_silent, timeout_seconds=timeout_seconds):
            return Confirmation.of(False, f"{self.host.name} still answers over SSH")
        onlooker, address = witness(self.lab, self.host), self.host.addresses[MANAGEMENT]
        if onlooker is None:
            return Confirmation.of(None, "no other host is up that could look for it on the management network")
        pings = answers_ping(self.lab, onlooker, address)
        evidence = [
            f"{self.host.name} answered over SSH before and does not now",
            f"{address} {'still answers' if pings else 'does not answer'} the pings of {onlooker.name}",
        ]
        return Confirmation.of(not (pings and pings_too), *evidence, *([also] if also else []))


@dataclass
class PowerOff(SilencedHost):
    """The host loses its power: memory and /run are gone, the disk stays, nothing says goodbye on any network."""

    requires = frozenset({Capability.POWER})
    name = "power-off"

    def inject(self) -> None:
        if self.host.state is not HostState.OFF:
            self.host.power_off()

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """The host has no power any more, and neither SSH nor pings are answered, as SSH was before.

        A host that only stands still is silent too.
        """
        if self.host.state is not HostState.OFF:
            return Confirmation.of(False, f"{self.host.name} still has power")
        return self._confirm_silent(timeout_seconds, pings_too=True, also=f"{self.host.name} has no power")

    def heal(self) -> None:
        if self.host.state is HostState.OFF:
            self.host.power_on()

    def end(self) -> None:
        """Nothing: what the host's disk holds is read without its power, and a boot can take a minute."""


@dataclass
class Freeze(HostFault):
    """All of the host's processes stand still until it is healed; its kernel lives on, and with it its TCP and ARP."""

    requires = frozenset({Capability.FREEZE})
    name = "freeze"

    def prepare(self) -> None:
        self._was_alive = self.host.state is HostState.RUNNING and answers_ssh(self.lab, self.host)

    def inject(self) -> None:
        if self.host.state is not HostState.OFF:
            self.host.freeze()

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """Seen from outside, every process is stopped, and the host's sshd does not answer."""
        if not self._was_alive:
            return Confirmation.of(False, f"{self.host.name} did not answer before it was frozen")
        frozen = self.host.state is HostState.FROZEN
        wait_seconds = min(self.lab.pace.stretch(_SILENCE_SECONDS), timeout_seconds)
        answers = answers_ssh(self.lab, self.host, timeout_seconds=wait_seconds)
        return Confirmation.of(
            frozen and not answers,
            f"the processes of {self.host.name} are {'frozen' if frozen else 'running'}",
            f"its sshd {'still answers' if answers else f'does not answer within {wait_seconds * 1000:.0f} ms'}",
        )

    def heal(self) -> None:
        if self.host.state is not HostState.OFF:
            self.host.thaw()


@dataclass
class BriefFreeze(HostFault):
    """All of the host's processes are frozen for so many milliseconds, and thawed again when `inject` is back.

    As for this machine: how long grows with the lab's detection times.
    """

    milliseconds: float
    requires = frozenset({Capability.FREEZE})
    name = "brief-freeze"
    _was_frozen: bool = False
    _thawed_at: float = 0.0
    _answered_at: float | None = None
    _question: threading.Thread | None = field(default=None, repr=False)

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {"milliseconds": self.milliseconds * self.lab.pace.timing}

    def _ask(self) -> None:
        if answers_ssh(self.lab, self.host):
            self._answered_at = time.monotonic()

    def inject(self) -> None:
        self.host.freeze()
        until = time.monotonic() + self.milliseconds * self.lab.pace.timing / 1000
        try:
            self._question = threading.Thread(target=self._ask, name="ask-frozen-host", daemon=True)
            self._question.start()
            time.sleep(max(0.0, until - time.monotonic()))
            self._was_frozen = self.host.state is HostState.FROZEN
        finally:
            self._thawed_at = time.monotonic()
            self.host.thaw()

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """Seen from outside every process was stopped at the end, and its sshd answered when it ran on, not before."""
        assert self._question is not None
        self._question.join(timeout_seconds)
        if self._answered_at is None:
            return Confirmation.of(None, f"{self.host.name} did not answer over SSH afterwards")
        late_ms = (self._answered_at - self._thawed_at) * 1000
        when = f"{abs(late_ms):.0f} ms {'after it ran on' if late_ms > 0 else 'before it ran on'}"
        return Confirmation.of(
            self._was_alive and self._was_frozen and late_ms > 0,
            f"the processes of {self.host.name} were {'frozen' if self._was_frozen else 'running'}",
            f"what its sshd was asked meanwhile it answered {when}",
        )

    def heal(self) -> None:
        """Nothing is left of it."""
