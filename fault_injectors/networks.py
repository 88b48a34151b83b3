"""Cuts of whole networks, made by the hosts' own packet filters."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fault_injectors.base import HostFault, HostPairFault, LabFault
from fault_injectors.echoes import Echoes, echoes
from fault_injectors.fault import Confirmation, Direction
from fault_injectors.packet_filter import DropRule, PacketFilter
from fault_injectors.probes import accepts_tcp, answers_ping, send_segment, witness_on
from harness.lab.interface import Host, HostRole, HostState, RemoteProcess
from harness.lab.topology import (
    ARBITER_PATH,
    CLIENT,
    HEARTBEAT_PORT,
    LOGGING,
    MANAGEMENT,
    STORAGE,
    VM_ADDRESS,
)
from harness.lab.waiting import wait_until

_HEARTBEATS = "heartbeats"


def new_table() -> str:
    """A name for a fault's nftables table."""
    return f"fault_{secrets.token_hex(4)}"


@dataclass
class NetworkCut(HostFault):
    """One host is off one network: nothing comes in from it and nothing goes out to it.

    On the client network that is what the host's VM says and hears, on the storage network its disk and its arbiter.
    """

    network: str
    direction: Direction = Direction.BOTH
    name = "network-cut"
    _filter: PacketFilter | None = None
    _answered_before: bool = False

    def _rules(self) -> list[DropRule]:
        interface = self.host.interfaces[self.network]
        # An FT host only bridges the client network to its VM.
        bridged = self.network == CLIENT and self.host.role is HostRole.FAULT_TOLERANT
        family, hooks = ("bridge", ("forward", "forward")) if bridged else ("inet", ("input", "output"))
        rules = []
        if self.direction is not Direction.OUTGOING:
            rules.append(DropRule("incoming", hooks[0], f'iifname "{interface}"', family))
        if self.direction is not Direction.INCOMING:
            rules.append(DropRule("outgoing", hooks[1], f'oifname "{interface}"', family))
        return rules

    def prepare(self) -> None:
        self._filter = PacketFilter(self.host, new_table(), self._rules())
        witness = witness_on(self.lab, self.host, self.network)
        self._answered_before = witness is not None and answers_ping(
            self.lab, witness, self.host.addresses[self.network]
        )

    def inject(self) -> None:
        assert self._filter is not None
        self._filter.install()

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """Packets are dropped in each direction that is cut, and pings from another host, answered before, are lost.

        What the host itself says to that network is lost too: it pings the other one.
        """
        assert self._filter is not None
        packet_filter = self._filter
        witness = witness_on(self.lab, self.host, self.network)
        if witness is None:
            return self._confirm_bridged(packet_filter, timeout_seconds)
        if not self._answered_before:
            return Confirmation.of(None, f"{self.host.name} did not answer on the {self.network} network before")
        answers = answers_ping(self.lab, witness, self.host.addresses[self.network])
        reaches = answers_ping(self.lab, self.host, witness.addresses[self.network])
        dropped = packet_filter.dropped()
        return Confirmation.of(
            not answers and not reaches and all(dropped.values()),
            f"pings of {witness.name} over the {self.network} network, answered before, "
            f"are {'still answered' if answers else 'lost'}, and its own are {'answered' if reaches else 'lost'}",
            f"packets dropped by {self.host.name}: {dropped}",
        )

    def _confirm_bridged(self, packet_filter: PacketFilter, timeout_seconds: float) -> Confirmation:
        def all_dropped() -> bool:
            # The client's ARP requests for the VM reach every port of the network: traffic that must be seen dropped.
            if self.direction is not Direction.OUTGOING:
                self.lab.client_host.run("ip neigh flush dev client")
                answers_ping(self.lab, self.lab.client_host, VM_ADDRESS)
            return all(packet_filter.dropped().values())

        # What goes out is the VM's: where it says nothing, nothing can be seen lost.
        seen = wait_until(all_dropped, timeout_seconds=timeout_seconds)
        return Confirmation.of(
            True if seen else None,
            f"frames dropped by {self.host.name} between its VM and the client network: {packet_filter.dropped()}",
        )

    def heal(self) -> None:
        if self._filter is not None and self.host.state is not HostState.OFF:
            self._filter.remove()


