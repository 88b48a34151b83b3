"""`captures/<network>.<host>.<sent|received>.pcap.gz`: what passed the switch's port of a host (CLOCK_REALTIME).

Packed, because most of what passes is the blocks of an empty disk; Wireshark opens the files as they are. Beside them
`captures/counts.json`: how many frames each port's capture took in, and how many went by without it.
"""

from __future__ import annotations

import enum
import gzip
import io
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import dpkt

from harness.evidence.digest import digest
from harness.evidence.json_lines import EvidenceError, Line, decode, read_object

_BROADCAST = b"\xff" * 6
_RARP = 0x8035


class Direction(enum.StrEnum):
    """Which way a frame went, as seen from the host."""

    SENT = "sent"
    RECEIVED = "received"


@dataclass(frozen=True)
class Frame:
    """One captured Ethernet frame. `number` counts from 1 as Wireshark does."""

    host: str
    network: str
    direction: Direction
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

    @cached_property
    def digest(self) -> str:
        """The digest that outputs are named by."""
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
        return f"frame {self.number} of {capture_name(self.network, self.host, self.direction)}"


def capture_name(network: str, host: str, direction: Direction) -> str:
    """The name of the file that holds these frames."""
    return f"{network}.{host}.{direction}.pcap.gz"


class _WholeReads(io.BytesIO):
    """A file in memory that gives what is asked for, nothing at its end, or raises."""

    def read(self, size: int | None = -1, /) -> bytes:
        part = super().read(size)
        if part and size is not None and len(part) < size:
            raise EvidenceError(f"ends {size - len(part)} bytes too early")
        return part


def read_frames(path: Path, network: str, host: str, direction: Direction) -> list[Frame]:
    """The frames of a packed pcap file with nanosecond stamps, in order of time. Raises `EvidenceError`."""
    try:
        reader = dpkt.pcap.Reader(_WholeReads(gzip.decompress(path.read_bytes())))
        if reader.datalink() != dpkt.pcap.DLT_EN10MB:
            raise EvidenceError(f"link type {reader.datalink()} is not Ethernet")
        frames = [
            # dpkt gives nanosecond stamps as exact decimals, and floats for all others.
            Frame(host, network, direction, number, int(seconds * 1_000_000_000), content)
            for number, (seconds, content) in enumerate(reader, 1)
        ]
    except FileNotFoundError as error:
        raise EvidenceError(f"{path}: {error.strerror}") from error
    except (EvidenceError, dpkt.Error, ValueError, OSError, EOFError, zlib.error) as error:
        raise EvidenceError(f"{path}: no whole pcap file: {error}") from error
    if any(not frame.content for frame in frames):
        raise EvidenceError(f"{path}: no whole pcap file: a frame is empty")
    return sorted(frames, key=lambda frame: frame.wall_ns)


@dataclass(frozen=True)
class CaptureCount:
    """Frames of one port's capture, both ways, as the kernel counted them."""

    captured: int
    dropped: int


def write_capture_counts(path: Path, counts: Mapping[str, CaptureCount]) -> None:
    """Write the file; `counts` by `<network>.<host>`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({port: asdict(count) for port, count in counts.items()}, indent=1) + "\n")


def read_capture_counts(path: Path) -> dict[str, CaptureCount]:
    """Read the file, by `<network>.<host>`. Raises `EvidenceError`."""
    line = read_object(path)
    if not all(isinstance(fields, dict) for fields in line.fields.values()):
        raise line.error("no object of objects")
    return {port: decode(CaptureCount, Line(path, line.number, fields)) for port, fields in line.fields.items()}
