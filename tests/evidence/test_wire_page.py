"""docs/wire.md's examples, read by the harness's own decoders: the page and the reader agree byte for byte."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest

from harness.evidence.wire.channel import StreamRefusedError, nonces, open_datagram, read_stream
from harness.evidence.wire.messages import (
    Answer,
    Commit,
    Entries,
    Farewell,
    HandOver,
    Heartbeat,
    Hello,
    Terms,
    Welcome,
    WireFormatError,
    decode_entry,
    decode_message,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "wire.md"
KEY = bytes(range(32))
HOST = b"AuthenticAMD".hex() + "100fa000" + "0204"
TERMS = Terms("dd" * 32, 2, HOST, 50_000_000, 100_000_000, 150_000_000, 1_000_000_000, 2_000_000_000, 50_000_000, 1000)


def example(name: str) -> bytes:
    """The bytes of one example."""
    found = re.search(rf"```hex {name}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found, f"the page has no example {name}"
    return bytes.fromhex("".join(line.partition("#")[0] for line in found[1].splitlines()))


DIALLER = example("greeting-dialler") + example("frames-dialler")
LISTENER = example("greeting-listener") + example("frame-listener")
BOTH = nonces(DIALLER, LISTENER)


def test_the_frames_of_the_page_are_read() -> None:
    commit, entries = read_stream(KEY, DIALLER, BOTH, from_dialler=True)
    (answer,) = read_stream(KEY, LISTENER, BOTH, from_dialler=False)
    assert commit.message.body == Commit(position=0, released=0)
    assert (commit.message.sequence, commit.message.stamp_ns) == (2, 5_000_000_000)
    assert (commit.message.generation, commit.message.incarnation) == (1, "1122334455667788")
    assert isinstance(entries.message.body, Entries)
    assert (entries.message.body.first, entries.message.body.through) == (2, 3)
    assert (entries.message.body.released, entries.message.body.fingerprint) == (1, "f1" * 16)
    assert [entry.position for entry in entries.message.body.entries] == [2, 3]
    assert [entry.kind for entry in entries.message.body.entries] == [2, 4]
    assert entries.end == len(DIALLER)
    assert answer.message.body == Answer(stored=3, replayed=2, released=1, lacks=4)
    assert answer.message.echo_ns == 7_000_000_000


def test_the_messages_of_the_page_are_read() -> None:
    assert open_datagram(KEY, example("datagram")).body == Heartbeat(released=1, fingerprint="f1" * 16)
    assert decode_message(example("message-hello")).body == Hello("0" * 16, TERMS)
    assert decode_message(example("message-welcome")).body == Welcome(0, 0, TERMS)
    assert decode_message(example("message-hand-over")).body == HandOver(3, 1, "f1" * 16)
    assert decode_message(example("message-farewell")).body == Farewell(-1)


def test_the_entries_of_the_page_are_read() -> None:
    content, at = example("entries"), 0
    kinds: list[int] = []
    while at < len(content):
        end = at + 8 + int.from_bytes(content[at : at + 4], "little")
        entry = decode_entry(content[at:end])
        assert entry.position == len(kinds) + 1
        assert entry.fingerprint == f"{entry.position:02x}" * 16
        kinds.append(entry.kind)
        at = end
    assert kinds == [1, 2, 3, 4, 5, 6, 7, 8, 3]


def test_no_flipped_bit_of_a_stream_passes() -> None:
    for place in range(len(DIALLER)):
        broken = bytearray(DIALLER)
        broken[place] ^= 0x10
        read = []
        with contextlib.suppress(StreamRefusedError):
            for placed in read_stream(KEY, bytes(broken), nonces(bytes(broken), LISTENER), from_dialler=True):
                read.append(placed)
        # Refused there, or a frame that is longer now never ends.
        assert all(placed.end <= place for placed in read)


def test_an_echo_another_connection_and_another_key_are_refused() -> None:
    for key, content, both, from_dialler in (
        (KEY, LISTENER, BOTH, True),
        (KEY, DIALLER, nonces(DIALLER, DIALLER), True),
        (bytes(32), DIALLER, BOTH, True),
    ):
        with pytest.raises(StreamRefusedError, match="greeting"):
            list(read_stream(key, content, both, from_dialler=from_dialler))


def test_no_flipped_bit_of_a_datagram_passes() -> None:
    for bit in range(8 * len(example("datagram"))):
        broken = bytearray(example("datagram"))
        broken[bit // 8] ^= 1 << bit % 8
        with pytest.raises(WireFormatError, match="tag"):
            open_datagram(KEY, bytes(broken))