@dataclass
class HostPairCut(HostPairFault):
    """Two hosts cannot reach each other on the networks named; both still reach everybody else."""

    networks: Sequence[str] = (LOGGING, MANAGEMENT)
    direction: Direction = Direction.BOTH
    name = "host-pair-cut"
    _filters: list[PacketFilter] = field(default_factory=list)
    _reached_before: dict[str, bool] = field(default_factory=dict)

    def prepare(self) -> None:
        table = new_table()
        for sender, receiver in self._unheard(self.direction):
            rules = []
            for network in self.networks:
                source = f"ip saddr {sender.addresses[network]}"
                heartbeats = f"{source} udp dport {HEARTBEAT_PORT}"
                rules.append(DropRule(f"{_HEARTBEATS} of {sender.name} on {network}", "input", heartbeats))
                rules.append(DropRule(f"{network} from {sender.name}", "input", source))
            self._filters.append(PacketFilter(receiver, table, rules))
        self._reached_before = self._reached()

    def _reached(self) -> dict[str, bool]:
        return {
            network: answers_ping(self.lab, self.first, self.second.addresses[network]) for network in self.networks
        }

    def inject(self) -> None:
        for packet_filter in self._filters:
            packet_filter.install()

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """Pings between the two, answered before, are lost each way on every network, and so are heartbeats."""
        if not all(self._reached_before.values()):
            return Confirmation.of(None, f"the two did not reach each other before: {self._reached_before}")
        reached = self._reached()
        # With one direction left open it is the other end's pings that make the receiver's counter move.
        for network in self.networks:
            answers_ping(self.lab, self.second, self.first.addresses[network])

        wait_until(lambda: not self._networks_without_loss(), timeout_seconds=timeout_seconds)
        counts = {label: count for each in self._filters for label, count in each.dropped().items()}
        pings = all(count for label, count in counts.items() if not label.startswith(_HEARTBEATS))
        evidence = (
            f"{self.first.name} reaches {self.second.name} by ping: before {self._reached_before}, now {reached}",
            f"packets dropped: {counts}",
        )
        if any(reached.values()) or not pings:
            return Confirmation.of(False, *evidence)
        if silent := self._networks_without_loss():
            return Confirmation.of(None, *evidence, f"no heartbeat was seen lost on {', '.join(silent)}")
        return Confirmation.of(True, *evidence)

    def _networks_without_loss(self) -> list[str]:
        """Where no heartbeat was dropped, whichever way it went: who hears no question gives no answer."""
        counts = [item for each in self._filters for item in each.dropped().items() if item[0].startswith(_HEARTBEATS)]
        return [name for name in self.networks if not any(count for label, count in counts if label.endswith(name))]

    def heal(self) -> None:
        for packet_filter in self._filters:
            packet_filter.remove()


@dataclass
class ArbiterUnreachable(LabFault):
    """The hosts cannot reach the `file` arbiter; their disks, on the same network, are still there.

    To them it looks like a server that is gone: what they ask hangs. With `INCOMING` alone, seen from the hosts, the
    arbiter does what it is asked, and only its answers are lost.
    """

    hosts: Sequence[Host]
    direction: Direction = Direction.BOTH
    name = "arbiter-unreachable"
    _filters: list[PacketFilter] = field(default_factory=list)
    _reached_before: dict[str, bool] = field(default_factory=dict)

    @property
    def target(self) -> str:
        return ",".join(host.name for host in self.hosts)

    def prepare(self) -> None:
        arbiter = self.lab.storage.arbiter
        rules = []
        if self.direction is not Direction.INCOMING:
            rules.append(DropRule("to the arbiter", "output", f"ip daddr {arbiter.address} tcp dport {arbiter.port}"))
        if self.direction is not Direction.OUTGOING:
            rules.append(DropRule("from the arbiter", "input", f"ip saddr {arbiter.address} tcp sport {arbiter.port}"))
        table = new_table()
        self._filters = [PacketFilter(host, table, rules) for host in self.hosts]
        self._reached_before = self._reached()

    def _reached(self) -> dict[str, bool]:
        arbiter = self.lab.storage.arbiter
        return {host.name: accepts_tcp(self.lab, host, arbiter.address, arbiter.port) for host in self.hosts}

    def inject(self) -> None:
        for packet_filter in self._filters:
            packet_filter.install()

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """The arbiter's server, which accepted connections before, does not now; each host drops packets both ways.

        The directory is mounted as before: what is asked there hangs.
        """
        if not all(self._reached_before.values()):
            return Confirmation.of(None, f"not every host reached the arbiter before: {self._reached_before}")
        reached = self._reached()
        arbiter = self.lab.storage.arbiter
        for host in self.hosts:
            # Nobody whom the server hears asks it for anything, so it has nothing to say of itself.
            send_segment(self.lab.storage_host, arbiter.address, arbiter.port, host.addresses[STORAGE])
        dropped = [packet_filter.dropped() for packet_filter in self._filters]
        mounted = {host.name: host.testinfra.mount_point(ARBITER_PATH).exists for host in self.hosts}
        return Confirmation.of(
            not any(reached.values()) and all(all(counts.values()) for counts in dropped) and all(mounted.values()),
            f"the arbiter's server accepts connections: before {self._reached_before}, now {reached}",
            f"packets dropped: {dropped}",
            f"{ARBITER_PATH} is mounted: {mounted}",
        )

    def heal(self) -> None:
        for host, packet_filter in zip(self.hosts, self._filters, strict=False):
            if host.state is not HostState.OFF:  # one that is off has lost its rules already
                packet_filter.remove()


