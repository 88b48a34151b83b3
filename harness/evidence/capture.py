"""`captures/<host>.pcap`: the frames that passed the client network's port of a host (stamps are CLOCK_REALTIME)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import dpkt

from harness.evidence.digest import digest
from harness.evidence.json_lines import EvidenceError

_MAGIC_NANOSECONDS = {b"\x4d\x3c\xb2\xa1": "little", b"\xa1\xb2\x3c\x4d": "big"}
_MAGIC_MICROSECONDS = {b"\xd4\xc3\xb2\xa1": "little", b"\xa1\xb2\xc3\xd4": "big"}
_HEADER_BYTES = 24
_RECORD_BYTES = 16
_ETHERNET = 1
_BROADCAST = b"\xff" * 6
_RARP = 0x8035
# The switch forwards a flooded frame to its other ports within microseconds; 2 ms leave room for a busy machine.
FLOOD_NS_MAX = 2_000_000


@dataclass(frozen=True)
class Frame:
    """One captured Ethernet frame. `number` counts from 1 as Wireshark does."""

    host: str
    number: int
    wall_ns: int
    content: bytes

    @property
    def source(self) -> bytes:
        """The sender's MAC."""
        return self.content[6:12]

    @property
    def destination(self) -> bytes:
        """The receiver's MAC."""
        return self.content[:6]

    @property
    def digest(self) -> str:
        """The digest that the traces name this frame by."""
        return digest(self.content)

    @property
    def is_announcement(self) -> bool:
        """Whether it is a gratuitous ARP (sender's and target's address are one) or a RARP, broadcast."""
        if self.destination != _BROADCAST or len(self.content) < 42:
            return False
        kind = int.from_bytes(self.content[12:14], "big")
        if kind == _RARP:
            return True
        return kind == dpkt.ethernet.ETH_TYPE_ARP and self.content[28:32] == self.content[38:42]

    def tcp(self) -> tuple[dpkt.ip.IP, dpkt.tcp.TCP] | None:
        """The IP packet and TCP segment in it, if it holds any."""
        try:
            packet = dpkt.ethernet.Ethernet(self.content).data
        except dpkt.UnpackError:
            return None
        if isinstance(packet, dpkt.ip.IP) and isinstance(packet.data, dpkt.tcp.TCP):
            return packet, packet.data
        return None

    def __str__(self) -> str:
        return f"{self.host} frame {self.number}"


@dataclass(frozen=True)
class Capture:
    """All frames at one host's port, in order of time. `torn`: the last record is not whole."""

    host: str
    path: Path
    frames: list[Frame]
    torn: bool


def read_capture(path: Path, host: str) -> Capture:
    """Read a classic pcap file of Ethernet frames with nanosecond or microsecond stamps. Raises `EvidenceError`.

    The records are read here and not by dpkt, whose float stamps lose the nanoseconds.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EvidenceError(f"{path}: {error.strerror}") from error
    magic = content[:4]
    order = _MAGIC_NANOSECONDS.get(magic) or _MAGIC_MICROSECONDS.get(magic)
    if order is None or len(content) < _HEADER_BYTES:
        raise EvidenceError(f"{path}: no pcap file (magic {magic.hex()})")
    endian: Literal["little", "big"] = "little" if order == "little" else "big"
    link_type = int.from_bytes(content[20:24], endian) & 0xFFFF
    if link_type != _ETHERNET:
        raise EvidenceError(f"{path}: link type {link_type} is not Ethernet")
    unit_ns = 1 if magic in _MAGIC_NANOSECONDS else 1000
    frames: list[Frame] = []
    offset = _HEADER_BYTES
    while offset + _RECORD_BYTES <= len(content):
        seconds, fraction, captured, length = (
            int.from_bytes(content[at : at + 4], endian) for at in range(offset, offset + _RECORD_BYTES, 4)
        )
        if captured < length:
            raise EvidenceError(f"{path}: offset {offset}: {captured} of a frame's {length} bytes were captured only")
        start = offset + _RECORD_BYTES
        if start + captured > len(content):
            break
        wall_ns = seconds * 1_000_000_000 + fraction * unit_ns
        frames.append(Frame(host, len(frames) + 1, wall_ns, content[start : start + captured]))
        offset = start + captured
    return Capture(host, path, sorted(frames, key=lambda frame: frame.wall_ns), offset != len(content))


def write_capture(path: Path, frames: Iterable[Frame]) -> None:
    """Write a pcap file with nanosecond stamps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [b"\x4d\x3c\xb2\xa1", *(n.to_bytes(s, "little") for n, s in ((2, 2), (4, 2), (0, 8), (1 << 18, 4), (1, 4)))]
    for frame in frames:
        seconds, fraction = divmod(frame.wall_ns, 1_000_000_000)
        size = len(frame.content)
        parts += [number.to_bytes(4, "little") for number in (seconds, fraction, size, size)]
        parts.append(frame.content)
    path.write_bytes(b"".join(parts))


def frames_from_vm(captures: Mapping[str, Capture], mac: str) -> dict[str, list[Frame]]:
    """The frames that each host's VM sent through its own port, by host.

    A port's capture also shows what the switch floods *to* that host. Such a copy is known by the same bytes having
    passed another host's port at most `FLOOD_NS_MAX` before; each frame floods at most once to each other port.
    """
    source = bytes.fromhex(mac.replace(":", ""))
    every = sorted(
        (frame for capture in captures.values() for frame in capture.frames if frame.source == source),
        key=lambda frame: frame.wall_ns,
    )
    sent: dict[str, list[Frame]] = {host: [] for host in captures}
    recent: dict[bytes, list[tuple[Frame, set[str]]]] = defaultdict(list)
    for frame in every:
        origins = [entry for entry in recent[frame.content] if frame.wall_ns - entry[0].wall_ns <= FLOOD_NS_MAX]
        recent[frame.content] = origins
        origin = next((entry for entry in origins if frame.host not in entry[1]), None)
        if origin is not None:
            origin[1].add(frame.host)
            continue
        origins.append((frame, {frame.host}))
        sent[frame.host].append(frame)
    return sent
