"""The server of the VM's disk and of the arbiter ends: its port refuses whoever asks, until it is started again."""

from __future__ import annotations

from dataclasses import dataclass, field

from fault_injectors.base import LabFault
from fault_injectors.fault import Confirmation
from fault_injectors.probes import accepts_tcp
from harness.lab.interface import Capability, HostState
from harness.lab.waiting import wait_until


@dataclass
class StoppedStorageServer(LabFault):
    """The storage host is there, its server is not. What it had answered is on its disk."""

    requires = frozenset({Capability.STORAGE_SERVER})
    name = "stopped-storage-server"
    _accepted_before: dict[str, bool] = field(default_factory=dict)

    @property
    def target(self) -> str:
        return self.lab.storage_host.name

    def _accepted(self) -> dict[str, bool]:
        disk = self.lab.storage.disk
        hosts = [host for host in self.lab.fault_tolerant_hosts if host.state is not HostState.OFF]
        return {host.name: accepts_tcp(self.lab, host, disk.address, disk.port) for host in hosts}

    def prepare(self) -> None:
        self._accepted_before = self._accepted()

    def inject(self) -> None:
        self.lab.storage.stop_server(self.lab.storage_host)

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """The hosts, whose connections were accepted before, are refused, while the storage host itself is up."""
        if not any(self._accepted_before.values()):
            return Confirmation.of(False, f"no host reached the server before either: {self._accepted_before}")
        refused = wait_until(lambda: not any(self._accepted().values()), timeout_seconds=timeout_seconds)
        alive = self.lab.storage_host.is_alive(timeout_seconds=timeout_seconds)
        listens = alive and self.lab.storage_host.testinfra.socket(f"tcp://{self.lab.storage.disk.port}").is_listening
        return Confirmation.of(
            refused and alive and not listens,
            f"the server accepts connections: before {self._accepted_before}, now {self._accepted()}",
            f"{self.target} itself {'answers' if alive else 'does not answer'}, and its kernel tells of "
            f"{'a' if listens else 'no'} socket that listens there",
        )

    def heal(self) -> None:
        self.lab.storage.start_server(self.lab.storage_host)
