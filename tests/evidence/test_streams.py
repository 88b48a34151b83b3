"""TCP put together again, however it was cut, lost, repeated and overtaken."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as some

from harness.evidence.wire.packets import ACK, SYN, Segment
from harness.evidence.wire.streams import Reassembly, Stream

MODULUS = 1 << 32
DIALLER, LISTENER = bytes([10, 1, 0, 11]), bytes([10, 1, 0, 12])


@dataclass(frozen=True)
class Passing:
    """Some bytes of a stream on their way past the port."""

    offset: int
    length: int


@some.composite
def passings(draw: some.DrawFn) -> tuple[bytes, list[Passing]]:
    """A stream and pieces of it, any of them missing, repeated, overlapping or out of order."""
    content = draw(some.binary(min_size=1, max_size=60))
    offsets = some.integers(0, len(content) - 1)
    pieces = draw(some.lists(some.builds(Passing, offsets, some.integers(1, 20)), max_size=30))
    return content, [Passing(one.offset, min(one.length, len(content) - one.offset)) for one in pieces]


@given(passings(), some.integers(0, MODULUS - 1))
def test_each_byte_has_the_time_of_its_first_passing(run: tuple[bytes, list[Passing]], first: int) -> None:
    content, pieces = run
    stream = Stream(first)
    passed_ns: dict[int, int] = {}
    contiguous_ns: list[int] = []
    for wall_ns, piece in enumerate(pieces, 1000):
        end = piece.offset + piece.length
        stream.add((first + piece.offset) % MODULUS, content[piece.offset : end], wall_ns)
        for at in range(piece.offset, end):
            passed_ns.setdefault(at, wall_ns)
        while len(contiguous_ns) in passed_ns:
            contiguous_ns.append(wall_ns)
    assert stream.content == content[: len(contiguous_ns)]
    for end in range(1, len(content) + 1):
        whole = end <= len(contiguous_ns)
        assert stream.contiguous_ns(end) == (contiguous_ns[end - 1] if whole else None)
        for start in range(end):
            expected = max(passed_ns[at] for at in range(start, end)) if whole else None
            assert stream.passed_ns(start, end) == expected


@given(some.lists(some.integers(1, 1 << 20), min_size=1, max_size=8), some.integers(0, MODULUS - 1))
def test_sequence_numbers_wrap(lengths: list[int], first: int) -> None:
    stream, sent = Stream(first), 0
    for wall_ns, length in enumerate(lengths, 1):
        stream.add((first + sent) % MODULUS, bytes([wall_ns]) * length, wall_ns)
        sent += length
        stream.add((first + sent - 1) % MODULUS, b"?", wall_ns)  # a keep-alive says a byte again
        assert len(stream.content) == sent
    assert stream.content == b"".join(bytes([at]) * length for at, length in enumerate(lengths, 1))


def test_a_byte_that_was_said_twice_counts_as_it_was_said_first() -> None:
    stream = Stream(100)
    stream.add(102, b"CD", 1)
    stream.add(101, b"bcde", 2)
    stream.add(100, b"a", 3)
    assert bytes(stream.content) == b"abCDe"
    assert (stream.passed_ns(2, 4), stream.passed_ns(4, 5), stream.contiguous_ns(1)) == (1, 2, 3)


def segment(
    *, back: bool, sequence: int, wall_ns: int, payload: bytes = b"", flags: int = ACK, ack: int = 0
) -> Segment:
    ends = (LISTENER, 7001, DIALLER, 40000) if back else (DIALLER, 40000, LISTENER, 7001)
    return Segment(*ends, sequence, ack, flags, payload, wall_ns)


def test_a_port_number_that_is_used_again_begins_another_connection() -> None:
    reassembly = Reassembly(7001)
    said = [
        segment(back=False, sequence=9, wall_ns=1, flags=SYN),
        segment(back=False, sequence=9, wall_ns=2, flags=SYN),
        segment(back=False, sequence=10, wall_ns=3, payload=b"one"),
        segment(back=False, sequence=500, wall_ns=10, flags=SYN),
        segment(back=False, sequence=501, wall_ns=11, payload=b"two"),
    ]
    heard = [
        segment(back=True, sequence=70, wall_ns=2, flags=SYN | ACK, ack=10),
        segment(back=True, sequence=71, wall_ns=4, payload=b"yes"),
        segment(back=True, sequence=5, wall_ns=12, flags=SYN | ACK, ack=501),
        segment(back=True, sequence=6, wall_ns=13, payload=b"no"),
    ]
    reassembly.add(said, DIALLER, sent=True)
    reassembly.add(heard, DIALLER, sent=False)
    first, second = reassembly.connections
    assert (first.from_dialler.content, first.from_listener.content) == (b"one", b"yes")
    assert (second.from_dialler.content, second.from_listener.content) == (b"two", b"no")
    assert (first.from_dialler.left_ns(0, 3), first.from_listener.arrived_ns(3)) == (3, 4)
    assert first.from_dialler.arrived_ns(3) is None, "nobody looked at the other port"
    assert (first.start_ns, second.start_ns, reassembly.headless) == (1, 10, 0)


def test_what_began_before_the_capture_is_told() -> None:
    reassembly = Reassembly(7001)
    reassembly.add([segment(back=False, sequence=10, wall_ns=3, payload=b"one")], DIALLER, sent=True)
    assert (reassembly.connections, reassembly.headless) == ([], 1)
