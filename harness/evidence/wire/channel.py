"""The logging channel: greeting and frames of one connection, each tag checked with the VM's key (docs/wire.md)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from blake3 import blake3

from harness.evidence.wire.messages import Message, WireFormatError, decode_entries, decode_message

MAGIC = b"FTVMLOG6"
TAG_BYTES = 16
_NONCE_BYTES = 16
_HELLO_BYTES = len(MAGIC) + _NONCE_BYTES
GREETING_BYTES = _HELLO_BYTES + TAG_BYTES
_FRAME_BYTES_MAX = 1 + (8 << 20) + TAG_BYTES
_LOG_FRAME, _HEARTBEAT = b"\x01", b"\x02"
_CONTROL, _ENTRIES, _TRANSFER = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Placed:
    """A message and where its frame is in the stream: from `start` up to `end`."""

    message: Message
    start: int
    end: int


class StreamRefusedError(Exception):
    """From this byte on a stream is not what the VM's nodes say to each other."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(reason)
        self.offset = offset


def tag(key: bytes, *parts: bytes) -> bytes:
    """The tag over these parts, the first of which is the purpose."""
    return blake3(b"".join(parts), key=key).digest(length=TAG_BYTES)


def open_datagram(key: bytes, content: bytes) -> Message:
    """The message in a datagram. Raises `WireFormatError` when its tag is not this key's, or it is no message."""
    message, found = content[:-TAG_BYTES], content[-TAG_BYTES:]
    if tag(key, _HEARTBEAT, message) != found:
        raise WireFormatError("the tag does not fit")
    return decode_message(message)


def nonces(from_dialler: bytes, from_listener: bytes) -> bytes | None:
    """The random bytes of both sides, the dialler's first; None while one has not said them."""
    if min(len(from_dialler), len(from_listener)) < _HELLO_BYTES:
        return None
    return from_dialler[len(MAGIC) : _HELLO_BYTES] + from_listener[len(MAGIC) : _HELLO_BYTES]


def read_stream(key: bytes, content: bytes, both: bytes | None, *, from_dialler: bool) -> Iterator[Placed]:
    """The messages of one direction up to its last whole frame.

    Args:
        key: the VM's.
        content: the stream from its first byte on.
        both: the random bytes of both sides.
        from_dialler: who speaks.

    Raises:
        StreamRefusedError: it goes on with something else.
    """
    if content[: len(MAGIC)] != MAGIC[: len(content)]:
        raise StreamRefusedError(0, "it does not begin with the channel's magic")
    if both is None or len(content) < GREETING_BYTES:
        return
    if content[_HELLO_BYTES:GREETING_BYTES] != tag(key, _LOG_FRAME, both, bytes([from_dialler])):
        raise StreamRefusedError(_HELLO_BYTES, "the greeting's tag does not fit")
    direction = bytes([2 + from_dialler])
    at, number = GREETING_BYTES, 0
    while at + 4 <= len(content):
        start = at + 4
        length = int.from_bytes(content[at:start], "little")
        if not TAG_BYTES < length <= _FRAME_BYTES_MAX:
            raise StreamRefusedError(at, f"frame {number} says that it has {length} bytes")
        end = start + length
        if end > len(content):
            return
        body, found = content[start : end - TAG_BYTES], content[end - TAG_BYTES : end]
        if tag(key, _LOG_FRAME, both, direction, number.to_bytes(8, "little"), body) != found:
            raise StreamRefusedError(at, f"the tag of frame {number} does not fit")
        # What is in a guest's memory is nobody's word.
        if body[0] != _TRANSFER:
            try:
                message = _read_frame(body)
            except WireFormatError as error:
                raise StreamRefusedError(at, f"frame {number}: {error}") from error
            yield Placed(message, at, end)
        at, number = end, number + 1


def _read_frame(body: bytes) -> Message:
    if body[0] == _CONTROL:
        return decode_message(body[1:])
    if body[0] == _ENTRIES:
        return decode_entries(body[1:])
    raise WireFormatError(f"there is no kind of frame {body[0]}")