@dataclass
class FlappingCut(HostPairFault):
    """Two hosts lose each other on the networks named for `down_ms`, find each other for `up_ms`, and so on.

    Both are as for this machine, and grow with the lab's detection times.
    """

    down_ms: float = 60.0
    up_ms: float = 100.0
    networks: Sequence[str] = (LOGGING, MANAGEMENT)
    name = "flapping-cut"
    _table: str = field(default_factory=new_table)
    _filter: PacketFilter | None = None
    _flapping: RemoteProcess | None = None
    _reached_before: bool = False

    @property
    def parameters(self) -> Mapping[str, Any]:
        factor = self.lab.pace.timing
        return {**super().parameters, "down_ms": self.down_ms * factor, "up_ms": self.up_ms * factor}

    def prepare(self) -> None:
        rules = [
            DropRule(f"from {self.first.name}", "input", "ip saddr @away"),
            DropRule(f"to {self.first.name}", "output", "ip daddr @away"),
        ]
        self._filter = PacketFilter(self.second, self._table, rules, sets=["away"])
        self._filter.install()
        self._reached_before = all(
            answers_ping(self.lab, self.first, self.second.addresses[network]) for network in self.networks
        )

    def inject(self) -> None:
        away = ", ".join(self.first.addresses[network] for network in self.networks)
        down, up = (self.parameters[name] / 1000 for name in ("down_ms", "up_ms"))
        cut, mend = f"add element inet {self._table} away {{ {away} }}", f"flush set inet {self._table} away"
        loop = f"while :; do nft '{cut}'; sleep {down:g}; nft '{mend}'; sleep {up:g}; done"
        self._flapping = self.second.start(["sh", "-c", loop])

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """Of the pings of one burst some are answered and some are lost, and packets are dropped both ways."""
        assert self._filter is not None
        packet_filter = self._filter
        if not self._reached_before:
            return Confirmation.of(None, "the two did not reach each other before")
        seen: list[Echoes] = []

        def flaps() -> bool:
            # What the second host says of itself is lost as well.
            answers_ping(self.lab, self.second, self.first.addresses[self.networks[0]])
            seen.append(echoes(self.lab, self.first, self.second.addresses[self.networks[0]]))
            lost, sent = sum(one.lost for one in seen), sum(one.sent for one in seen)
            return 0 < lost < sent and all(packet_filter.dropped().values())

        flapped = wait_until(flaps, timeout_seconds=timeout_seconds)
        return Confirmation.of(
            flapped,
            *[f"pings: {one}" for one in seen],
            f"packets dropped by {self.second.name}: {packet_filter.dropped()}",
        )

    def heal(self) -> None:
        if self._flapping is not None and self.second.state is not HostState.OFF:
            self._flapping.signal("KILL")
        if self._filter is not None and self.second.state is not HostState.OFF:
            self._filter.remove()
