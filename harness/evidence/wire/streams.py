"""TCP put together again: the bytes of each direction of a connection, and when each of them passed a port."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from harness.evidence.wire.packets import ACK, SYN, Segment

_MODULUS = 1 << 32


class Stream:
    """One direction of a connection at one port.

    Args:
        first: the sequence number of its first byte.
    """

    def __init__(self, first: int) -> None:
        self.content = bytearray()
        self.first = first
        # Runs of bytes in order: where each ends, when it passed, and when everything up to it had.
        self._ends: list[int] = []
        self._passed_ns: list[int] = []
        self._contiguous_ns: list[int] = []
        # What has passed behind a gap: offset, stamp, bytes; in order, none overlaps another.
        self._waiting: list[tuple[int, int, bytes]] = []

    def add(self, sequence: int, payload: bytes, wall_ns: int) -> None:
        """Take the next segment in order of time; of bytes that come again the first count, as for a receiver."""
        known = len(self.content)
        offset = _offset(sequence, self.first, known)
        if offset + len(payload) <= known:
            return
        if offset < known:
            offset, payload = known, payload[known - offset :]
        if offset == known and not self._waiting:
            self._append(payload, wall_ns, wall_ns)
            return
        self._hold(offset, payload, wall_ns)
        while self._waiting and self._waiting[0][0] == len(self.content):
            _, held_ns, held = self._waiting.pop(0)
            self._append(held, held_ns, wall_ns)

    def _append(self, payload: bytes, passed_ns: int, contiguous_ns: int) -> None:
        self.content += payload
        self._ends.append(len(self.content))
        self._passed_ns.append(passed_ns)
        self._contiguous_ns.append(contiguous_ns)

    def _hold(self, offset: int, payload: bytes, wall_ns: int) -> None:
        at, end = offset, offset + len(payload)
        pieces = []
        for held_offset, _, held in self._waiting:
            if held_offset >= end or at >= end:
                break
            if held_offset > at:
                pieces.append((at, wall_ns, payload[at - offset : held_offset - offset]))
            at = max(at, held_offset + len(held))
        if at < end:
            pieces.append((at, wall_ns, payload[at - offset :]))
        for piece in pieces:
            insort(self._waiting, piece)

    def passed_ns(self, start: int, end: int) -> int | None:
        """When the last of these bytes passed for the first time; None when not all have, or some only behind a gap."""
        if end > len(self.content):
            return None
        first, last = bisect_left(self._ends, start + 1), bisect_left(self._ends, end)
        return max(self._passed_ns[first : last + 1])

    def contiguous_ns(self, end: int) -> int | None:
        """When everything up to this byte had passed; None when it has not."""
        return self._contiguous_ns[bisect_left(self._ends, end)] if end <= len(self.content) else None


def _offset(sequence: int, first: int, near: int) -> int:
    """Where in a stream a byte is. Sequence numbers wrap: the place nearest to `near` is meant."""
    distance = (sequence - first - near) % _MODULUS
    return near + (distance - _MODULUS if distance >= _MODULUS // 2 else distance)


@dataclass
class Way:
    """One direction of a connection, at the port that it leaves by and at the one that it arrives by.

    Attributes:
        leaving, arriving: what passed the ports.
        acknowledged: the next byte that the receiver's TCP asked for, as a sequence number, and when; in order of time.
    """

    leaving: Stream | None = None
    arriving: Stream | None = None
    acknowledged: list[tuple[int, int]] = field(default_factory=list)

    @property
    def content(self) -> bytes:
        """All that passed one of the two."""
        return bytes(max((one.content for one in (self.leaving, self.arriving) if one), key=len, default=b""))

    @property
    def is_consistent(self) -> bool:
        """Whether both ports saw the same bytes, as far as both did."""
        if self.leaving is None or self.arriving is None:
            return True
        length = min(len(self.leaving.content), len(self.arriving.content))
        return self.leaving.content[:length] == self.arriving.content[:length]

    def left_ns(self, start: int, end: int) -> int | None:
        """When the last of these bytes had left."""
        return self.leaving.passed_ns(start, end) if self.leaving else None

    def arrived_ns(self, end: int) -> int | None:
        """When everything up to this byte had arrived, by the port or by what the receiver's TCP says, which is later.

        A port can miss a frame. And the segment that answers some bytes acknowledges them: so no difference between two
        processors' clocks makes an answer come before its question.
        """
        found = [self.arriving.contiguous_ns(end) if self.arriving else None]
        ends, times_ns = self._confirmed
        if (at := bisect_left(ends, end)) < len(ends):
            found.append(times_ns[at])
        return min((one for one in found if one is not None), default=None)

    @cached_property
    def _confirmed(self) -> tuple[list[int], list[int]]:
        """How far the stream had come, in ascending order, and when the receiver's TCP first said so."""
        ends: list[int] = []
        times_ns: list[int] = []
        stream, reached = self.arriving or self.leaving, 0
        for number, at_ns in self.acknowledged if stream else ():
            assert stream is not None
            end = _offset(number, stream.first, reached)
            if end > reached:
                ends.append(reached := end)
                times_ns.append(at_ns)
        return ends, times_ns


