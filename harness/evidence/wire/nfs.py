"""The writes that came to the storage host where it serves the disk by NFSv4, read off the FT hosts' connections.

A connection may have begun before the captures: the machines start from a snapshot in which it was there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from harness.evidence.capture import Direction
from harness.evidence.digest import digest
from harness.evidence.json_lines import EvidenceError
from harness.evidence.wire.compound import (
    Commit,
    Committed,
    GetHandle,
    Name,
    Operation,
    Other,
    PutHandle,
    Result,
    Sequence,
    Write,
    Written,
    read_operations,
    read_results,
)
from harness.evidence.wire.packets import segments
from harness.evidence.wire.rpc import open_call, open_reply, read_records
from harness.evidence.wire.storage import StorageWrite
from harness.evidence.wire.streams import Connection, Reassembly
from harness.evidence.wire.wire import Frames, address_of, host_at
from harness.lab import topology

NFS_PORT = 2049
_PROGRAM, _VERSION, _COMPOUND = 100003, 4, 1
_IMAGE = PurePosixPath(topology.STORAGE_IMAGE).name.encode()
_EIO = 5


@dataclass(frozen=True, slots=True)
class _Compound:
    """A request and its answer. `answered_ns` None: there was none; its last result alone can have failed."""

    host: str
    asked_ns: int
    operations: tuple[Operation, ...]
    answered_ns: int | None = None
    results: tuple[tuple[int, Result], ...] = ()

    @property
    def sequence(self) -> Sequence | None:
        """What tells it from all others."""
        first = self.operations[0] if self.operations else None
        return first if isinstance(first, Sequence) else None

    @property
    def is_taken(self) -> bool:
        """Whether the server said that it has begun with it."""
        return bool(self.results) and self.results[0][0] == 0


@dataclass(frozen=True, slots=True)
class _Step:
    """One operation of a request: on which file, and what became of it; `result` None: nobody said."""

    compound: _Compound
    handle: bytes
    name: bytes
    operation: Operation
    status: int
    result: Result | None

    @property
    def done_ns(self) -> int | None:
        """When the answer left that it had been done; None: it was not."""
        return None if self.status or self.result is None else self.compound.answered_ns


def read_nfs_writes(frames: Frames) -> list[StorageWrite]:
    """All writes to the disk's image in the order in which they came.

    The arbiter's records are reached at another address. Of what is written at the disk's own, the image is told by its
    name, where a host looked it up or opened it by that, else by being the only file.

    Raises:
        EvidenceError: a connection is not understood, or there is no telling which file is the image.
    """
    here = topology.STORAGE_PLAN
    address = address_of(here.address(topology.STORAGE))
    reassembly = Reassembly(NFS_PORT, joins=True)
    for direction in Direction:
        found = segments(frames(topology.STORAGE, here.name, direction), NFS_PORT)
        reassembly.add(found, address, sent=direction is Direction.SENT)
    compounds: list[_Compound] = []
    for connection in reassembly.connections:
        try:
            compounds += _read_connection(connection)
        except ValueError as error:
            raise EvidenceError(f"the disk's connection {connection} is not understood: {error}") from error
    steps = [step for compound in _without_repetitions(compounds) for step in _steps(compound)]
    images = _image_handles(steps)
    commits = [step for step in steps if isinstance(step.operation, Commit)]
    return [
        _storage_write(step, step.operation, commits)
        for step in steps
        if isinstance(step.operation, Write) and step.handle in images
    ]


def _read_connection(connection: Connection) -> Iterator[_Compound]:
    """The requests of the dialler. The server asks too (callbacks), and has its answers on the same connection."""
    asked, answered = connection.from_dialler, connection.from_listener
    replies = {
        record.call: record
        for record in read_records(answered.content, is_joined=connection.is_joined)
        if record.is_reply
    }
    for record in read_records(asked.content, is_joined=connection.is_joined):
        arguments = None if record.is_reply else open_call(record, _PROGRAM, _VERSION, _COMPOUND)
        if arguments is None:
            continue
        asked_ns = asked.arrived_ns(record.end)
        assert asked_ns is not None, "only what had come was read"
        request = _Compound(host_at(connection.dialler), asked_ns, tuple(read_operations(arguments)))
        if reply := replies.get(record.call):
            results = open_reply(reply)
            yield replace(
                request,
                answered_ns=answered.left_ns(reply.start, reply.end),
                results=((_EIO, Other()),) if results is None else tuple(read_results(results)),
            )
        else:
            yield request


def _without_repetitions(compounds: Iterable[_Compound]) -> list[_Compound]:
    """Each request once, as it came first and was answered first: on a new connection it may come again."""
    first: dict[Sequence, int] = {}
    found: list[_Compound] = []
    for one in sorted(compounds, key=lambda one: one.asked_ns):
        sequence = one.sequence
        if sequence is None or sequence not in first:
            if sequence is not None:
                first[sequence] = len(found)
            found.append(one)
        elif not found[first[sequence]].is_taken:
            at = first[sequence]
            found[at] = replace(found[at], answered_ns=one.answered_ns, results=one.results)
    return found


def _steps(compound: _Compound) -> Iterator[_Step]:
    handle = name = b""
    for number, operation in enumerate(compound.operations):
        status, result = 0, None
        if number < len(compound.results):
            status, result = compound.results[number]
        elif compound.results:
            status = compound.results[-1][0]  # an operation before it has failed
        if isinstance(operation, PutHandle):
            handle, name = operation.handle, b""
        elif isinstance(operation, Name):
            handle, name = b"", operation.name
        elif isinstance(result, GetHandle):
            handle = result.handle
        yield _Step(compound, handle, name, operation, status, result)


def _image_handles(steps: Iterable[_Step]) -> set[bytes]:
    """The handles of the image, which are the same for all hosts."""
    named, written = set(), set()
    for step in steps:
        if isinstance(step.operation, GetHandle) and step.name == _IMAGE and step.done_ns is not None:
            named.add(step.handle)
        elif isinstance(step.operation, Write):
            written.add(step.handle)
    if not named and len(written) > 1:
        raise EvidenceError(f"{len(written)} files are written at the disk's address, and none is told to be the image")
    return named or written


def _storage_write(step: _Step, write: Write, commits: Iterable[_Step]) -> StorageWrite:
    result, data = step.result, write.data
    answered_ns = step.compound.answered_ns
    if isinstance(result, Written):
        data = data[: result.length]
        if result.verifier is not None:
            answered_ns = _committed_ns(step, write.offset, write.offset + len(data), result.verifier, commits)
    return StorageWrite(
        host=step.compound.host,
        offset=write.offset,
        length=len(data),
        digest=digest(data),
        data=data,
        asked_ns=step.compound.asked_ns,
        answered_ns=answered_ns,
        error=step.status,
    )


def _committed_ns(step: _Step, start: int, end: int, verifier: bytes, commits: Iterable[_Step]) -> int | None:
    """When the answer left that these bytes, taken before, are on the server's disk; None when it never did."""
    written_ns = step.compound.answered_ns
    for one in commits:
        commit, result = one.operation, one.result
        if not isinstance(commit, Commit) or not isinstance(result, Committed) or result.verifier != verifier:
            continue
        covers = commit.offset <= start and (not commit.length or end <= commit.offset + commit.length)
        is_later = written_ns is not None and one.compound.asked_ns > written_ns
        if covers and is_later and one.handle == step.handle and one.done_ns is not None:
            return one.done_ns
    return None
