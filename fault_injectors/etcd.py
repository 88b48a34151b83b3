"""Faults of the cluster that is the arbiter `etcd`: a member dies, its leader is cut off, a key is changed by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

from fault_injectors.base import HostFault, LabFault
from fault_injectors.fault import Confirmation
from fault_injectors.networks import new_table
from fault_injectors.packet_filter import DropRule, PacketFilter
from fault_injectors.probes import accepts_tcp, process_command
from harness.lab.etcd import EtcdCluster, Key, prefix_of
from harness.lab.interface import Capability, HostState
from harness.lab.topology import ETCD_CLIENT_PORT, ETCD_NETWORK, ETCD_PEER_PORT
from harness.lab.waiting import wait_until


@dataclass
class KillEtcdMember(HostFault):
    """SIGKILL of a host's member; the host lives on. Healed it is started again, over what it has on its disk."""

    cluster: EtcdCluster
    requires = frozenset({Capability.ETCD})
    name = "kill-etcd-member"
    _command_before: str = ""

    def prepare(self) -> None:
        self._command_before = process_command(self.host, self.cluster.members[self.host.name].pid)

    def inject(self) -> None:
        self.cluster.members[self.host.name].kill()

    def _serves(self) -> bool:
        """Whether another host can open a connection to it."""
        return accepts_tcp(self.lab, self.lab.storage_host, self.host.addresses[ETCD_NETWORK], ETCD_CLIENT_PORT)

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """The process was there and is gone, by the host's process table, and another host is not served any more."""
        pid = self.cluster.members[self.host.name].pid
        if not self._command_before.startswith("etcd "):
            return Confirmation.of(False, f"there was no member {pid} on {self.host.name}: {self._command_before}")
        gone = wait_until(lambda: not process_command(self.host, pid), timeout_seconds=timeout_seconds)
        serves = self._serves()
        return Confirmation.of(
            gone and not serves,
            f"before: {self._command_before}",
            f"after: process {pid} is {'gone' if gone else 'still there'}",
            f"{self.lab.storage_host.name} {'is still served' if serves else 'is not served'} by it",
        )

    def heal(self) -> None:
        member = self.cluster.members[self.host.name]
        # One that was off has lost its processes; whether it is to have a member again the scenario says.
        if self.host.state is HostState.RUNNING and not member.is_running():
            member.start()


@dataclass
class CutEtcdLeader(HostFault):
    """The leader is cut from the other members' peer ports and they from its own; clients still reach all of them.

    `host` has the leader.
    """

    cluster: EtcdCluster
    requires = frozenset({Capability.ETCD})
    name = "cut-etcd-leader"
    _filter: PacketFilter | None = None
    _followed_before: dict[str, str | None] = field(default_factory=dict)

    def prepare(self) -> None:
        self._followed_before = self.cluster.leaders()
        interface = self.host.interfaces[ETCD_NETWORK]
        rules = [
            DropRule(label, hook, f'{way} "{interface}" tcp {port} {ETCD_PEER_PORT}')
            for label, hook, way in (("from the others", "input", "iifname"), ("to the others", "output", "oifname"))
            for port in ("sport", "dport")
        ]
        self._filter = PacketFilter(self.host, new_table(), rules)

    def inject(self) -> None:
        assert self._filter is not None
        self._filter.install()

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """The others, which followed it, follow another one; packets of the members are dropped both ways."""
        assert self._filter is not None
        name = self.host.name
        if set(self._followed_before.values()) != {name} or len(self._followed_before) < 2:
            return Confirmation.of(None, f"not all members followed {name} before: {self._followed_before}")
        seen: list[dict[str, str | None]] = []

        def follow_another() -> bool:
            seen.append(self.cluster.leaders())
            followed = {leader for host, leader in seen[-1].items() if host != name}
            return len(followed) == 1 and not followed & {None, name}

        followed = wait_until(follow_another, timeout_seconds=timeout_seconds)
        dropped = self._filter.dropped()
        return Confirmation.of(
            followed and bool(dropped) and all(dropped.values()),
            f"whom each member follows, by its own word: before {self._followed_before}, now {seen[-1]}",
            f"packets dropped by {name}: {dropped}",
        )

    def heal(self) -> None:
        if self._filter is not None and self.host.state is not HostState.OFF:
            self._filter.remove()


@dataclass
class ChangedEtcdKey(LabFault):
    """Somebody puts another owner to the key of the newest generation. Healed it is made anew as it was.

    `vm` is the VM's UUID.
    """

    cluster: EtcdCluster
    vm: str
    requires = frozenset({Capability.ETCD})
    name = "changed-etcd-key"
    _before: Key | None = None

    @property
    def target(self) -> str:
        return ",".join(self.cluster.members)

    def _newest(self) -> Key | None:
        keys = self.cluster.keys(f"{prefix_of(self.vm)}generation-")
        return max(keys, key=lambda key: key.name, default=None)

    def prepare(self) -> None:
        self._before = self._newest()

    def inject(self) -> None:
        if self._before is not None:
            # A whole record, which only its version tells from one that a node put.
            self.cluster.put(self._before.name, self._before.value.replace("host-", "nobody-"))

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """A majority of the cluster tells of the same key in its second version, with another value."""
        before, now = self._before, self._newest()
        if before is None or before.version != 1:
            return Confirmation.of(None, f"there was no generation before, or it was changed already: {before}")
        changed = now is not None and (now.name, now.version) == (before.name, 2) and now.value != before.value
        return Confirmation.of(changed, f"the newest generation before: {before}", f"and now: {now}")

    def heal(self) -> None:
        if self._before is not None:
            self.cluster.delete(self._before.name)
            self.cluster.put(self._before.name, self._before.value)
