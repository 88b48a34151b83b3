"""The switch: one bridge a network, in the rack's network namespace, and the cables from it to the hosts."""

from __future__ import annotations

from dataclasses import dataclass

from harness.lab.namespaces import run_inside
from harness.lab.topology import NETWORKS, OPERATOR, HostPlan


@dataclass(frozen=True)
class Switch:
    """All bridges of a run. `rack_pid` is the process that holds their namespace."""

    rack_pid: int

    def start(self) -> None:
        """Make the bridges. The operator's bridge has an address: connections to the hosts' sshd come from there."""
        lines = ["link set lo up"]
        for number, network in enumerate(NETWORKS, start=1):
            # A bridge without an address of its own changes it with every port that comes and goes, and whoever had
            # resolved the old one talks to nobody for a while.
            address = f"02:00:{number:02x}:00:00:01"
            lines.append(f"link add {network} address {address} type bridge forward_delay 0 mcast_snooping 0")
            lines.append(f"link set {network} up")
        operator = NETWORKS[OPERATOR].prefix.removesuffix("0/24") + "1/24"
        lines.append(f"addr add {operator} dev {OPERATOR}")
        # No IPv6: its neighbour discovery would put frames into the captures that no VM and no client sent.
        run_inside(self.rack_pid, ["net"], ["sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6 || :"])
        self._ip(lines)

    def plug(self, plan: HostPlan, host_pid: int) -> None:
        """Lay a cable on each of the host's networks, from its port to an interface named after the network."""
        lines = []
        for network in plan.networks:
            port = plan.port(network)
            peer = f"peer name {network} address {plan.hardware_address(network)} netns {host_pid}"
            lines.append(f"link add {port} type veth {peer}")
            lines.append(f"link set {port} master {network}")
            lines.append(f"link set {port} up")
        self._ip(lines)

    def unplug(self, plan: HostPlan) -> None:
        """Take the host off every network at once. The ports stay, so that captures on them end whole."""
        self._ip([f"link set {plan.port(network)} nomaster" for network in plan.networks])

    def remove(self, plan: HostPlan) -> None:
        """Remove the host's cables."""
        self._ip([f"link del {plan.port(network)}" for network in plan.networks], force=True)

    def _ip(self, lines: list[str], *, force: bool = False) -> None:
        command = ["ip", *(["-force"] if force else []), "-batch", "-"]
        if force:  # the kernel may have removed a link together with its host's namespace
            command = ["sh", "-c", "ip -force -batch - 2>/dev/null || :"]
        run_inside(self.rack_pid, ["net"], command, input="\n".join(lines) + "\n")
