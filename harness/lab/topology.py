"""The plan of every lab: which hosts there are, on which networks, under which addresses, and the paths on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.lab.interface import HostRole, Network

MANAGEMENT = "management"
LOGGING = "logging"
CLIENT = "client"
STORAGE = "storage"
# The operator's way in (SSH only). It is no network of the system under test and no fault ever touches it, so that a
# cut management network does not take the test's eyes away; Vagrant has it as each VM's first interface.
OPERATOR = "operator"

NETWORKS: Mapping[str, Network] = {
    CLIENT: Network(CLIENT, "10.0.0.0/24"),
    LOGGING: Network(LOGGING, "10.1.0.0/24"),
    MANAGEMENT: Network(MANAGEMENT, "10.2.0.0/24"),
    STORAGE: Network(STORAGE, "10.3.0.0/24"),
    OPERATOR: Network(OPERATOR, "10.9.0.0/24"),
}

# The service VM's own addresses on the client network.
VM_ADDRESS = "10.0.0.2"
VM_GATEWAY = "10.0.0.1"
VM_MAC = "02:00:00:00:00:02"
TAP = "tap0"

# Ports of a node on its logging and management addresses; the log lands in Toxiproxy first.
LOGGING_PORT = 7000
LOGGING_PROXY_PORT = 7001
HEARTBEAT_PORT = 7002
TOXIPROXY_API_PORT = 8474
LOG_PROXY = "log"

# What an FT host sees of the storage host.
DISK_PATH = "/mnt/storage/disk/disk.img"
ARBITER_PATH = "/mnt/storage/arbiter"
# The same on the storage host itself.
STORAGE_DIRECTORY = "/var/lib/ftvmm/storage"
STORAGE_IMAGE = f"{STORAGE_DIRECTORY}/disk.img"
# Of a packed program's file system the journal takes 16 MiB; a long scenario writes some 10 MiB beside it.
DISK_MIB = 48
STORAGE_ARBITER = f"{STORAGE_DIRECTORY}/arbiter"
STORAGE_FAULTS = f"{STORAGE_DIRECTORY}/faults"
NODE_DIRECTORY = "/var/lib/ftvmm"
CONSOLE_PATH = f"{NODE_DIRECTORY}/console.log"
# Where a scenario has etcd for its arbiter: a member on each FT host. They speak on the management network, which all
# hosts share and which neither the log nor the disk fills: no load of the VM's makes a heartbeat of theirs late. And it
# is cut along with the pair, as it would be in earnest: who loses its partner loses that one's member.
ETCD_NETWORK = MANAGEMENT
ETCD_CLIENT_PORT = 2379
ETCD_PEER_PORT = 2380
ETCD_DIRECTORY = f"{NODE_DIRECTORY}/etcd"
ETCD_LOG = f"{NODE_DIRECTORY}/etcd.log"
# Where a lab has `Capability.DEVICE_MAPPER`: the linear device under the storage directory's file system.
STORAGE_DEVICE = "ftvmm-storage"
# Where a lab serves the arbiter apart from the disk: a second address of the storage host on the storage network.
ARBITER_ADDRESS = "10.3.0.21"


@dataclass(frozen=True)
class HostPlan:
    """One host of the plan. `letter` ends the names of its switch ports, `number` its addresses."""

    name: str
    letter: str
    number: int
    role: HostRole
    networks: tuple[str, ...]

    def address(self, network: str) -> str:
        """The host's IPv4 address on a network."""
        if network == CLIENT and self.role is HostRole.CLIENT:
            return VM_GATEWAY
        return NETWORKS[network].prefix.removesuffix("0/24") + str(self.number)

    def hardware_address(self, network: str) -> str:
        """The MAC of the host's interface, the same after each boot, as a network card's is."""
        return f"02:00:{list(NETWORKS).index(network) + 1:02x}:00:00:{self.number:02x}"

    def port(self, network: str) -> str:
        """The switch's port to the host on a network, such as `client.a` (a link's name has room for 15 characters)."""
        return f"{network}.{self.letter}"

    @property
    def addresses(self) -> Mapping[str, str]:
        """All addresses by network. An FT host has none on the client network: only its VM speaks there."""
        return {
            network: self.address(network)
            for network in self.networks
            if not (network == CLIENT and self.role is HostRole.FAULT_TOLERANT)
        }


_FAULT_TOLERANT = (OPERATOR, MANAGEMENT, LOGGING, STORAGE, CLIENT)

HOSTS: tuple[HostPlan, ...] = (
    HostPlan("storage", "st", 20, HostRole.STORAGE, (OPERATOR, MANAGEMENT, STORAGE)),
    HostPlan("host-a", "a", 11, HostRole.FAULT_TOLERANT, _FAULT_TOLERANT),
    HostPlan("host-b", "b", 12, HostRole.FAULT_TOLERANT, _FAULT_TOLERANT),
    HostPlan("host-c", "c", 13, HostRole.FAULT_TOLERANT, _FAULT_TOLERANT),
    HostPlan("client", "cl", 30, HostRole.CLIENT, (OPERATOR, MANAGEMENT, CLIENT)),
)

STORAGE_PLAN = HOSTS[0]
FAULT_TOLERANT_PLANS = tuple(plan for plan in HOSTS if plan.role is HostRole.FAULT_TOLERANT)


def block_port(plan: HostPlan) -> int:
    """The storage host's TCP port that serves the disk to this FT host alone, so that one host's disk can fail."""
    return 10800 + plan.number
