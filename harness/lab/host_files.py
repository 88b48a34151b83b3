"""What is on every host of every lab: how its network is set up, how names resolve, where Toxiproxy listens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from harness.lab import topology
from harness.lab.interface import HostRole, LabError
from harness.lab.topology import HOSTS, HostPlan

PROJECT = Path(__file__).resolve().parents[2]
BINARY = PROJECT / ".tools" / "bin" / "ftvmm-toxiproxy"


def network_batch(plan: HostPlan, more_addresses: Mapping[str, str] | None = None) -> str:
    """Lines for `ip -batch` that set up the interfaces, which are named after their networks already.

    Args:
        plan: the host.
        more_addresses: further IPv4 addresses by network.
    """
    lines = ["link set lo up"]
    for addresses in (plan.addresses, more_addresses or {}):
        lines += [f"addr add {address}/24 dev {network}" for network, address in addresses.items()]
    lines += [f"link set {network} up" for network in plan.networks]
    if plan.role is HostRole.FAULT_TOLERANT:
        # The VM's TAP and the cable to the client network on one bridge; without a VMM the TAP has no carrier.
        lines += [
            "link add service type bridge forward_delay 0 mcast_snooping 0",
            f"tuntap add {topology.TAP} mode tap",
            f"link set {topology.TAP} master service",
            f"link set {topology.TAP} up",
            f"link set {topology.CLIENT} master service",
            "link set service up",
        ]
    return "\n".join(lines) + "\n"


def hosts_file(plan: HostPlan) -> str:
    """`/etc/hosts`: the hosts by their management addresses, and on the client host the VM as `service`."""
    lines = ["127.0.0.1 localhost"]
    lines += [f"{other.address(topology.MANAGEMENT)} {other.name}" for other in HOSTS]
    if plan.role is HostRole.CLIENT:
        lines.append(f"{topology.VM_ADDRESS} service")
    return "\n".join(lines) + "\n"


def toxiproxy_configuration(plan: HostPlan) -> str:
    """Toxiproxy's JSON: the proxy that the peer's log connection lands in."""
    address = plan.address(topology.LOGGING)
    return json.dumps(
        [
            {
                "name": topology.LOG_PROXY,
                "listen": f"{address}:{topology.LOGGING_PROXY_PORT}",
                "upstream": f"{address}:{topology.LOGGING_PORT}",
                "enabled": True,
            }
        ]
    )


def toxiproxy_server() -> Path:
    """The server's binary. `LabError` when it is not built."""
    if not BINARY.is_file():
        raise LabError(f"{BINARY} is not there: run `make setup`, which builds it")
    return BINARY
