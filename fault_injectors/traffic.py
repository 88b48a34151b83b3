"""Packets that a host sends to one network are late, lost, overtake each other or arrive damaged (tc-netem(8))."""

from __future__ import annotations

import abc
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fault_injectors.base import HostFault
from fault_injectors.echoes import Echoes, echoes
from fault_injectors.fault import Confirmation
from fault_injectors.probes import witness_on
from harness.lab.interface import Capability, Host, HostState
from harness.lab.topology import LOGGING
from harness.lab.waiting import wait_until


@dataclass(frozen=True)
class NetemCounters:
    """What the queueing discipline counts. Netem books a packet that it let overtake others as requeued."""

    packets: int
    drops: int
    requeues: int


def netem_counters(listing: str) -> NetemCounters | None:
    """Netem's counters out of `tc -s -j qdisc show dev ...`; None where there is no netem."""
    for entry in json.loads(listing or "[]"):
        if entry.get("kind") == "netem":
            return NetemCounters(entry["packets"], entry["drops"], entry["requeues"])
    return None


def checksum_errors(snmp: str) -> int:
    """Packets that a kernel threw away for their checksums, of all protocols, out of its /proc/net/snmp."""
    lines = [line.split() for line in snmp.splitlines()]
    tables = [
        dict(zip(names[1:], values[1:], strict=True)) for names, values in zip(lines[::2], lines[1::2], strict=True)
    ]
    return sum(int(table.get("InCsumErrors", 0)) for table in tables)


@dataclass
class _Traffic(HostFault, abc.ABC):
    """What they share. `network` names the network whose packets are struck, as the host sends them."""

    network: str = LOGGING
    requires = frozenset({Capability.KERNEL})

    @property
    def _interface(self) -> str:
        return self.host.interfaces[self.network]

    @property
    @abc.abstractmethod
    def _netem(self) -> list[str]:
        """Netem's words for it."""

    @abc.abstractmethod
    def _seen(self, answers: Echoes, counters: NetemCounters, checksum_errors_more: int) -> bool:
        """Whether the answers to pings, and what the kernels counted, show this fault."""

    def inject(self) -> None:
        self.host.run(["tc", "qdisc", "replace", "dev", self._interface, "root", "netem", *self._netem], check=True)

    def _counters(self) -> NetemCounters | None:
        return netem_counters(self.host.run(["tc", "-s", "-j", "qdisc", "show", "dev", self._interface]).stdout)

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """Another host that pings sees what becomes of the answers, and the queueing discipline counts."""
        onlooker = witness_on(self.lab, self.host, self.network)
        if onlooker is None:
            return Confirmation.of(None, f"no other host could look at {self.host.name} on the {self.network} network")
        errors_before = _checksum_errors(onlooker)
        evidence: list[str] = []

        def seen() -> bool:
            answers = echoes(self.lab, onlooker, self.host.addresses[self.network])
            counters, errors = self._counters(), _checksum_errors(onlooker) - errors_before
            evidence[:] = [
                f"{onlooker.name} pinged {self.host.name}: {answers}",
                f"packets thrown away by {onlooker.name} for their checksums since then: {errors}",
                f"netem on {self.host.name}: {counters}",
            ]
            return counters is not None and self._seen(answers, counters, errors)

        return Confirmation.of(wait_until(seen, timeout_seconds=timeout_seconds), *evidence)

    def heal(self) -> None:
        if self.host.state is not HostState.OFF:
            self.host.run(["tc", "qdisc", "del", "dev", self._interface, "root"])


def _checksum_errors(host: Host) -> int:
    return checksum_errors(host.run(["cat", "/proc/net/snmp"], check=True).stdout)


@dataclass
class PacketLoss(_Traffic):
    """So many percent of the packets are lost."""

    percent: float = 5.0
    name = "packet-loss"

    @property
    def _netem(self) -> list[str]:
        return ["loss", f"{self.percent:g}%"]

    def _seen(self, answers: Echoes, counters: NetemCounters, checksum_errors_more: int) -> bool:
        return answers.lost > 0 and counters.drops > 0


@dataclass
class _LatePackets(_Traffic, abc.ABC):
    """Packets come `delay_ms` late: as for this machine, it grows with the lab's detection times."""

    delay_ms: float = 10.0

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {**super().parameters, "delay_ms": self._lab_delay_ms}

    @property
    def _lab_delay_ms(self) -> float:
        return self.delay_ms * self.lab.pace.timing


@dataclass
class PacketDelay(_LatePackets):
    """All packets come `delay_ms` late."""

    name = "packet-delay"

    @property
    def _netem(self) -> list[str]:
        return ["delay", f"{self._lab_delay_ms:g}ms"]

    def _seen(self, answers: Echoes, counters: NetemCounters, checksum_errors_more: int) -> bool:
        return self._lab_delay_ms <= answers.soonest_ms < math.inf


@dataclass
class PacketReordering(_LatePackets):
    """All packets come `delay_ms` late, but for so many percent that overtake them."""

    percent: float = 25.0
    name = "packet-reordering"

    @property
    def _netem(self) -> list[str]:
        return ["delay", f"{self._lab_delay_ms:g}ms", "reorder", f"{self.percent:g}%"]

    def _seen(self, answers: Echoes, counters: NetemCounters, checksum_errors_more: int) -> bool:
        return answers.overtakes > 0 and counters.requeues > 0


@dataclass
class PacketCorruption(_Traffic):
    """One bit is flipped in so many percent of the packets; what checksums find is lost on arrival."""

    percent: float = 5.0
    name = "packet-corruption"

    @property
    def _netem(self) -> list[str]:
        return ["corrupt", f"{self.percent:g}%"]

    def _seen(self, answers: Echoes, counters: NetemCounters, checksum_errors_more: int) -> bool:
        return checksum_errors_more > 0
