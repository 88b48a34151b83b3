"""Ethernet frames down to TCP segments and UDP datagrams: IPv4 only, and only what a receiver's kernel would take.

A fast reader of fixed fields: dpkt's objects cost more than all other reading of a run together.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from harness.evidence.capture import Frame

SYN, FIN, RST, ACK = 0x02, 0x01, 0x04, 0x10
_IPV4 = b"\x08\x00"
_TCP, _UDP = 6, 17
_ETHERNET_BYTES = 14
_TCP_FIELDS = struct.Struct("!HHIIBB")
_UDP_FIELDS = struct.Struct("!HHH")


@dataclass(frozen=True, slots=True)
class Segment:
    """One TCP segment. Addresses are IPv4, 4 bytes each."""

    source: bytes
    source_port: int
    destination: bytes
    destination_port: int
    sequence: int
    acknowledged: int
    flags: int
    payload: bytes
    wall_ns: int


@dataclass(frozen=True, slots=True)
class Datagram:
    """One UDP datagram, whole."""

    source: bytes
    destination: bytes
    payload: bytes
    wall_ns: int


def segments(frames: Iterable[Frame], port: int) -> Iterator[Segment]:
    """The TCP segments from or to a port."""
    wanted = port.to_bytes(2, "big")
    for frame in frames:
        content = frame.content
        at = _transport_offset(content, _TCP)
        if at is None or wanted not in (content[at : at + 2], content[at + 2 : at + 4]):
            continue
        end = _ETHERNET_BYTES + int.from_bytes(content[16:18], "big")
        if at + 20 > end or end > len(content) or not _is_sound(content, at, end, _TCP, at + 16):
            continue
        source_port, destination_port, sequence, acknowledged, words, flags = _TCP_FIELDS.unpack_from(content, at)
        payload = content[at + (words >> 4) * 4 : end]
        yield Segment(
            content[26:30],
            source_port,
            content[30:34],
            destination_port,
            sequence,
            acknowledged,
            flags,
            payload,
            frame.wall_ns,
        )


def datagrams(frames: Iterable[Frame], port: int) -> Iterator[Datagram]:
    """The UDP datagrams to a port."""
    for frame in frames:
        content = frame.content
        at = _transport_offset(content, _UDP)
        if at is None:
            continue
        _, destination_port, length = _UDP_FIELDS.unpack_from(content, at)
        end = at + length
        if destination_port != port or length < 8 or end > len(content):
            continue
        if content[at + 6 : at + 8] != b"\0\0" and not _is_sound(content, at, end, _UDP, at + 6):
            continue
        yield Datagram(content[26:30], content[30:34], content[at + 8 : end], frame.wall_ns)


def _transport_offset(content: bytes, protocol: int) -> int | None:
    """Where the transport's header starts in a whole IPv4 packet of this protocol whose own header is right."""
    if content[12:14] != _IPV4 or len(content) < 42 or content[23] != protocol:
        return None
    at = _ETHERNET_BYTES + (content[14] & 0x0F) * 4
    is_fragment = int.from_bytes(content[20:22], "big") & 0x3FFF
    if is_fragment or int.from_bytes(content[_ETHERNET_BYTES:at], "big") % 0xFFFF or at + 8 > len(content):
        return None
    return at


def _is_sound(content: bytes, at: int, end: int, protocol: int, checksum_at: int) -> bool:
    """Whether the checksum is right, or was still to be computed by a network card that this lab does not have.

    The Internet checksum is a sum of 16-bit words modulo 65535, and so the whole as one number modulo 65535 is the sum.
    """
    pseudo = int.from_bytes(content[26:34], "big") + protocol + (end - at)
    found = int.from_bytes(content[checksum_at : checksum_at + 2], "big")
    if found % 0xFFFF == pseudo % 0xFFFF:
        return True
    odd = (end - at) & 1
    return ((int.from_bytes(content[at:end], "big") << 8 * odd) + pseudo) % 0xFFFF == 0
