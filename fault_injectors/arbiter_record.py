"""The arbiter's directory no longer holds what was claimed: its newest record is damaged or gone.

The storage host's side of the `file` arbiter (ftvmm/arbiters/file.py): one file a generation. What a fault puts aside
keeps its stamps, and comes back with them.
"""

from __future__ import annotations

import abc
import contextlib
from dataclasses import dataclass, field

from fault_injectors.base import LabFault
from fault_injectors.fault import Confirmation
from harness.lab.interface import HostState, HostUnreachableError
from harness.lab.topology import ARBITER_PATH, STORAGE_ARBITER
from harness.lab.waiting import wait_until

_ASIDE = ".fault-aside"


@dataclass
class _ArbiterRecord(LabFault, abc.ABC):
    """What they share. `vm` is the VM's UUID."""

    vm: str
    _before: dict[str, str] = field(default_factory=dict)
    _newest: str = ""

    @property
    def target(self) -> str:
        return self.lab.storage_host.name

    @property
    def _directory(self) -> str:
        return f"{STORAGE_ARBITER}/{self.vm.replace('-', '')}"

    def _seen(self) -> dict[str, str]:
        """Name and content of the newest record, as each host that runs reads it.

        A second fault may strike while this one is confirmed: a host that dies under the question reads nothing.
        """
        directory = f"{ARBITER_PATH}/{self.vm.replace('-', '')}"
        command = f"cd {directory} && name=$(ls | grep '^generation-' | tail -n 1) && echo $name $(cat $name)"
        hosts = [host for host in self.lab.fault_tolerant_hosts if host.state is HostState.RUNNING]
        seen = {}
        for host in hosts:
            with contextlib.suppress(HostUnreachableError):
                seen[host.name] = host.run(command).stdout.strip()
        return seen

    def prepare(self) -> None:
        self._before = self._seen()
        listing = self.lab.storage_host.run(f"ls {self._directory} | grep '^generation-' | tail -n 1", check=True)
        self._newest = listing.stdout.strip()

    def _on_storage(self, command: str) -> None:
        self.lab.storage_host.run(f"cd {self._directory} && {command}", check=True)

    @abc.abstractmethod
    def _shows(self, seen: str) -> bool:
        """Whether what a host reads is what this fault makes of the record."""

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """Every host that reads the arbiter's directory reads something else than before, namely this."""
        if not all(content.startswith("generation-") for content in self._before.values()):
            return Confirmation.of(None, f"not every host read a record before: {self._before}")

        def shows() -> bool:
            seen = self._seen()
            return bool(seen) and all(
                content != self._before.get(name) and self._shows(content) for name, content in seen.items()
            )

        struck = wait_until(shows, timeout_seconds=timeout_seconds)
        return Confirmation.of(
            struck, f"the newest record, as hosts read it, before: {self._before}", f"and now: {self._seen()}"
        )


@dataclass
class UnreadableRecord(_ArbiterRecord):
    """The newest record is cut off in the middle and goes on with garbage."""

    name = "unreadable-arbiter-record"

    def inject(self) -> None:
        self._on_storage(
            f"mv {self._newest} {_ASIDE} && head -c 20 {_ASIDE} >{self._newest} && echo '~~' >>{self._newest}"
        )

    def _shows(self, seen: str) -> bool:
        return seen.startswith(self._newest) and seen.endswith("~~")

    def heal(self) -> None:
        self._on_storage(f"mv -f {_ASIDE} {self._newest}")


@dataclass
class RolledBackRecords(_ArbiterRecord):
    """The newest record is gone, as in a share that was put back to an older state."""

    name = "rolled-back-arbiter-records"

    def inject(self) -> None:
        self._on_storage(f"mv {self._newest} {_ASIDE}")

    def _shows(self, seen: str) -> bool:
        return not seen.startswith(self._newest)

    def heal(self) -> None:
        self._on_storage(f"mv {_ASIDE} {self._newest}")
