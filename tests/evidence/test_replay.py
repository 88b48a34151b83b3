"""Logs are put together from what came, what was sent and what was recorded; recordings are read as they were left."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from pathlib import Path

import pytest
from blake3 import blake3

from harness.evidence.json_lines import EvidenceError
from harness.evidence.recording import Recording, read_recordings, write_log
from harness.evidence.replay import assemble, disagreement
from harness.evidence.wire.messages import LogEntry, decode_entry
from tests.evidence.test_wire_page import example

END = b"\2" + bytes(49)


def entry(position: int, value: int = 0) -> LogEntry:
    """An RDTSC that was answered with a value."""
    body = struct.pack("<Q16sBQ", position, bytes(16), 6, value)
    return decode_entry(struct.pack("<I", len(body)) + blake3(body).digest(length=4) + body)


def by_position(entries: Iterable[LogEntry]) -> dict[int, LogEntry]:
    return {one.position: one for one in entries}


def header(image: str = "kv.hvt") -> bytes:
    body = json.dumps({"image_path": f"/somewhere/{image}"}).encode()
    fixed = b"FTVMLOG\0" + struct.pack("<II", 2, len(body)) + body
    return fixed + blake3(fixed).digest(length=4)


def recording(entries: Iterable[LogEntry], end: bytes = b"") -> Recording:
    return Recording("host-b", "b" * 16, header(), list(entries), end)


def test_a_first_owner_recorded_everything() -> None:
    entries = [entry(position) for position in range(1, 9)]
    assert assemble(recording(entries), by_position(entries[:5]), {}) == entries


def test_a_recording_that_came_to_its_greatest_size_goes_on_with_what_was_sent() -> None:
    entries = [entry(position) for position in range(1, 9)]
    assert assemble(recording(entries[:4]), by_position(entries[2:7]), {}) == entries[:7]


def test_a_survivor_took_what_came_before_its_own_first() -> None:
    arrived = [entry(position, 7) for position in range(1, 7)]
    own = [entry(position, 8) for position in range(5, 9)]
    log = assemble(recording(own), {}, by_position(arrived))
    assert log == [*arrived[:4], *own], "what came behind its closed log was not taken"


def test_a_survivor_that_answered_nothing_has_what_came() -> None:
    arrived = [entry(position) for position in (1, 2, 3, 5)]
    assert assemble(recording([]), {}, by_position(arrived)) == arrived[:3]


def test_a_log_with_a_hole_is_no_evidence() -> None:
    arrived = [entry(position) for position in (1, 2, 4)]
    with pytest.raises(EvidenceError, match="host-b has no entry 3"):
        assemble(recording([entry(5)]), {}, by_position(arrived))


def test_who_sends_otherwise_than_it_records_is_told() -> None:
    entries = [entry(position) for position in range(1, 4)]
    assert disagreement(recording(entries), by_position(entries[1:])) is None
    told = disagreement(recording(entries), by_position([entry(2, 99)]))
    assert told is not None
    assert "entry 2" in told


def write(directory: Path, content: bytes) -> Path:
    path = directory / "hosts" / "host-b" / f"recorded-{'b' * 16}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_recording_is_read_as_it_was_left(tmp_path: Path) -> None:
    entries = [entry(position) for position in range(4, 7)]
    path = write(tmp_path, b"")
    write_log(path, header(), entries, END)
    assert read_recordings(tmp_path) == [recording(entries, END)]
    whole = path.read_bytes()
    for missing in range(1, len(END)):
        write(tmp_path, whole[:-missing])
        assert read_recordings(tmp_path) == [recording(entries)]
    for missing in range(len(END) + 1, len(END) + 1 + len(entries[-1].encoded)):
        write(tmp_path, whole[:-missing])
        assert read_recordings(tmp_path) == [recording(entries[:-1])]
    assert recording([]).image_name == "kv.hvt"


def test_a_recording_ends_where_the_power_took_the_rest_of_a_block(tmp_path: Path) -> None:
    """A file system had the file's length on disk, and not the last bytes of a block."""
    entries = [entry(position) for position in range(1, 301)]
    path = write(tmp_path, b"")
    write_log(path, header(), entries, b"")
    whole = path.read_bytes()
    size = (len(whole) - len(header())) // len(entries)
    for written in range(4096 - 2 * size, 4096):
        kept = (written - len(header())) // size
        for block_end in (4096, len(whole)):
            write(tmp_path, whole[:written] + bytes(block_end - written) + whole[block_end:])
            (left,) = read_recordings(tmp_path)
            assert left.entries[:kept] == entries[:kept]
            # Where the bytes that were lost are zeros themselves, nothing was.
            assert len(left.entries) in (kept, kept + 1, len(entries))


def test_the_log_file_of_the_page_is_read(tmp_path: Path) -> None:
    write(tmp_path, example("log-file"))
    (one,) = read_recordings(tmp_path)
    assert (one.image_name, [each.position for each in one.entries], len(one.end)) == ("image.hvt", [1], 50)


def test_a_damaged_recording_is_no_evidence(tmp_path: Path) -> None:
    path = write(tmp_path, b"")
    write_log(path, header(), [entry(1), entry(2)], END)
    whole = path.read_bytes()
    bad = [b"", whole[:10], whole[:30], whole + b"?", whole[: -len(END)] + b"?"]
    bad += [bytes([*whole[:at], whole[at] ^ 1, *whole[at + 1 :]]) for at in (0, 8, 20, len(header()) + 20)]
    for content in bad:
        write(tmp_path, content)
        with pytest.raises(EvidenceError, match="no log"):
            read_recordings(tmp_path)
    write_log(path, header(), [entry(1), entry(3)], b"")
    with pytest.raises(EvidenceError, match="entry 3 follows entry 1"):
        read_recordings(tmp_path)