@dataclass
class Connection:
    """One TCP connection. Addresses are IPv4, 4 bytes each; the dialler is who sent the SYN.

    `is_joined`: its beginning was not captured, and each stream begins with the first segment that was.
    """

    dialler: bytes
    dialler_port: int
    listener: bytes
    start_ns: int
    is_joined: bool = False
    from_dialler: Way = field(default_factory=Way)
    from_listener: Way = field(default_factory=Way)

    def __str__(self) -> str:
        dialler, listener = (".".join(map(str, address)) for address in (self.dialler, self.listener))
        return f"{dialler}:{self.dialler_port} to {listener}"


class Reassembly:
    """Puts together all connections to one port of the listeners, from any number of captures.

    Args:
        port: the listeners'.
        joins: whether connections that had begun before the captures are put together too.
    """

    def __init__(self, port: int, *, joins: bool = False) -> None:
        self._port = port
        self._joins = joins
        # By the dialler's end, the listener and the number of the SYN; None where it was not captured.
        self._connections: dict[tuple[bytes, int, bytes, int | None], Connection] = {}
        # Segments of connections whose beginning was not captured.
        self.headless = 0

    @property
    def connections(self) -> list[Connection]:
        """In the order in which they began."""
        return sorted(self._connections.values(), key=lambda one: one.start_ns)

    def add(self, found: Iterable[Segment], address: bytes, *, sent: bool) -> None:
        """Take what one host, of this address, sent or received; in order of time, and once only."""
        streams: dict[tuple[bytes, int, bytes, int], tuple[Stream, Way]] = {}
        for segment in found:
            if (segment.source if sent else segment.destination) != address:
                continue  # flooded by the switch, or sent under another's address
            key = segment.source, segment.source_port, segment.destination, segment.destination_port
            if segment.flags & SYN:
                opened = self._open(segment, sent=sent)
                if opened is not None:
                    streams[key] = opened
                continue
            if segment.payload and key not in streams:
                if not self._joins:
                    self.headless += 1
                    continue
                streams[key] = self._join(segment, sent=sent)
            if key not in streams:
                continue
            stream, answers = streams[key]
            if segment.payload:
                stream.add(segment.sequence, segment.payload, segment.wall_ns)
            if sent and segment.flags & ACK:
                answers.acknowledged.append((segment.acknowledged, segment.wall_ns))

    def _open(self, segment: Segment, *, sent: bool) -> tuple[Stream, Way] | None:
        """The stream that begins with this SYN, and the way of what it answers; None: no connection to the port."""
        from_dialler = not segment.flags & ACK
        if from_dialler:
            if segment.destination_port != self._port:
                return None
            key = segment.source, segment.source_port, segment.destination, segment.sequence
        else:
            if segment.source_port != self._port:
                return None
            number = (segment.acknowledged - 1) % _MODULUS
            key = segment.destination, segment.destination_port, segment.source, number
        connection = self._connections.setdefault(key, Connection(key[0], key[1], key[2], segment.wall_ns))
        first = (segment.sequence + 1) % _MODULUS
        return _stream(connection, first, segment.wall_ns, from_dialler=from_dialler, sent=sent)

    def _join(self, segment: Segment, *, sent: bool) -> tuple[Stream, Way]:
        """The stream that goes on with this segment, and the way of what it answers."""
        from_dialler = segment.destination_port == self._port
        ends = (segment.source, segment.source_port), (segment.destination, segment.destination_port)
        (address, port), (listener, _) = ends if from_dialler else ends[::-1]
        new = Connection(address, port, listener, segment.wall_ns, is_joined=True)
        connection = self._connections.setdefault((address, port, listener, None), new)
        return _stream(connection, segment.sequence, segment.wall_ns, from_dialler=from_dialler, sent=sent)


def _stream(connection: Connection, first: int, wall_ns: int, *, from_dialler: bool, sent: bool) -> tuple[Stream, Way]:
    """The stream of a connection that a segment belongs to, and the other way; a new stream begins at byte `first`."""
    connection.start_ns = min(connection.start_ns, wall_ns)
    way, answers = connection.from_dialler, connection.from_listener
    if not from_dialler:
        way, answers = answers, way
    # A SYN that is sent again begins nothing new.
    if sent:
        way.leaving = way.leaving or Stream(first)
        return way.leaving, answers
    way.arriving = way.arriving or Stream(first)
    return way.arriving, answers
