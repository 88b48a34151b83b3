"""`faults.jsonl`: the injections and whether they were seen to take effect; which of them touched a host, and when.

`fault_injectors.fault` writes it. Its records are the only named reasons for what was not seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.evidence.json_lines import decode, read_lines

# After these a host's kernel has lost what it had not written to its disk.
LOSING_POWER = frozenset({"power-off", "kernel-panic", "kernel-hang", "reboot"})
STOPPING = LOSING_POWER | {"freeze", "sleep", "kill-vmm", "memory-pressure"}
# How faults are called that change, forge or repeat messages.
DAMAGING_WORDS = ("corrupt", "forge", "replay")
_FOREVER = 1 << 63


@dataclass(frozen=True)
class InjectedFault:
    """One injection; times are CLOCK_REALTIME nanoseconds."""

    fault: str
    target: str
    verdict: str
    injected_ns: int | None
    confirmed_ns: int | None
    healed_ns: int | None
    held_ns: int | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    evidence: list[str] = field(default_factory=list)


def read_faults(path: Path) -> list[InjectedFault]:
    """All injections in order. Raises `EvidenceError`."""
    faults = []
    for line in read_lines(path):
        fault = decode(InjectedFault, line)
        if fault.verdict not in ("confirmed", "mismatch", "inconclusive"):
            raise line.error(f"no such verdict: {fault.verdict!r}")
        faults.append(fault)
    return faults


@dataclass(frozen=True)
class Disturbance:
    """One injection at one host. Times are CLOCK_REALTIME; it lasts until it is healed, or for good.

    `networks`: those that it touches; `direction` as the fault has it, seen from the host.
    """

    fault: str
    host: str
    networks: frozenset[str]
    direction: str
    since_ns: int
    until_ns: int

    def overlaps(self, since_ns: int, until_ns: int) -> bool:
        """Whether it lay, in part, between two times."""
        return self.since_ns <= until_ns and since_ns <= self.until_ns

    def __str__(self) -> str:
        where = f" ({', '.join(sorted(self.networks))})" if self.networks else ""
        return f"{self.fault} at {self.host}{where}"


class Disturbances:
    """All of a run's."""

    def __init__(self, faults: Iterable[InjectedFault]) -> None:
        self._all = [one for fault in faults for one in _disturbances(fault)]

    def network(self, host: str, network: str, since_ns: int, until_ns: int) -> Disturbance | None:
        """What kept a host's packets from passing a network's port as they were sent, between two times."""
        for one in self._all:
            touches = one.host == host and network in one.networks and one.direction != "incoming"
            if touches and one.overlaps(since_ns, until_ns):
                return one
        return None

    def stopped(self, host: str, since_ns: int, until_ns: int, among: frozenset[str] = STOPPING) -> Disturbance | None:
        """What stopped a host, or a process on it, between two times."""
        for one in self._all:
            if one.host == host and one.fault in among and one.overlaps(since_ns, until_ns):
                return one
        return None

    @property
    def damaging(self) -> Disturbance | None:
        """A fault that changes, forges or repeats what the nodes say to each other."""
        return next((one for one in self._all if any(word in one.fault for word in DAMAGING_WORDS)), None)


def _disturbances(fault: InjectedFault) -> Iterable[Disturbance]:
    if fault.injected_ns is None:
        return
    named = fault.parameters.get("networks", fault.parameters.get("network", ()))
    networks = frozenset([named] if isinstance(named, str) else named)
    for host in fault.target.split(","):
        yield Disturbance(
            fault.fault,
            host,
            networks,
            str(fault.parameters.get("direction", "both")),
            fault.injected_ns,
            fault.healed_ns if fault.healed_ns is not None else _FOREVER,
        )
