"""Writes `node.toml` for one node of the pair under test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from harness.lab import topology
from harness.lab.interface import Host, Pace

KEY_PATH = "/etc/ftvmm/key"
CONFIG_PATH = "/etc/ftvmm/node.toml"


@dataclass(frozen=True)
class Timing:
    """Bounds of the failure detector, the lease and the arbiter, in milliseconds; the defaults are the VMM's own."""

    heartbeat_ms: int = 50
    lease_ms: int = 100
    detect_ms: int = 150
    acknowledge_ms: int = 1000
    lag_ms: int = 2000
    arbiter_ms: int = 500

    def for_pace(self, pace: Pace) -> Timing:
        """The same bounds where the failure detector needs longer ones, rounded up."""
        return Timing(**{name: math.ceil(bound * pace.timing) for name, bound in asdict(self).items()})


@dataclass(frozen=True)
class Guest:
    """What runs in the VM.

    Attributes:
        image: the image's name; which directory the hosts have it in, the lab knows.
        arguments: the guest's command line.
        block: whether it has the block device `storage`.
        network: whether it has the network device `service`.
    """

    name: str
    image: str
    arguments: Sequence[str] = field(default_factory=tuple)
    block: bool = False
    network: bool = True
    memory_mib: int = 64


def _quoted(texts: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{text}"' for text in texts) + "]"


def node_file(
    host: Host,
    peer: Host,
    *,
    vm: str,
    image_directory: str,
    guest: Guest,
    timing: Timing,
    mutants: Sequence[str] = (),
    policy: str = "resend",
    entries_per_message: int | None = None,
) -> str:
    """The TOML text for the node on `host` whose partner runs on `peer`.

    Args:
        host: where the node will run.
        peer: where its partner runs.
        vm: the VM's UUID.
        image_directory: where both hosts have the guest's image.
        guest: what the VM runs.
        timing: the protocol's bounds.
        mutants: how this node's VMM is broken on purpose; with one, the lab's build of it has to run.
        policy: what becomes of uncertain outputs.
        entries_per_message: at most so many log entries go in one message, so that with 1 each shows by itself on the
            wire; None: as many as fit.
    """
    here, there = host.addresses, peer.addresses
    parts = [
        f'[vm]\nuuid = "{vm}"\nimage = "{image_directory}/{guest.image}"\nmemory_mib = {guest.memory_mib}\n'
        f"arguments = {_quoted(guest.arguments)}"
    ]
    if guest.network:
        parts.append(f'[[vm.network]]\nname = "service"\ntap = "{topology.TAP}"\nmac = "{topology.VM_MAC}"')
    if guest.block:
        parts.append(f'[[vm.block]]\nname = "storage"\npath = "{topology.DISK_PATH}"')
    parts.append(f'[node]\nname = "{host.name}"\npeer = "{peer.name}"\ndirectory = "{topology.NODE_DIRECTORY}"')
    parts.append(
        f'[logging]\nlisten = "{here[topology.LOGGING]}:{topology.LOGGING_PORT}"\n'
        f'peer = "{there[topology.LOGGING]}:{topology.LOGGING_PROXY_PORT}"'
        + (f"\nentries_per_message = {entries_per_message}" if entries_per_message is not None else "")
    )
    parts.extend(
        f'[[heartbeat]]\nnetwork = "{network}"\nlisten = "{here[network]}:{topology.HEARTBEAT_PORT}"\n'
        f'peer = "{there[network]}:{topology.HEARTBEAT_PORT}"'
        for network in (topology.LOGGING, topology.MANAGEMENT)
    )
    parts.append(f'[arbiter]\nkind = "file"\ndirectory = "{topology.ARBITER_PATH}"\ntimeout_ms = {timing.arbiter_ms}')
    parts.append(
        f"[timing]\nheartbeat_ms = {timing.heartbeat_ms}\n"
        f"lease_ms = {timing.lease_ms}\ndetect_ms = {timing.detect_ms}\n"
        f"acknowledge_ms = {timing.acknowledge_ms}\nlag_ms = {timing.lag_ms}"
    )
    parts.append(f'[output]\npolicy = "{policy}"')
    parts.append("[record]")
    parts.append(f'[security]\nkey_file = "{KEY_PATH}"')
    if mutants:
        parts.append(f"[test]\nmutants = {_quoted(mutants)}")
    return "\n".join(parts) + "\n"
