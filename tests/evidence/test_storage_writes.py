"""The disk's NBD connections as the storage host's port shows them."""

from __future__ import annotations

import struct

import dpkt
import pytest

from harness.evidence.capture import Direction, Frame
from harness.evidence.digest import digest
from harness.evidence.json_lines import EvidenceError
from harness.evidence.wire.storage import StorageWrite, read_storage_writes

HOST_B, STORAGE, PORT = bytes([10, 3, 0, 12]), bytes([10, 3, 0, 20]), 10812
OPTIONS = struct.pack("!I8sII", 3, b"IHAVEOPT", 8, 0) + struct.pack("!8sII4xH", b"IHAVEOPT", 7, 6, 0)
OPTION_REPLY = 0x3E889045565A9
HANDSHAKE = (
    struct.pack("!8s8sH", b"NBDMAGIC", b"IHAVEOPT", 3)
    + struct.pack("!QIII", OPTION_REPLY, 8, 1, 0)
    + struct.pack("!QIIIHQH", OPTION_REPLY, 7, 3, 12, 0, 1 << 24, 1)
    + struct.pack("!QIII", OPTION_REPLY, 7, 1, 0)
)


def request(kind: int, cookie: int, offset: int, length: int, data: bytes = b"") -> bytes:
    return struct.pack("!IHHQQI", 0x25609513, 0, kind, cookie, offset, length) + data


def simple(cookie: int, error: int = 0, data: bytes = b"") -> bytes:
    return struct.pack("!IIQ", 0x67446698, error, cookie) + data


def chunk(cookie: int, kind: int, payload: bytes = b"", *, done: bool = True) -> bytes:
    return struct.pack("!IHHQI", 0x668E33EF, int(done), kind, cookie, len(payload)) + payload


def writes(asked: list[bytes], answered: list[bytes]) -> list[StorageWrite]:
    """The writes in a connection: each part a segment, the asking ones at 1000, 1001, ..., the others at 2000, ..."""
    frames: dict[Direction, list[Frame]] = {direction: [] for direction in Direction}

    def say(direction: Direction, wall_ns: int, **fields: object) -> None:
        coming = direction is Direction.RECEIVED
        ports = {"sport": 33000, "dport": PORT} if coming else {"sport": PORT, "dport": 33000}
        tcp = dpkt.tcp.TCP(**ports, **fields)
        ends = {"src": HOST_B, "dst": STORAGE} if coming else {"src": STORAGE, "dst": HOST_B}
        ip = dpkt.ip.IP(**ends, p=dpkt.ip.IP_PROTO_TCP, data=tcp)
        ip.len = len(ip)
        content = bytes(dpkt.ethernet.Ethernet(src=b"\2" * 6, dst=b"\4" * 6, data=ip))
        frames[direction].append(Frame("storage", "storage", direction, 1, wall_ns, content))

    say(Direction.RECEIVED, 1, seq=99, flags=dpkt.tcp.TH_SYN)
    say(Direction.SENT, 2, seq=199, ack=100, flags=dpkt.tcp.TH_SYN | dpkt.tcp.TH_ACK)
    for direction, parts, start_ns, first in (
        (Direction.RECEIVED, asked, 1000, 100),
        (Direction.SENT, answered, 2000, 200),
    ):
        for number, part in enumerate(parts):
            sequence = first + sum(map(len, parts[:number]))
            say(direction, start_ns + number, seq=sequence, flags=dpkt.tcp.TH_ACK, data=part)
    return read_storage_writes(lambda network, host, direction: frames[direction] if host == "storage" else [])


def test_writes_are_found_among_reads_and_flushes() -> None:
    data = b"d" * 512
    asked = [
        OPTIONS,
        request(0, 1, 0, 1024) + request(1, 2, 4096, 512, data[:100]),
        data[100:],
        request(3, 3, 0, 0) + request(1, 4, 8192, 3, b"abc") + request(6, 5, 0, 4),
    ]
    answered = [HANDSHAKE, simple(1, data=bytes(1024)), simple(2), simple(3) + simple(4, error=5) + simple(5)]
    assert writes(asked, answered) == [
        StorageWrite("host-b", 4096, 512, digest(data), data, 1002, 2002, 0),
        StorageWrite("host-b", 8192, 3, digest(b"abc"), b"abc", 1003, 2003, 5),
        StorageWrite("host-b", 0, 4, digest(bytes(4)), bytes(4), 1003, 2003, 0),
    ]


def test_structured_replies() -> None:
    asked = [OPTIONS, request(0, 1, 0, 8) + request(1, 2, 0, 1, b"x") + request(1, 3, 1, 1, b"y")]
    answered = [
        HANDSHAKE,
        chunk(1, 1, bytes(8) + b"half", done=False),
        chunk(3, 0x8001, struct.pack("!IH", 5, 2) + b"no"),
        chunk(1, 1, bytes(8) + b"half") + chunk(2, 0),
    ]
    first, second = writes(asked, answered)
    assert (first.data, first.answered_ns, first.error) == (b"x", 2003, 0)
    assert (second.data, second.answered_ns, second.error) == (b"y", 2002, 5)


def test_a_write_without_an_answer_was_asked_for_and_one_that_never_came_whole_was_not() -> None:
    asked = [OPTIONS, request(1, 1, 0, 1, b"x"), request(1, 2, 1, 3, b"ab")]
    (one,) = writes(asked, [HANDSHAKE, simple(1)[:9]])
    assert (one.data, one.asked_ns, one.answered_ns, one.error) == (b"x", 1001, None, 0)


def test_a_handshake_that_is_not_over_has_no_writes() -> None:
    assert writes([OPTIONS], [HANDSHAKE[:40]]) == []


@pytest.mark.parametrize(
    ("asked", "answered", "what"),
    [
        ([OPTIONS], [b"SSH-2.0-OpenSSH_9.2p1"], "newstyle"),
        ([OPTIONS, b"?" * 28], [HANDSHAKE], "no request at byte 42"),
        ([OPTIONS], [HANDSHAKE, b"?" * 16], "no reply at byte"),
        ([OPTIONS], [HANDSHAKE, simple(7)], "answers no request"),
    ],
)
def test_what_is_not_understood_is_no_evidence(asked: list[bytes], answered: list[bytes], what: str) -> None:
    with pytest.raises(EvidenceError, match=what):
        writes(asked, answered)
