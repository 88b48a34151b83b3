"""The disk's NFS connections as the storage host's port shows them."""

from __future__ import annotations

import struct
from collections.abc import Iterable

import dpkt
import pytest

from harness.evidence.capture import Direction, Frame
from harness.evidence.digest import digest
from harness.evidence.json_lines import EvidenceError
from harness.evidence.wire.nfs import read_nfs_writes
from harness.evidence.wire.storage import StorageWrite

HOST_B, STORAGE, ARBITER = bytes([10, 3, 0, 12]), bytes([10, 3, 0, 20]), bytes([10, 3, 0, 21])
IMAGE, OTHER = b"handle of the image", b"handle of something else"
STATE, VERIFIER = bytes(16), b"verifier"
FILE_SYNC, UNSTABLE = 2, 0
CUT = 1460


def opaque(content: bytes) -> bytes:
    return struct.pack("!I", len(content)) + content + bytes(-len(content) % 4)


def numbers(*values: int) -> bytes:
    return struct.pack(f"!{len(values)}I", *values)


def record(content: bytes) -> bytes:
    return numbers(1 << 31 | len(content)) + content


def call(number: int, *operations: bytes, program: int = 100003) -> bytes:
    credential = numbers(1) + opaque(numbers(7, 6) + b"host-b\0\0" + numbers(0, 0, 0))
    head = numbers(number, 0, 2, program, 4, 1) + credential + numbers(0, 0)
    return record(head + opaque(b"") + numbers(2, len(operations)) + b"".join(operations))


def reply(number: int, *results: bytes, status: int = 0) -> bytes:
    return record(numbers(number, 1, 0, 0, 0, 0, status) + opaque(b"") + numbers(len(results)) + b"".join(results))


def sequence(number: int, slot: int = 0) -> bytes:
    return numbers(53) + b"S" * 16 + numbers(number, slot, 63, 0)


def put(handle: bytes) -> bytes:
    return numbers(22) + opaque(handle)


def write(offset: int, data: bytes, stable: int = FILE_SYNC) -> bytes:
    return numbers(38) + STATE + struct.pack("!QI", offset, stable) + opaque(data)


def commit(offset: int, length: int) -> bytes:
    return numbers(5) + struct.pack("!QI", offset, length)


def attributes() -> bytes:
    return numbers(9, 2, 0x18, 0x30)


GET_HANDLE, SEQUENCE_DONE, PUT_DONE = numbers(10), numbers(53, 0) + b"S" * 16 + bytes(20), numbers(22, 0)
BEGUN = (SEQUENCE_DONE, PUT_DONE)
LOOK_UP = numbers(15) + opaque(b"disk.img")
LOOKED_UP = (*BEGUN, numbers(15, 0), numbers(10, 0) + opaque(IMAGE))
OPEN = numbers(18, 0, 2, 0) + bytes(8) + opaque(b"owner of this") + numbers(0, 0) + opaque(b"disk.img")
OPENED = numbers(18, 0) + STATE + bytes(24) + numbers(2, 1, 2)
ENTRY = numbers(0, 0, 0) + opaque(b"OWNER@")
DELEGATIONS = {
    "none": numbers(0),
    "read": numbers(1) + STATE + numbers(0) + ENTRY,
    "write": numbers(2) + STATE + numbers(0, 1) + bytes(8) + ENTRY,
    "none, contended": numbers(3, 1, 0),
    "none, not wanted": numbers(3, 0),
}
ATTRIBUTES = numbers(9, 0, 2, 0x18, 0x30) + opaque(bytes(16))


def written(length: int, committed: int = FILE_SYNC, verifier: bytes = VERIFIER) -> bytes:
    return numbers(38, 0, length, committed) + verifier


def committed(verifier: bytes = VERIFIER) -> bytes:
    return numbers(5, 0) + verifier


