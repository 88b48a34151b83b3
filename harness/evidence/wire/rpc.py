"""ONC RPC over TCP (RFC 5531): records, calls and replies, and the reader of XDR (RFC 4506) for what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_LAST_FRAGMENT = 0x80000000
# The largest read or write of Linux is 1 MiB.
_FRAGMENT_BYTES_MAX = 2 << 20
_CALL, _REPLY = 0, 1
_VERSION = 2
_ACCEPTED = _SUCCESS = 0


class Xdr:
    """Reads one value after the other. Raises `ValueError` behind the end."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def fixed(self, length: int) -> bytes:
        """Opaque bytes of a known length, filled up to a multiple of four."""
        start, end = self._at, self._at + length
        self._at = end + -length % 4
        if self._at > len(self._content):
            raise ValueError(f"{len(self._content)} bytes end within a value at byte {start}")
        return self._content[start:end]

    def number(self) -> int:
        """An unsigned integer, an enumeration or a boolean."""
        return int.from_bytes(self.fixed(4), "big")

    def long_number(self) -> int:
        """An unsigned hyper integer."""
        return int.from_bytes(self.fixed(8), "big")

    def opaque(self) -> bytes:
        """Opaque bytes or a string, with their length in front."""
        return self.fixed(self.number())

    def numbers(self) -> list[int]:
        """An array of unsigned integers, such as a bitmap."""
        return [self.number() for _ in range(self.number())]


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a stream, from its first byte up to `end`. `body` is what follows the number of the call."""

    start: int
    end: int
    call: int
    is_reply: bool
    body: bytes


def read_records(content: bytes, *, is_joined: bool) -> Iterator[Record]:
    """The records of one direction up to the last whole one.

    Args:
        content: the stream.
        is_joined: it may begin within a record, which is then passed over.

    Raises:
        ValueError: it goes on with something else.
    """
    at = _first_record(content) if is_joined else 0
    while at + 4 <= len(content):
        start, parts, is_last = at, [], False
        while not is_last:
            mark = int.from_bytes(content[at : at + 4], "big")
            length, is_last = mark & ~_LAST_FRAGMENT, bool(mark & _LAST_FRAGMENT)
            if at + 4 + length > len(content):
                if length > _FRAGMENT_BYTES_MAX:
                    raise ValueError(f"no record at byte {at}")
                return
            parts.append(content[at + 4 : at + 4 + length])
            at += 4 + length
            if at + 4 > len(content) and not is_last:
                return
        reader = Xdr(b"".join(parts))
        call, kind = reader.number(), reader.number()
        if kind not in (_CALL, _REPLY):
            raise ValueError(f"no call and no reply at byte {start}")
        yield Record(start, at, call, kind == _REPLY, b"".join(parts)[8:])


def _first_record(content: bytes) -> int:
    """Where the first record begins whose head is one; the end where there is none."""
    return next((at for at in range(len(content) - 15) if _is_head(content[at : at + 16])), len(content))


def _is_head(head: bytes) -> bool:
    mark, _, kind, word = (int.from_bytes(head[at : at + 4], "big") for at in (0, 4, 8, 12))
    fits = 16 <= mark - _LAST_FRAGMENT <= _FRAGMENT_BYTES_MAX
    return fits and ((kind == _CALL and word == _VERSION) or (kind == _REPLY and word <= 1))


def open_call(record: Record, program: int, version: int, procedure: int) -> Xdr | None:
    """The arguments of a call; None where it is a call of something else."""
    reader = Xdr(record.body)
    if [reader.number() for _ in range(4)] != [_VERSION, program, version, procedure]:
        return None
    _pass_authentication(reader)
    _pass_authentication(reader)
    return reader


def open_reply(record: Record) -> Xdr | None:
    """The results in a reply; None where the call was not carried out."""
    reader = Xdr(record.body)
    if reader.number() != _ACCEPTED:
        return None
    _pass_authentication(reader)
    return reader if reader.number() == _SUCCESS else None


def _pass_authentication(reader: Xdr) -> None:
    reader.number()
    reader.opaque()
