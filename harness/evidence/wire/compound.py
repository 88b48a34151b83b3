"""COMPOUND of NFSv4.1 (RFC 8881) and 4.2 (RFC 7862): the operations that concern a file's contents, and their results.

What these say is read up to the first operation that is none of those that accompany reading, writing and opening:
there is no telling where an unknown one ends. No client asks to write behind such a one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from harness.evidence.wire.rpc import Xdr

_STATE_BYTES = 16
_VERIFIER_BYTES = 8
_UNSTABLE = 0
_CREATE = 1
_EXCLUSIVE, _EXCLUSIVE_WITH_ATTRIBUTES = 2, 3
_READ_DELEGATION, _WRITE_DELEGATION, _NO_DELEGATION_BECAUSE = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Sequence:
    """What tells a request from all others, and the same when it is sent again: session, slot and number there."""

    session: bytes
    number: int
    slot: int


@dataclass(frozen=True, slots=True)
class PutHandle:
    """Go on with this file."""

    handle: bytes


@dataclass(frozen=True, slots=True)
class Name:
    """Go on with the file of this name in the directory: LOOKUP, or OPEN by name."""

    name: bytes


@dataclass(frozen=True, slots=True)
class GetHandle:
    """Tell the handle of the file. `handle` is the answer's."""

    handle: bytes = b""


@dataclass(frozen=True, slots=True)
class Write:
    """Write these bytes: WRITE, or DEALLOCATE, which leaves zeroes."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Written:
    """The answer to it.

    Attributes:
        length: how many bytes were taken; None: all.
        verifier: the server's, for what it has not put on its disk yet; None: it has.
    """

    length: int | None = None
    verifier: bytes | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """Put on the disk what was written there; length 0: all behind the offset."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Committed:
    """The answer to it."""

    verifier: bytes


@dataclass(frozen=True, slots=True)
class Other:
    """What concerns no contents and leaves the file as it is."""


Operation = Sequence | PutHandle | Name | GetHandle | Write | Commit | Other
Result = GetHandle | Written | Committed | Other


def read_operations(reader: Xdr) -> Iterator[Operation]:
    """The operations of a COMPOUND's arguments."""
    reader.opaque()
    reader.number()
    for _ in range(reader.number()):
        make = _OPERATIONS.get(reader.number())
        if make is None:
            return
        yield make(reader)


def read_results(reader: Xdr) -> Iterator[tuple[int, Result]]:
    """The results of a COMPOUND, each with its status; the first that is not 0 is the last."""
    reader.number()
    reader.opaque()
    for _ in range(reader.number()):
        make = _RESULTS.get(reader.number())
        status = reader.number()
        if status:
            yield status, Other()
            return
        if make is None:
            return
        yield status, make(reader)


def _sequence(reader: Xdr) -> Sequence:
    session, number, slot, _, _ = reader.fixed(_STATE_BYTES), *(reader.number() for _ in range(4))
    return Sequence(session, number, slot)


def _write(reader: Xdr) -> Write:
    reader.fixed(_STATE_BYTES)
    offset, _, data = reader.long_number(), reader.number(), reader.opaque()
    return Write(offset, data)


def _deallocate(reader: Xdr) -> Write:
    reader.fixed(_STATE_BYTES)
    return Write(reader.long_number(), bytes(reader.long_number()))


def _written(reader: Xdr) -> Written:
    length, committed, verifier = reader.number(), reader.number(), reader.fixed(_VERIFIER_BYTES)
    return Written(length, verifier if committed == _UNSTABLE else None)


def _attributes(reader: Xdr) -> None:
    reader.numbers()
    reader.opaque()


def _open(reader: Xdr) -> Operation:
    reader.fixed(12)
    reader.fixed(8)
    reader.opaque()
    if reader.number() == _CREATE:
        how = reader.number()
        if how in (_EXCLUSIVE, _EXCLUSIVE_WITH_ATTRIBUTES):
            reader.fixed(_VERIFIER_BYTES)
        if how != _EXCLUSIVE:
            _attributes(reader)
    claim = reader.number()
    if claim not in _CLAIMS:
        raise ValueError(f"no file is opened by claim {claim}")
    return _CLAIMS[claim](reader)


def _delegated_name(reader: Xdr) -> Name:
    reader.fixed(_STATE_BYTES)
    return Name(reader.opaque())


