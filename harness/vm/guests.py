"""The guests that scenarios run, ready to be started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.lab import topology
from harness.promise import Workload
from harness.vm.node_file import Guest

_NETWORK = (f"--ipv4={topology.VM_ADDRESS}/24", f"--ipv4-gateway={topology.VM_GATEWAY}")
TICKER_PORT = 9000
# Of those that speak as Redis does.
KEY_VALUE_PORT = 6379


@dataclass(frozen=True)
class DiskData:
    """How a server that keeps its data on the disk `storage` tells afterwards what is there.

    Attributes:
        serving: what it prints when it has read its data and serves.
        scrubs: whether it has the command SCRUB, which reads all that is on the disk and tells what is damaged.
    """

    serving: str
    scrubs: bool = False


@dataclass(frozen=True)
class Server:
    """A server for the key-value client.

    Attributes:
        port: where it listens (TCP).
        protocol: what it speaks, as `harness.clients.protocols` calls it.
        memory_mib: how much memory its VM has.
        arguments: beside its addresses.
        disk: what is to be known of its data on the disk; None where it keeps all in memory.
    """

    port: int
    protocol: str
    memory_mib: int = 256
    arguments: tuple[str, ...] = ()
    disk: DiskData | None = None


SERVERS: Mapping[Workload, Server] = {
    # It reads half of its disk when it starts, all of which is logged: as much as a scenario fills is enough.
    Workload.KV: Server(
        KEY_VALUE_PORT,
        "resp",
        memory_mib=64,
        arguments=("--disk-mib=16",),
        disk=DiskData("kv: serving", scrubs=True),
    ),
    Workload.REDIS: Server(KEY_VALUE_PORT, "resp", disk=DiskData("Ready to accept connections")),
    Workload.MEMCACHED: Server(11211, "memcached"),
    Workload.NGINX: Server(80, "http"),
    Workload.MOSQUITTO: Server(1883, "mqtt"),
}


def key_value(workload: Workload = Workload.KV) -> Guest:
    """The server that the key-value client asks; `lab/provision/programs.py` packs Debian's."""
    server = SERVERS[workload]
    has_disk = server.disk is not None
    arguments = (*_NETWORK, *server.arguments)
    return Guest(workload, f"{workload}.hvt", arguments, block=has_disk, memory_mib=server.memory_mib)


def ticker(*, period_ms: int = 20) -> Guest:
    """Sends a numbered datagram and prints a numbered line every `period_ms` milliseconds."""
    target = f"--target={topology.VM_GATEWAY}:{TICKER_PORT}"
    return Guest("ticker", "ticker.hvt", (*_NETWORK, target, f"--period-ms={period_ms}"))


def compute(*, rounds: int) -> Guest:
    """Computes, prints a digest of its work and halts."""
    return Guest("compute", "compute.hvt", (f"--rounds={rounds}",), network=False)
