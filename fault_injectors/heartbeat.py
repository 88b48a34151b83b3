"""Loss of heartbeats alone: the UDP datagrams between nodes, on the networks named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fault_injectors.base import HostFault
from fault_injectors.fault import Confirmation, Direction
from fault_injectors.networks import new_table
from fault_injectors.packet_filter import DropRule, PacketFilter
from harness.lab.interface import HostState
from harness.lab.topology import HEARTBEAT_PORT, LOGGING, MANAGEMENT
from harness.lab.waiting import wait_until


@dataclass
class HeartbeatLoss(HostFault):
    """A host's heartbeats are lost, all or one in a hundred times `percent`; the log flows on."""

    networks: Sequence[str] = (LOGGING, MANAGEMENT)
    direction: Direction = Direction.BOTH
    percent: int = 100
    name = "heartbeat-loss"
    _filter: PacketFilter | None = None

    def prepare(self) -> None:
        chance = "" if self.percent >= 100 else f" numgen random mod 100 < {self.percent}"
        rules = []
        for network in self.networks:
            interface = self.host.interfaces[network]
            if self.direction is not Direction.OUTGOING:
                match = f'iifname "{interface}" udp dport {HEARTBEAT_PORT}{chance}'
                rules.append(DropRule(f"{network} incoming", "input", match))
            if self.direction is not Direction.INCOMING:
                match = f'oifname "{interface}" udp dport {HEARTBEAT_PORT}{chance}'
                rules.append(DropRule(f"{network} outgoing", "output", match))
        self._filter = PacketFilter(self.host, new_table(), rules)

    def inject(self) -> None:
        assert self._filter is not None
        self._filter.install()

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """The kernel counts dropped heartbeats by every rule; without heartbeats nothing can be said."""
        assert self._filter is not None
        packet_filter = self._filter
        seen = wait_until(lambda: all(packet_filter.dropped().values()), timeout_seconds=timeout_seconds)
        return Confirmation.of(
            True if seen else None, f"heartbeats dropped by {self.host.name}: {packet_filter.dropped()}"
        )

    def heal(self) -> None:
        if self._filter is not None and self.host.state is not HostState.OFF:
            self._filter.remove()
