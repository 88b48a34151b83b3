"""Faults of a whole host: its power goes, or it stands still."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fault_injectors.fault import Confirmation
from fault_injectors.probes import answers_ping
from harness.lab.interface import Capability, Host, Lab, LabError
from harness.lab.topology import MANAGEMENT


@dataclass
class PowerOff:
    """The host loses its power: memory and /run are gone, the disk stays, nothing says goodbye on any network."""

    lab: Lab
    host: Host
    name = "power-off"
    _was_alive: bool = False

    @property
    def target(self) -> str:
        return self.host.name

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {}

    @staticmethod
    def available(lab: Lab) -> bool:
        return Capability.POWER in lab.capabilities

    def prepare(self) -> None:
        self._was_alive = self.host.is_powered and self.host.is_alive()

    def inject(self) -> None:
        with contextlib.suppress(LabError):  # off already: the confirmation says so
            self.host.power_off()

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """The host answered before, and no longer answers SSH nor the pings of another host."""
        if not self._was_alive:
            return Confirmation.of(False, f"{self.host.name} did not answer before its power was cut")
        if self.host.is_alive(timeout_seconds=timeout_seconds):
            return Confirmation.of(False, f"{self.host.name} still answers over SSH")
        witness = _witness(self.lab, self.host)
        if witness is None:
            return Confirmation.of(None, "no other host is up that could look for it on the management network")
        address = self.host.addresses[MANAGEMENT]
        if answers_ping(witness, address):
            return Confirmation.of(False, f"{address} still answers the pings of {witness.name}")
        return Confirmation.of(
            True,
            f"{self.host.name} answered over SSH before and does not now",
            f"{address} does not answer the pings of {witness.name}",
        )

    def heal(self) -> None:
        if not self.host.is_powered:
            self.host.power_on()


@dataclass
class Freeze:
    """All of the host's processes stand still until it is healed; its kernel lives on, and with it its TCP and ARP."""

    lab: Lab
    host: Host
    name = "freeze"
    _was_alive: bool = False

    @property
    def target(self) -> str:
        return self.host.name

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {}

    @staticmethod
    def available(lab: Lab) -> bool:
        return Capability.FREEZE in lab.capabilities

    def prepare(self) -> None:
        self._was_alive = self.host.is_powered and not self.host.is_frozen and self.host.is_alive()

    def inject(self) -> None:
        if self.host.is_powered:
            self.host.freeze()

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """The kernel says that every process is stopped, and the host's sshd does not answer."""
        if not self._was_alive:
            return Confirmation.of(False, f"{self.host.name} did not answer before it was frozen")
        frozen = self.host.is_frozen
        answers = self.host.is_alive(timeout_seconds=min(0.5, timeout_seconds))
        return Confirmation.of(
            frozen and not answers,
            f"the kernel reports the processes of {self.host.name} as {'frozen' if frozen else 'running'}",
            f"its sshd {'still answers' if answers else 'does not answer within 500 ms'}",
        )

    def heal(self) -> None:
        if self.host.is_powered:
            self.host.thaw()


def _witness(lab: Lab, besides: Host) -> Host | None:
    candidates = (lab.client_host, lab.storage_host, *lab.fault_tolerant_hosts)
    for candidate in candidates:
        if candidate.name != besides.name and candidate.is_powered and candidate.is_alive():
            return candidate
    return None
