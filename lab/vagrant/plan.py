"""The plan of the lab (`harness.lab.topology`) as JSON for lab/Vagrantfile, which knows no address of its own."""

from __future__ import annotations

from typing import Any

from harness.lab.topology import HOSTS, NETWORKS, OPERATOR
from harness.lab.vagrant.state import PREFIX


def plan() -> dict[str, Any]:
    """Hosts with their interfaces beside the operator's, which Vagrant makes itself as each machine's first."""
    return {
        "prefix": PREFIX,
        "networks": {name: network.prefix for name, network in NETWORKS.items()},
        "hosts": [
            {
                "name": host.name,
                "role": host.role.value,
                "operator_mac": host.hardware_address(OPERATOR),
                "interfaces": [
                    {
                        "network": network,
                        "address": host.address(network),
                        "mac": host.hardware_address(network),
                        "port": host.port(network),
                    }
                    for network in host.networks
                    if network != OPERATOR
                ],
            }
            for host in HOSTS
        ],
    }
