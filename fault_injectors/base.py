"""What faults share: what they need of a lab, how they describe themselves, whom they strike."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from fault_injectors.fault import Direction
from fault_injectors.probes import answers_ssh
from harness.lab.interface import Capability, Host, Lab

_TARGETS = frozenset({"lab", "host", "hosts", "first", "second", "cluster"})


@dataclass
class LabFault:
    """A fault in a lab that has what it `requires`. Its parameters are its public fields, but for whom it strikes."""

    # What it is called in reports and in the registry; every fault says so.
    name: ClassVar[str] = ""
    requires: ClassVar[frozenset[Capability]] = frozenset()
    lab: Lab

    @property
    def parameters(self) -> Mapping[str, Any]:
        named = (each.name for each in fields(self) if not each.name.startswith("_") and each.name not in _TARGETS)
        return {name: _plain(getattr(self, name)) for name in named}

    @classmethod
    def available(cls, lab: Lab) -> bool:
        return cls.requires <= lab.capabilities

    def heal(self) -> None:
        """See `fault_injectors.fault.Fault`; every fault says how."""
        raise NotImplementedError

    def end(self) -> None:
        """See `fault_injectors.fault.Fault`."""
        self.heal()


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, enum.StrEnum) or not isinstance(value, Iterable):
        return str(value) if isinstance(value, enum.StrEnum) else value
    return value if isinstance(value, str) else list(value)


@dataclass
class HostFault(LabFault):
    """A fault that strikes one host."""

    host: Host
    _was_alive: bool = field(default=False, init=False)

    @property
    def target(self) -> str:
        return self.host.name

    def prepare(self) -> None:
        self._was_alive = answers_ssh(self.lab, self.host)


@dataclass
class HostPairFault(LabFault):
    """A fault between two hosts, both ways or one."""

    first: Host
    second: Host

    @property
    def target(self) -> str:
        return f"{self.first.name},{self.second.name}"

    def _unheard(self, direction: Direction) -> list[tuple[Host, Host]]:
        """Who is no longer heard by whom."""
        pairs = []
        if direction is not Direction.INCOMING:
            pairs.append((self.first, self.second))
        if direction is not Direction.OUTGOING:
            pairs.append((self.second, self.first))
        return pairs