def _passing(*lengths: int) -> Callable[[Xdr], Other]:
    """What consists of this many bytes."""

    def read(reader: Xdr) -> Other:
        for length in lengths:
            reader.fixed(length)
        return Other()

    return read


def _opened(reader: Xdr) -> Other:
    reader.fixed(_STATE_BYTES)
    reader.fixed(4 + 8 + 8 + 4)
    reader.numbers()
    kind = reader.number()
    if kind in (_READ_DELEGATION, _WRITE_DELEGATION):
        reader.fixed(_STATE_BYTES + 4)
        if kind == _WRITE_DELEGATION:
            reader.number()
            reader.fixed(8)  # a number of bytes, or of blocks and their size
        reader.fixed(12)
        reader.opaque()
    elif kind == _NO_DELEGATION_BECAUSE and reader.number() in (1, 2):
        reader.number()
    return Other()


def _passing_attributes(reader: Xdr) -> Other:
    _attributes(reader)
    return Other()


def _passing_numbers(reader: Xdr) -> Other:
    reader.numbers()
    return Other()


def _name(reader: Xdr) -> Name:
    return Name(reader.opaque())


_NOTHING = _passing()
_STATE = _passing(_STATE_BYTES)

# By their numbers in `nfs_opnum4` and `open_claim_type4`.
_CLAIMS: Mapping[int, Callable[[Xdr], Operation]] = {
    0: _name,
    1: _passing(4),
    2: _delegated_name,
    3: _name,
    4: _NOTHING,
    5: _STATE,
    6: _NOTHING,
}
_ACCESS, _CLOSE, _COMMIT, _RETURN_DELEGATION, _GET_ATTRIBUTES, _GET_HANDLE = 3, 4, 5, 8, 9, 10
_LOOK_UP, _LOOK_UP_PARENT, _OPEN, _PUT_HANDLE, _PUT_ROOT_HANDLE, _READ = 15, 16, 18, 22, 24, 25
_RESTORE_HANDLE, _SAVE_HANDLE, _SET_ATTRIBUTES, _WRITE, _SEQUENCE, _DEALLOCATE = 31, 32, 34, 38, 53, 62


def _read(reader: Xdr) -> Other:
    reader.number()
    reader.opaque()
    return Other()


def _set_attributes(reader: Xdr) -> Other:
    reader.fixed(_STATE_BYTES)
    return _passing_attributes(reader)


_OPERATIONS: Mapping[int, Callable[[Xdr], Operation]] = {
    _ACCESS: _passing(4),
    _CLOSE: _passing(4, _STATE_BYTES),
    _COMMIT: lambda reader: Commit(reader.long_number(), reader.number()),
    _RETURN_DELEGATION: _STATE,
    _GET_ATTRIBUTES: _passing_numbers,
    _GET_HANDLE: lambda reader: GetHandle(),
    _LOOK_UP: _name,
    _LOOK_UP_PARENT: lambda reader: Name(b".."),
    _OPEN: _open,
    _PUT_HANDLE: lambda reader: PutHandle(reader.opaque()),
    _PUT_ROOT_HANDLE: lambda reader: PutHandle(b""),
    _READ: _passing(_STATE_BYTES, 8, 4),
    _RESTORE_HANDLE: lambda reader: PutHandle(b""),
    _SAVE_HANDLE: _NOTHING,
    _SET_ATTRIBUTES: _set_attributes,
    _WRITE: _write,
    _SEQUENCE: _sequence,
    _DEALLOCATE: _deallocate,
}
_RESULTS: Mapping[int, Callable[[Xdr], Result]] = {
    _ACCESS: _passing(8),
    _CLOSE: _STATE,
    _COMMIT: lambda reader: Committed(reader.fixed(_VERIFIER_BYTES)),
    _RETURN_DELEGATION: _NOTHING,
    _GET_ATTRIBUTES: _passing_attributes,
    _GET_HANDLE: lambda reader: GetHandle(reader.opaque()),
    _LOOK_UP: _NOTHING,
    _LOOK_UP_PARENT: _NOTHING,
    _OPEN: _opened,
    _PUT_HANDLE: _NOTHING,
    _PUT_ROOT_HANDLE: _NOTHING,
    _READ: _read,
    _RESTORE_HANDLE: _NOTHING,
    _SAVE_HANDLE: _NOTHING,
    _SET_ATTRIBUTES: _passing_numbers,
    _WRITE: _written,
    _SEQUENCE: _passing(_STATE_BYTES, 20),
    _DEALLOCATE: lambda reader: Written(),
}
