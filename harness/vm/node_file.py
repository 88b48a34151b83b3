"""Writes `node.toml` for one node of the pair under test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import tomli_w

from ftvmm._core import TIMING
from ftvmm.configuration import ARBITER_TIMEOUT_MS
from harness.lab import topology
from harness.lab.etcd import client_address
from harness.lab.interface import Host, Pace
from harness.promise import ArbiterKind, OutputPolicy

KEY_PATH = "/etc/ftvmm/key"
HEARTBEAT_NETWORKS = (topology.LOGGING, topology.MANAGEMENT)
# Beside what the node leaves, so that it can be read when the host has lost its power.
CONFIG_PATH = f"{topology.NODE_DIRECTORY}/node.toml"


@dataclass(frozen=True)
class Timing:
    """Bounds of the failure detector, the lease and the arbiter, in milliseconds; the defaults are the VMM's own."""

    heartbeat_ms: int = TIMING["heartbeat_ms"]
    lease_ms: int = TIMING["lease_ms"]
    detect_ms: int = TIMING["detect_ms"]
    acknowledge_ms: int = TIMING["acknowledge_ms"]
    lag_ms: int = TIMING["lag_ms"]
    write_bound_ms: int = TIMING["write_bound_ms"]
    arbiter_ms: int = ARBITER_TIMEOUT_MS

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


def node_file(
    host: Host,
    peer: Host,
    *,
    vm: str,
    image_directory: str,
    guest: Guest,
    timing: Timing,
    mutants: Sequence[str] = (),
    failpoints: Sequence[str] = (),
    policy: OutputPolicy = OutputPolicy.RESEND,
    entries_per_message: int | None = None,
    spares: Sequence[Host] = (),
    arbiter: ArbiterKind = ArbiterKind.FILE,
    members: Sequence[Host] = (),
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
        failpoints: what is armed from the start; with one, the lab's build has to run too.
        policy: what becomes of uncertain outputs.
        entries_per_message: at most so many log entries go in one message, so that with 1 each shows by itself on the
            wire; None: as many as fit.
        spares: hosts of which each may become the VM's backup, for a manager.
        arbiter: what decides who owns the VM.
        members: where etcd runs, if that is what does.
    """
    here, there = host.addresses, peer.addresses
    file: dict[str, Any] = {
        "vm": {
            "uuid": vm,
            "image": f"{image_directory}/{guest.image}",
            "memory_mib": guest.memory_mib,
            "arguments": list(guest.arguments),
        },
        "node": {
            "name": host.name,
            "peer": peer.name,
            "directory": topology.NODE_DIRECTORY,
            # No evidence is to be rotated away.
            "trace_mib_max": 1 << 14,
            "console_mib_max": 1 << 14,
        },
        "logging": {
            "listen": f"{here[topology.LOGGING]}:{topology.LOGGING_PORT}",
            "peer": f"{there[topology.LOGGING]}:{topology.LOGGING_PROXY_PORT}",
        },
        "heartbeat": [
            {
                "network": network,
                "listen": f"{here[network]}:{topology.HEARTBEAT_PORT}",
                "peer": f"{there[network]}:{topology.HEARTBEAT_PORT}",
            }
            for network in HEARTBEAT_NETWORKS
        ],
        "arbiter": {"kind": str(arbiter), "timeout_ms": timing.arbiter_ms},
        "timing": {name: bound for name, bound in asdict(timing).items() if name != "arbiter_ms"},
        "output": {"policy": policy},
        "record": {},
        "security": {"key_file": KEY_PATH},
    }
    if arbiter is ArbiterKind.ETCD:
        # The host's own first: its answer needs no network beyond what that member needs itself.
        own_first = sorted(members, key=lambda member: member.name != host.name)
        file["arbiter"]["members"] = [client_address(member) for member in own_first]
    else:
        file["arbiter"]["directory"] = topology.ARBITER_PATH
    if entries_per_message is not None:
        file["logging"]["entries_per_message"] = entries_per_message
    if spares:
        file["spare"] = [
            {
                "name": spare.name,
                "logging": f"{spare.addresses[topology.LOGGING]}:{topology.LOGGING_PROXY_PORT}",
                "heartbeat": {
                    network: f"{spare.addresses[network]}:{topology.HEARTBEAT_PORT}" for network in HEARTBEAT_NETWORKS
                },
            }
            for spare in spares
        ]
    if mutants or failpoints:
        file["test"] = {"mutants": list(mutants), "failpoints": list(failpoints)}
    if guest.network:
        file["vm"]["network"] = [{"name": "service", "tap": topology.TAP, "mac": topology.VM_MAC}]
    if guest.block:
        file["vm"]["block"] = [{"name": "storage", "path": topology.DISK_PATH}]
    return tomli_w.dumps(file)
