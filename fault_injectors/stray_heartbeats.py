"""Heartbeats that no node of the pair has just sent: made up by who has no key, or real ones sent once more.

They come from the spare host, from the address of the node that they are made to look like.
"""

from __future__ import annotations

import abc
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from fault_injectors.base import HostPairFault
from fault_injectors.fault import Confirmation
from fault_injectors.networks import new_table
from fault_injectors.packet_filter import DropRule, PacketFilter
from harness.lab.interface import Host, HostState, RemoteProcess
from harness.lab.topology import HEARTBEAT_PORT, LOGGING, MANAGEMENT
from harness.lab.waiting import wait_until

_COUNT = 20
# Takes heartbeats off the wire of the host that hears them: prints the payloads, hexadecimal.
_LISTEN = """
import socket, sys, time
source, port, count = socket.inet_aton(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
tap.settimeout(float(sys.argv[4]))
while count:
    frame = tap.recv(4096)
    header = 14 + 4 * (frame[14] & 15)
    if frame[23] == 17 and frame[26:30] == source and int.from_bytes(frame[header + 2:header + 4], "big") == port:
        print(frame[header + 8:14 + int.from_bytes(frame[16:18], "big")].hex())
        count -= 1
"""
# Sends payloads from an address that is another host's, over and over.
_SEND = """
import itertools, socket, struct, sys, time
port = int(sys.argv[1])
ways = [tuple(map(socket.inet_aton, way.split(","))) for way in sys.argv[2].split(";")]
payloads = [bytes.fromhex(text) for text in sys.argv[3:]]
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for payload in itertools.cycle(payloads):
    for source, target in ways:
        head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + len(payload), 0, 0, 64, 17, 0, source, target)
        udp = struct.pack("!HHHH", port, port, 8 + len(payload), 0)
        raw.sendto(head + udp + payload, (socket.inet_ntoa(target), 0))
    time.sleep(0.01)
"""


@dataclass
class _StrayHeartbeats(HostPairFault, abc.ABC):
    """What they share: `first` seems to say them, `second` hears them."""

    networks: Sequence[str] = (LOGGING, MANAGEMENT)
    _counter: PacketFilter | None = None
    _sender: RemoteProcess | None = None
    _payloads: list[str] = field(default_factory=list)

    @property
    def _stranger(self) -> Host:
        pair = (self.first.name, self.second.name)
        return next(host for host in self.lab.fault_tolerant_hosts if host.name not in pair)

    def _heard(self) -> list[str]:
        """Heartbeats that really come from the first host to the second."""
        source = self.first.addresses[MANAGEMENT]
        seconds = self.lab.pace.stretch(5)
        words = ["-c", _LISTEN, source, str(HEARTBEAT_PORT), str(_COUNT), f"{seconds:g}"]
        return self.second.run(f"{self.second.python} {shlex.join(words)}", timeout_seconds=seconds * 4).stdout.split()

    @abc.abstractmethod
    def _made(self) -> list[str]:
        """What is sent, hexadecimal."""

    def prepare(self) -> None:
        self._payloads = self._made()
        # By the sender's hardware address: all else about them is as if they came from the first host.
        rules = [
            DropRule(
                f"from {self._stranger.name} on {network}",
                "input",
                f"ether saddr {self._hardware_address(network)} udp dport {HEARTBEAT_PORT}",
                action="",
            )
            for network in self.networks
        ]
        self._counter = PacketFilter(self.second, new_table(), rules)
        self._counter.install()

    def _hardware_address(self, network: str) -> str:
        stranger = self._stranger
        path = f"/sys/class/net/{stranger.interfaces[network]}/address"
        return stranger.run(["cat", path], check=True).stdout.strip()

    def inject(self) -> None:
        ways = ";".join(f"{self.first.addresses[each]},{self.second.addresses[each]}" for each in self.networks)
        words = ["-c", _SEND, str(HEARTBEAT_PORT), ways, *self._payloads]
        self._sender = self._stranger.start(f"exec {self._stranger.python} {shlex.join(words)}")

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """The kernel of the host that is to hear them counts them in, on each network."""
        assert self._counter is not None
        counter = self._counter
        if not self._payloads:
            return Confirmation.of(None, f"no heartbeat of {self.first.name} was heard that could be sent again")
        came = wait_until(lambda: all(counter.dropped().values()), timeout_seconds=timeout_seconds)
        return Confirmation.of(came, f"heartbeats that came to {self.second.name}: {counter.dropped()}")

    def heal(self) -> None:
        if self._sender is not None:
            self._sender.signal("KILL")
            self._sender = None
        if self._counter is not None and self.second.state is not HostState.OFF:
            self._counter.remove()


@dataclass
class ForgedHeartbeats(_StrayHeartbeats):
    """They have the form of heartbeats, and tags that only a guess can have made."""

    name = "forged-heartbeats"

    def _made(self) -> list[str]:
        # One bit further each: in the header, in the stamps, in the tag.
        made = []
        for number, payload in enumerate(self._heard()):
            content = bytearray.fromhex(payload)
            content[number * len(content) // _COUNT] ^= 1
            made.append(content.hex())
        return made


@dataclass
class ReplayedHeartbeats(_StrayHeartbeats):
    """They were said a moment ago, and are authentic: only their age tells that nobody says them now."""

    name = "replayed-heartbeats"

    def _made(self) -> list[str]:
        return self._heard()
