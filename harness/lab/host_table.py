"""The part of a lab that is the same in every one: its hosts by name and by what they are there for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from harness.lab import topology
from harness.lab.interface import HostRole, Network
from harness.lab.ssh_host import SshHost

H = TypeVar("H", bound=SshHost)


class HostTable(Generic[H]):
    """See `harness.lab.interface.Lab`; `H` is the lab's own kind of host."""

    def __init__(self) -> None:
        self._hosts: dict[str, H] = {}

    @property
    def networks(self) -> Mapping[str, Network]:
        return {name: network for name, network in topology.NETWORKS.items() if name != topology.OPERATOR}

    @property
    def hosts(self) -> Mapping[str, H]:
        return self._hosts

    @property
    def fault_tolerant_hosts(self) -> Sequence[H]:
        return [host for host in self._hosts.values() if host.role is HostRole.FAULT_TOLERANT]

    @property
    def storage_host(self) -> H:
        return self._hosts["storage"]

    @property
    def client_host(self) -> H:
        return self._hosts["client"]

    def on_all(self, action: Callable[[H], None]) -> None:
        """Do something with every host at the same time; the first error is raised when all have ended."""
        with ThreadPoolExecutor(len(self._hosts)) as executor:
            for future in [executor.submit(action, host) for host in self._hosts.values()]:
                future.result()
