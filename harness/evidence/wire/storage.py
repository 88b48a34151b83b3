"""The writes that came to the storage host, read off the NBD connections of the FT hosts.

Source: the NBD protocol (github.com/NetworkBlockDevice/nbd, doc/proto.md): fixed newstyle handshake, compact requests,
simple and structured replies.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from harness.evidence.capture import Direction
from harness.evidence.digest import digest
from harness.evidence.json_lines import EvidenceError
from harness.evidence.wire.packets import segments
from harness.evidence.wire.streams import Connection, Reassembly
from harness.evidence.wire.wire import Frames, address_of, host_at
from harness.lab import topology

_SERVER_MAGIC, _OPTION_MAGIC = b"NBDMAGIC", b"IHAVEOPT"
_OPTION_REPLY_MAGIC = (0x3E889045565A9).to_bytes(8, "big")
_GO = 7
_ACKNOWLEDGED = 1
_REQUEST, _REQUEST_MAGIC = struct.Struct("!IHHQQI"), 0x25609513
_SIMPLE, _SIMPLE_MAGIC = struct.Struct("!IIQ"), 0x67446698
_CHUNK, _CHUNK_MAGIC = struct.Struct("!IHHQI"), 0x668E33EF
_READ, _WRITE, _WRITE_ZEROES = 0, 1, 6
_DONE, _ERROR_BIT = 1, 0x8000


@dataclass(frozen=True)
class StorageWrite:
    """One write to the VM's disk. Times are CLOCK_REALTIME at the storage host's port.

    Attributes:
        host: whose.
        offset: in the image, bytes.
        length: bytes.
        digest: of the bytes, as outputs have it.
        data: the bytes.
        asked_ns: when the whole of it had come.
        answered_ns: when its answer left; None: it never did.
        error: of the answer, an errno; 0: none.
    """

    host: str
    offset: int
    length: int
    digest: str
    data: bytes
    asked_ns: int
    answered_ns: int | None
    error: int


@dataclass(frozen=True, slots=True)
class _Request:
    kind: int
    cookie: int
    offset: int
    length: int
    data: bytes
    end: int


def read_storage_writes(frames: Frames) -> list[StorageWrite]:
    """All writes in the order in which they came. Raises `EvidenceError` when a connection is not understood."""
    writes: list[StorageWrite] = []
    here = topology.STORAGE_PLAN
    address = address_of(here.address(topology.STORAGE))
    for plan in topology.FAULT_TOLERANT_PLANS:
        port = topology.block_port(plan)
        reassembly = Reassembly(port)
        for direction in Direction:
            found = segments(frames(topology.STORAGE, here.name, direction), port)
            reassembly.add(found, address, sent=direction is Direction.SENT)
        for connection in reassembly.connections:
            try:
                writes += _read_connection(connection)
            except (ValueError, struct.error) as error:
                raise EvidenceError(f"the disk's connection {connection} is not understood: {error}") from error
    return sorted(writes, key=lambda write: write.asked_ns)


def _read_connection(connection: Connection) -> Iterator[StorageWrite]:
    asked, answered = connection.from_dialler, connection.from_listener
    content = answered.content
    start = _transmission_start(content)
    if start is None:
        return
    requests = list(_requests(asked.content))
    answers: dict[int, tuple[int | None, int]] = {}
    for cookie, at, end, error in _replies(content, start, {one.cookie: one for one in requests}):
        answers[cookie] = answered.left_ns(at, end), error
    for one in requests:
        if one.kind in (_WRITE, _WRITE_ZEROES):
            answered_ns, error = answers.get(one.cookie, (None, 0))
            asked_ns = asked.arrived_ns(one.end)
            assert asked_ns is not None, "only what had come was read"
            host = host_at(connection.dialler)
            yield StorageWrite(host, one.offset, one.length, digest(one.data), one.data, asked_ns, answered_ns, error)


def _requests(content: bytes) -> Iterator[_Request]:
    """The requests up to the last whole one, behind the client's flags and options."""
    at = 4
    while content[at : at + 8] == _OPTION_MAGIC:
        at += 16 + int.from_bytes(content[at + 12 : at + 16], "big")
    while at + _REQUEST.size <= len(content):
        magic, _, kind, cookie, offset, length = _REQUEST.unpack_from(content, at)
        if magic != _REQUEST_MAGIC:
            raise ValueError(f"no request at byte {at}")
        start = at + _REQUEST.size
        at = start + (length if kind == _WRITE else 0)
        if at > len(content):
            return
        data = content[start:at] if kind == _WRITE else bytes(length if kind == _WRITE_ZEROES else 0)
        yield _Request(kind, cookie, offset, length, data, at)


def _transmission_start(content: bytes) -> int | None:
    """Where the server's replies to requests begin; None while the handshake is not over."""
    if len(content) < 18:
        return None
    if content[:16] != _SERVER_MAGIC + _OPTION_MAGIC:
        raise ValueError("the server does not begin with the newstyle handshake")
    at = 18
    while at + 20 <= len(content):
        if content[at : at + 8] != _OPTION_REPLY_MAGIC:
            raise ValueError(f"no reply to an option at byte {at}")
        option, reply, length = (int.from_bytes(content[one : one + 4], "big") for one in range(at + 8, at + 20, 4))
        at += 20 + length
        if option == _GO and reply == _ACKNOWLEDGED:
            return at
    return None


def _replies(content: bytes, at: int, requests: dict[int, _Request]) -> Iterator[tuple[int, int, int, int]]:
    """The cookie, first byte, end and error of each reply that is there whole."""
    errors: dict[int, int] = {}
    while at + 16 <= len(content):
        start = at
        magic = int.from_bytes(content[at : at + 4], "big")
        if magic == _SIMPLE_MAGIC:
            _, error, cookie = _SIMPLE.unpack_from(content, at)
            request = requests.get(cookie)
            if request is None:
                raise ValueError(f"the reply at byte {at} answers no request")
            at += _SIMPLE.size + (request.length if request.kind == _READ and not error else 0)
            is_done = True
        elif magic == _CHUNK_MAGIC:
            if at + _CHUNK.size > len(content):
                return
            _, flags, kind, cookie, length = _CHUNK.unpack_from(content, at)
            at += _CHUNK.size
            if kind & _ERROR_BIT and at + 4 <= len(content):
                errors[cookie] = int.from_bytes(content[at : at + 4], "big")
            at += length
            is_done, error = bool(flags & _DONE), errors.get(cookie, 0)
        else:
            raise ValueError(f"no reply at byte {at}")
        if at > len(content):
            return
        if is_done:
            yield cookie, start, at, error
