"""Messages and log entries as docs/wire.md has them, byte for byte."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from blake3 import blake3

_HEADER = struct.Struct("<B16s6Q")
_TERMS = "32sI18s7Q"
_ENTRY = struct.Struct("<I4sQ16sB")
# The guest's fingerprint where no output has completed.
_NO_OUTPUT = "00" * 16
_CHECKED_AT = 8
_ENTRY_BODY_BYTES_MAX = 1_048_617


class WireFormatError(Exception):
    """Authentic bytes that are not what the page says; the message says where."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One input of the VM. `answer` is what it holds behind its kind, `encoded` the whole of it."""

    position: int
    fingerprint: str
    kind: int
    answer: bytes
    encoded: bytes


@dataclass(frozen=True, slots=True)
class Terms:
    """What both nodes must have alike: machine, kind of host (18 bytes in hexadecimal), intervals, error of clocks."""

    digest: str
    determinism_pass: int
    host: str
    heartbeat_ns: int
    lease_ns: int
    detect_ns: int
    acknowledge_ns: int
    lag_ns: int
    write_bound_ns: int
    clock_error_ppm: int


@dataclass(frozen=True, slots=True)
class Hello:
    """Primary, on a new connection. `backup` is the incarnation whose session is resumed, or 16 zeros."""

    backup: str
    terms: Terms


@dataclass(frozen=True, slots=True)
class Welcome:
    """The answer to it."""

    stored: int
    replayed: int
    terms: Terms


@dataclass(frozen=True, slots=True)
class Commit:
    """Primary: you are the backup, from this position on. The fingerprint is the guest's at the released mark."""

    position: int
    released: int
    fingerprint: str = _NO_OUTPUT


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Primary, on every path."""

    released: int
    fingerprint: str = _NO_OUTPUT


@dataclass(frozen=True, slots=True)
class Entries:
    """Primary: these entries of the log."""

    released: int
    first: int
    through: int
    entries: tuple[LogEntry, ...] = ()
    fingerprint: str = _NO_OUTPUT


@dataclass(frozen=True, slots=True)
class Answer:
    """Backup: what it holds, has replayed and knows as released; bits for the NIC, disk, arbiter that it cannot use."""

    stored: int
    replayed: int
    released: int = 0
    lacks: int = 0


@dataclass(frozen=True, slots=True)
class Restored:
    """Joiner: the guest's state is here, with this digest."""

    position: int
    digest: str


@dataclass(frozen=True, slots=True)
class HandOver:
    """Primary: nothing more leaves here behind this mark, nor is on its way; take the VM over."""

    position: int
    released: int
    fingerprint: str = _NO_OUTPUT


@dataclass(frozen=True, slots=True)
class Farewell:
    """Primary: the guest has halted; do not take over."""

    exit_status: int


# What tells the released mark R.
Marked = Commit | Heartbeat | Entries | HandOver
Body = Hello | Welcome | Commit | Heartbeat | Entries | Answer | Restored | HandOver | Farewell


@dataclass(frozen=True, slots=True)
class Message:
    """What a node said."""

    vm: bytes
    generation: int
    incarnation: str
    session: int
    sequence: int
    stamp_ns: int
    echo_ns: int
    body: Body


def decode_message(content: bytes) -> Message:
    """Read one message; every byte belongs to it. Raises `WireFormatError`."""
    if len(content) < _HEADER.size:
        raise WireFormatError(f"a message of {len(content)} bytes is shorter than its header")
    kind, vm, generation, incarnation, session, sequence, stamp_ns, echo_ns = _HEADER.unpack_from(content)
    body = _decode_body(kind, content[_HEADER.size :])
    return Message(vm, generation, f"{incarnation:016x}", session, sequence, stamp_ns, echo_ns, body)


def _decode_body(kind: int, fields: bytes) -> Body:
    make = _BODIES.get(kind)
    if make is None:
        raise WireFormatError(f"there is no message kind {kind}")
    try:
        return make(fields)
    except struct.error as error:
        raise WireFormatError(f"a message of kind {kind} has {len(fields)} bytes of its own: {error}") from error


