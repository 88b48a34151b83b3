"""Frames down to segments and datagrams: what a receiver's kernel would drop is dropped."""

from __future__ import annotations

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as some

from harness.evidence.capture import Direction, Frame
from harness.evidence.wire.packets import datagrams, segments

HERE, THERE = bytes([10, 1, 0, 11]), bytes([10, 1, 0, 12])


def frame(content: bytes) -> Frame:
    return Frame("host-a", "logging", Direction.SENT, 1, 77, content)


def packet(transport: dpkt.Packet, protocol: int) -> bytes:
    ip = dpkt.ip.IP(src=HERE, dst=THERE, p=protocol, data=transport)
    ip.len = len(ip)
    return bytes(dpkt.ethernet.Ethernet(src=b"\2\0\0\0\0\1", dst=b"\2\0\0\0\0\2", data=ip))


def tcp(payload: bytes, options: bytes = b"") -> bytes:
    segment = dpkt.tcp.TCP(sport=40000, dport=7001, seq=5, ack=6, opts=options, data=payload)
    segment.off = 5 + len(options) // 4
    return packet(segment, dpkt.ip.IP_PROTO_TCP)


def udp(payload: bytes) -> bytes:
    return packet(dpkt.udp.UDP(sport=9, dport=7002, ulen=8 + len(payload), data=payload), dpkt.ip.IP_PROTO_UDP)


@given(some.binary(max_size=100), some.sampled_from([b"", b"\1\1\1\1", b"\1" * 12]), some.binary(max_size=6))
def test_a_segment_is_read_without_its_padding(payload: bytes, options: bytes, padding: bytes) -> None:
    (one,) = segments([frame(tcp(payload, options) + padding)], 7001)
    assert (one.source, one.destination, one.payload, one.wall_ns) == (HERE, THERE, payload, 77)
    assert (one.source_port, one.destination_port, one.sequence, one.acknowledged) == (40000, 7001, 5, 6)


@given(some.binary(max_size=100))
def test_a_datagram_is_read(payload: bytes) -> None:
    (one,) = datagrams([frame(udp(payload))], 7002)
    assert (one.source, one.destination, one.payload) == (HERE, THERE, payload)


@pytest.mark.parametrize("content", [tcp(b"abc"), udp(b"abcd")], ids=["tcp", "udp"])
def test_what_was_damaged_on_its_way_is_not_taken(content: bytes) -> None:
    for bit in range(14 * 8, len(content) * 8):
        broken = bytearray(content)
        broken[bit // 8] ^= 1 << bit % 8
        assert not list(segments([frame(bytes(broken))], 7001)), f"bit {bit}"
        assert not list(datagrams([frame(bytes(broken))], 7002)), f"bit {bit}"


def test_a_checksum_that_the_card_was_to_compute_is_taken() -> None:
    """A local stack leaves the pseudo header's sum in the field, and veth never computes the rest."""
    content = bytearray(tcp(b"abc"))
    length = len(content) - 34
    words = [int.from_bytes(content[at : at + 2], "big") for at in range(26, 34, 2)]
    total = sum(words) + 6 + length
    content[50:52] = ((total & 0xFFFF) + (total >> 16)).to_bytes(2, "big")
    (one,) = segments([frame(bytes(content))], 7001)
    assert one.payload == b"abc"


@given(some.binary(max_size=120))
def test_no_bytes_make_the_reader_stumble(content: bytes) -> None:
    list(segments([frame(content)], 7001))
    list(datagrams([frame(content)], 7002))


@given(some.binary(max_size=60))
def test_no_bytes_behind_an_ip_header_make_it_stumble(rest: bytes) -> None:
    head = tcp(b"")[:34]
    list(segments([frame(head + rest)], 7001))
    list(datagrams([frame(udp(b"")[:34] + rest)], 7002))