class Line:
    """What passes the storage host's port; the requests of host-b at 1000, 1001, ..., the answers at 2000, ..."""

    def __init__(self) -> None:
        self._frames: dict[Direction, list[Frame]] = {direction: [] for direction in Direction}
        self._asked_ns, self._answered_ns = 1000, 2000

    def carry(
        self,
        asked: Iterable[bytes],
        answered: Iterable[bytes],
        *,
        port: int = 700,
        server: bytes = STORAGE,
        begins: bool = True,
    ) -> None:
        """One connection, each part of it a segment."""
        if begins:
            self._say(Direction.RECEIVED, 1, port, server, seq=99, flags=dpkt.tcp.TH_SYN)
            self._say(Direction.SENT, 2, port, server, seq=199, ack=100, flags=dpkt.tcp.TH_SYN | dpkt.tcp.TH_ACK)
        at = 100
        for part in asked:
            self._say(Direction.RECEIVED, self._asked_ns, port, server, seq=at, flags=dpkt.tcp.TH_ACK, data=part)
            at, self._asked_ns = at + len(part), self._asked_ns + 1
        at = 200
        for part in answered:
            self._say(Direction.SENT, self._answered_ns, port, server, seq=at, flags=dpkt.tcp.TH_ACK, data=part)
            at, self._answered_ns = at + len(part), self._answered_ns + 1

    def _say(self, direction: Direction, wall_ns: int, port: int, server: bytes, **fields: object) -> None:
        coming = direction is Direction.RECEIVED
        ports = {"sport": port, "dport": 2049} if coming else {"sport": 2049, "dport": port}
        ends = {"src": HOST_B, "dst": server} if coming else {"src": server, "dst": HOST_B}
        ip = dpkt.ip.IP(**ends, p=dpkt.ip.IP_PROTO_TCP, data=dpkt.tcp.TCP(**ports, **fields))
        ip.len = len(ip)
        content = bytes(dpkt.ethernet.Ethernet(src=b"\2" * 6, dst=b"\4" * 6, data=ip))
        self._frames[direction].append(Frame("storage", "storage", direction, 1, wall_ns, content))

    def writes(self) -> list[StorageWrite]:
        return read_nfs_writes(lambda network, host, direction: self._frames[direction] if host == "storage" else [])


def writes(asked: Iterable[bytes], answered: Iterable[bytes], *, begins: bool = True) -> list[StorageWrite]:
    line = Line()
    line.carry(asked, answered, begins=begins)
    return line.writes()


def test_a_write_in_several_segments_among_other_requests() -> None:
    data = b"d" * 4000
    request = call(3, sequence(3), put(IMAGE), write(4096, data), attributes())
    asked = [
        call(1, sequence(1), put(b"root"), LOOK_UP, GET_HANDLE, attributes()),
        call(2, sequence(2), put(OTHER), write(0, b"not the disk's"), attributes()),
        request[:CUT],
        request[CUT : 2 * CUT],
        request[2 * CUT :],
        call(4, sequence(4), put(IMAGE), write(0, b"x"))[:-8],
    ]
    answered = [
        reply(1, *LOOKED_UP, ATTRIBUTES),
        reply(2, *BEGUN, written(14), ATTRIBUTES) + reply(3, *BEGUN, written(4000), ATTRIBUTES),
    ]
    assert writes(asked, answered) == [StorageWrite("host-b", 4096, 4000, digest(data), data, 1004, 2001, 0)]


@pytest.mark.parametrize("delegation", DELEGATIONS.values(), ids=DELEGATIONS)
def test_the_image_is_told_by_the_name_that_it_is_opened_by(delegation: bytes) -> None:
    asked = [
        call(1, sequence(1), put(b"root"), OPEN, GET_HANDLE),
        call(2, sequence(2), put(IMAGE), write(0, b"abc")),
        call(3, sequence(3), put(OTHER), write(0, b"def")),
    ]
    answered = [reply(1, *BEGUN, OPENED + delegation, numbers(10, 0) + opaque(IMAGE))]
    assert [one.data for one in writes(asked, answered)] == [b"abc"]


def test_without_a_name_the_only_file_is_the_image_and_of_two_neither() -> None:
    line = Line()
    line.carry([call(1, sequence(1), put(IMAGE), write(0, b"abc"))], [])
    line.carry([call(1, sequence(1, 7), put(OTHER), write(0, b"claim"))], [], server=ARBITER, port=701)
    assert [(one.data, one.answered_ns) for one in line.writes()] == [(b"abc", None)]
    line.carry([call(1, sequence(2), put(OTHER), write(0, b"def"))], [], port=702)
    with pytest.raises(EvidenceError, match="2 files"):
        line.writes()