def _terms(digest: bytes, determinism_pass: int, host: bytes, *bounds: int) -> Terms:
    return Terms(digest.hex(), determinism_pass, host.hex(), *bounds)


def _hello(fields: bytes) -> Hello:
    backup, *terms = struct.unpack(f"<Q{_TERMS}", fields)
    return Hello(f"{backup:016x}", _terms(*terms))


def _welcome(fields: bytes) -> Welcome:
    stored, replayed, *terms = struct.unpack(f"<QQ{_TERMS}", fields)
    return Welcome(stored, replayed, _terms(*terms))


def _position_and_mark(fields: bytes) -> tuple[int, int, str]:
    position, released, fingerprint = struct.unpack("<QQ16s", fields)
    return position, released, fingerprint.hex()


def _heartbeat(fields: bytes) -> Heartbeat:
    released, fingerprint = struct.unpack("<Q16s", fields)
    return Heartbeat(released, fingerprint.hex())


def _entries(fields: bytes) -> Entries:
    released, first, through, fingerprint = struct.unpack("<QQQ16s", fields)
    return Entries(released, first, through, fingerprint=fingerprint.hex())


def _restored(fields: bytes) -> Restored:
    position, digest = struct.unpack("<Q16s", fields)
    return Restored(position, digest.hex())


_BODIES: Mapping[int, Callable[[bytes], Body]] = {
    1: _hello,
    2: _welcome,
    3: lambda fields: Commit(*_position_and_mark(fields)),
    4: _heartbeat,
    5: _entries,
    6: lambda fields: Answer(*struct.unpack("<QQQB", fields)),
    7: lambda fields: Farewell(*struct.unpack("<i", fields)),
    8: _restored,
    10: lambda fields: HandOver(*_position_and_mark(fields)),
}


def decode_entries(payload: bytes) -> Message:
    """Read the payload of a frame of entries. Raises `WireFormatError`."""
    if len(payload) < 2:
        raise WireFormatError("a frame of entries is shorter than its fields")
    at = 2 + int.from_bytes(payload[:2], "little")
    message = decode_message(payload[2:at])
    body = message.body
    if not isinstance(body, Entries):
        raise WireFormatError(f"a frame of entries begins with {type(body).__name__}")
    if len(payload) < at + 12:
        raise WireFormatError("a frame of entries is shorter than its fields")
    first, count = struct.unpack_from("<QI", payload, at)
    if first != body.first or count != body.through - body.first + 1:
        raise WireFormatError(
            f"a frame of {count} entries from {first} on has a message about {body.first} to {body.through}"
        )
    at += 12
    entries = []
    for position in range(first, first + count):
        start = at + 4
        at = start + int.from_bytes(payload[at:start], "little")
        entry = decode_entry(payload[start:at])
        if entry.position != position:
            raise WireFormatError(f"entry {entry.position} stands at the place of {position}")
        entries.append(entry)
    if at != len(payload):
        raise WireFormatError(f"a frame of entries has {len(payload)} bytes and holds {at}")
    return replace(message, body=replace(body, entries=tuple(entries)))


def decode_entry(encoded: bytes) -> LogEntry:
    """Read one encoded entry; every byte belongs to it. Raises `WireFormatError`."""
    if len(encoded) < _ENTRY.size:
        raise WireFormatError(f"an entry of {len(encoded)} bytes is shorter than its fields")
    length, checksum, position, fingerprint, kind = _ENTRY.unpack_from(encoded)
    if length != len(encoded) - _CHECKED_AT or length > _ENTRY_BODY_BYTES_MAX:
        raise WireFormatError(f"entry {position} says that it has {length} bytes, and has {len(encoded) - _CHECKED_AT}")
    if blake3(encoded[_CHECKED_AT:]).digest(length=len(checksum)) != checksum:
        raise WireFormatError(f"the checksum of entry {position} does not fit")
    return LogEntry(position, fingerprint.hex(), kind, encoded[_ENTRY.size :], encoded)