def test_an_unstable_write_is_answered_by_the_commit_that_covers_it() -> None:
    asked = [
        call(1, sequence(1), put(IMAGE), write(0, b"abcd", UNSTABLE)),
        call(2, sequence(2), put(IMAGE), write(4, b"efgh", UNSTABLE)),
    ]
    answered = [reply(1, *BEGUN, written(4, UNSTABLE)), reply(2, *BEGUN, written(4, UNSTABLE))]
    line = Line()
    line.carry(asked, answered)
    assert [one.answered_ns for one in line.writes()] == [None, None]
    line._asked_ns = 3000
    line.carry([call(3, sequence(3), put(IMAGE), commit(0, 4))], [reply(3, *BEGUN, committed())], port=701)
    assert [one.answered_ns for one in line.writes()] == [2002, None]
    line.carry([call(4, sequence(4), put(IMAGE), commit(0, 0))], [reply(4, *BEGUN, committed(b"restart!"))], port=702)
    assert [one.answered_ns for one in line.writes()] == [2002, None]
    line.carry([call(5, sequence(5), put(IMAGE), commit(0, 0))], [reply(5, *BEGUN, committed())], port=703)
    assert [one.answered_ns for one in line.writes()] == [2002, 2004]


def test_a_request_that_comes_again_on_a_new_connection_is_one() -> None:
    request = call(1, sequence(1), put(IMAGE), write(0, b"abc"))
    line = Line()
    line.carry([request], [])
    line.carry([request], [reply(1, *BEGUN, written(3))])
    line.carry([call(2, sequence(2), put(IMAGE), write(0, b"abc"))], [], port=701)
    assert [(one.asked_ns, one.answered_ns) for one in line.writes()] == [(1000, 2000), (1002, None)]


def test_what_failed_and_what_was_taken_in_part() -> None:
    asked = [call(one, sequence(one), put(IMAGE), write(8, b"abcd")) for one in range(1, 5)]
    answered = [
        reply(1, SEQUENCE_DONE, numbers(22, 70), status=70),
        reply(2, *BEGUN, numbers(38, 28), status=28),
        reply(3, *BEGUN, written(3)),
        record(numbers(4, 1, 1, 1, 5)),
    ]
    assert [(one.length, one.error) for one in writes(asked, answered)] == [(4, 70), (4, 28), (3, 0), (4, 5)]


def test_a_deallocation_writes_zeroes() -> None:
    zeroes = numbers(62) + STATE + struct.pack("!QQ", 512, 4)
    asked = [call(1, sequence(1), put(IMAGE), zeroes)]
    assert [(one.offset, one.data) for one in writes(asked, [reply(1, *BEGUN, numbers(62, 0))])] == [(512, bytes(4))]


def test_a_connection_that_had_begun_is_joined_at_its_next_record() -> None:
    first, second = (call(one, sequence(one), put(IMAGE), write(one, b"a" * 9)) for one in (1, 2))
    answered = [reply(1, *BEGUN, written(9))[20:], reply(2, *BEGUN, written(9))]
    (one,) = writes([first[70:], second], answered, begins=False)
    assert (one.offset, one.asked_ns, one.answered_ns) == (2, 1001, 2001)


def test_the_servers_own_requests_are_no_answers() -> None:
    callback = record(numbers(1, 0, 2, 0x40000000, 1, 1, 0, 0, 0, 0) + opaque(b""))
    asked = [call(1, sequence(1), put(IMAGE), write(0, b"abc")), record(numbers(1, 1, 0, 0, 0, 0))]
    (one,) = writes(asked, [callback, reply(1, *BEGUN, written(3))])
    assert one.answered_ns == 2001


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "no record at byte 0"),
        (record(numbers(1, 7, 2, 100003)), "no call and no reply at byte 0"),
        (record(numbers(1, 0, 2, 100003, 4, 1, 0, 0, 0, 0) + opaque(b"") + numbers(2, 1, 22, 99)), "within a value"),
    ],
)
def test_what_is_not_understood_is_no_evidence(asked: bytes, what: str) -> None:
    with pytest.raises(EvidenceError, match=what):
        writes([asked], [])
