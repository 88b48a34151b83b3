"""What a real pair says is read off the captures, nothing left over and nothing missing."""

from __future__ import annotations

import dataclasses
import shutil
from collections import defaultdict
from pathlib import Path

import pytest
from blake3 import blake3

from fault_injectors.host import PowerOff
from harness.evidence.digest import digest
from harness.evidence.directory import EvidenceDirectory
from harness.evidence.json_lines import EvidenceError
from harness.evidence.recording import write_log
from harness.evidence.trace import Acknowledged
from harness.evidence.wire.messages import Answer, Commit, Entries, Heartbeat, Hello, Welcome, decode_entry
from harness.evidence.wire.storage import StorageWrite
from harness.lab.netns.lab import NetnsLab
from harness.promise import Expect, Promise
from harness.scenario import Plan
from harness.vm.run import Run

NETWORK_READ = 5
"""Kind of the entries that hold a frame (docs/wire.md)."""


@pytest.fixture(scope="module")
def evidence(shared_lab: NetnsLab, tmp_path_factory: pytest.TempPathFactory) -> EvidenceDirectory:
    """A pair under load whose primary loses power."""
    directory = tmp_path_factory.mktemp("pair") / "evidence"
    run = Run(shared_lab, directory, Plan(promise=Promise(expect=Expect.FAILOVER), faults=(PowerOff,)), name="wire")
    run.start()
    survivor = run.backup
    run.inject(PowerOff(shared_lab, run.primary.host))
    run.expect_takeover(survivor)
    run.gather()
    return EvidenceDirectory(directory)


def test_all_that_the_nodes_said_is_understood(evidence: EvidenceDirectory) -> None:
    wire = evidence.wire
    assert wire.refused == []
    said = {(one.sender, one.path, type(one.body)) for one in wire.messages}
    beats = [f"heartbeat-{network}" for network in ("logging", "management")]
    assert said >= {("host-a", "log", kind) for kind in (Hello, Commit, Entries, Heartbeat)}
    assert said >= {("host-b", "log", kind) for kind in (Welcome, Answer)}
    assert said >= {("host-a", path, Heartbeat) for path in beats} | {("host-b", path, Answer) for path in beats}


def test_no_message_is_missing(evidence: EvidenceDirectory) -> None:
    """Each node numbers its messages over all paths."""
    sequences = defaultdict(set)
    for said in evidence.wire.messages:
        sequences[said.sender, said.incarnation].add(said.sequence)
    assert {host for host, _ in sequences} == {"host-a", "host-b"}
    for numbers in sequences.values():
        # The last ones may have been said into a connection whose other end was gone.
        assert sorted(numbers)[:-3] == list(range(1, len(numbers) - 2))


def test_entries_and_acknowledgements_are_what_the_nodes_traced(evidence: EvidenceDirectory) -> None:
    wire = evidence.wire
    sent, arrived = wire.entries_sent("host-a"), wire.entries_arrived("host-b")
    assert sorted(sent) == list(range(1, len(sent) + 1))
    assert sorted(arrived) == list(range(1, len(arrived) + 1))
    assert all(sent[position] == entry for position, entry in arrived.items())
    traced = [one for one in evidence.traces["host-b"].of(Acknowledged) if one.by == "backup"]
    answered = {body.stored for _, body in wire.of(Answer)}
    assert {one.position for one in traced} <= answered
    # The backup traces before it sends, and nothing is acknowledged that had not come.
    stored_ns = {entry.position: said.arrived_ns for said, body in wire.of(Entries) for entry in body.entries}
    for said, body in wire.of(Answer):
        if body.stored:
            came_ns, left_ns = stored_ns[body.stored], said.left_ns
            assert came_ns is not None
            assert left_ns is not None
            assert came_ns < left_ns


def test_echoes_are_of_stamps_that_had_come(evidence: EvidenceDirectory) -> None:
    heard: dict[tuple[str, int], int] = {}
    for one in evidence.wire.messages:
        # What a node says at once on several paths has one stamp.
        if one.arrived_ns is not None:
            key = one.receiver, one.stamp_ns
            heard[key] = min(one.arrived_ns, heard.get(key, one.arrived_ns))
    echoes = [said for said in evidence.wire.messages if said.echo_ns and said.left_ns]
    assert echoes
    for said in echoes:
        assert heard[said.sender, said.echo_ns] < (said.left_ns or 0)


def test_every_block_write_came_to_the_storage_host_as_the_replays_say(evidence: EvidenceDirectory) -> None:
    """A write may come in pieces, one behind the other; a survivor begins with what was uncertain, and goes on."""
    writes = evidence.storage_writes
    assert writes
    assert all(write.error == 0 and write.answered_ns for write in writes[:-1])
    for host, replay in evidence.replays.items():
        own = [write for write in writes if write.host == host]
        assert own
        expected = [(one.offset, one.length, one.digest) for one in replay.outputs if one.kind == "block"]
        lengths = {(offset, one): length for offset, length, one in expected}
        seen: list[tuple[int | None, int, str]] = []
        pieces: list[StorageWrite] = []
        for write in own:
            pieces.append(write)
            whole = b"".join(piece.data for piece in pieces)
            if lengths.get((pieces[0].offset, digest(whole))) == len(whole):
                seen.append((pieces[0].offset, len(whole), digest(whole)))
                pieces = []
        assert len(pieces) <= (host == "host-a"), "only the power cut may leave a write in pieces"
        ends = {place + len(seen) for place in range(len(expected)) if expected[place : place + len(seen)] == seen}
        assert ends, "one row of outputs, without a gap"
        assert host == "host-a" or len(expected) in ends


def test_the_replays_say_what_the_captures_show(evidence: EvidenceDirectory) -> None:
    """Each frame, in order; only the last ones before the power was cut may be unseen."""
    replays = evidence.replays
    assert set(replays) == {"host-a", "host-b"}
    assert replays["host-a"].first_recorded == 1
    taken_over_at = replays["host-b"].first_recorded
    assert taken_over_at is not None
    assert taken_over_at > 100
    # What the survivor does not repeat, the primary has said: the outputs before are the same.
    shared = [output for output in replays["host-b"].outputs if output.depends_on < taken_over_at]
    assert shared == replays["host-a"].outputs[: len(shared)]
    # A tenth of a second is enough to let out what is acknowledged.
    answers = [(said.arrived_ns, body.stored) for said, body in evidence.wire.of(Answer) if said.arrived_ns]
    acknowledged = max(stored for came_ns, stored in answers if came_ns < max(answers)[0] - 100_000_000)
    for host, replay in replays.items():
        assert (replay.divergence, replay.disagreement) == (None, None)
        frames = [output for output in replay.outputs if output.kind == "frame"]
        said = [frame.digest for frame in evidence.vm_frames[host] if not frame.is_announcement]
        expected = [output.digest for output in frames]
        if host == "host-a":
            assert said == expected[: len(said)]
            assert all(output.depends_on > acknowledged for output in frames[len(said) :])
        else:
            assert said
            assert said == expected[len(expected) - len(said) :]


def test_a_replay_is_kept_and_renewed_with_its_log(evidence: EvidenceDirectory, tmp_path: Path) -> None:
    shutil.copytree(evidence.path, tmp_path / "copy")
    outputs = tmp_path / "copy" / "hosts" / "host-a" / "outputs.jsonl"
    expected = EvidenceDirectory(tmp_path / "copy").replays
    before_ns = outputs.stat().st_mtime_ns
    assert EvidenceDirectory(tmp_path / "copy").replays == expected
    assert outputs.stat().st_mtime_ns == before_ns
    (log,) = outputs.parent.glob("recorded-*.log")
    (recording,) = (one for one in evidence.recordings if one.host == "host-a")
    write_log(log, recording.header, recording.entries[:50], b"")
    again = EvidenceDirectory(tmp_path / "copy")
    # No capture saw anything leave: what host-a was told is what it recorded.
    again.wire.messages[:] = [dataclasses.replace(said, left_ns=None) for said in again.wire.messages]
    assert again.replays["host-a"].position == 50
    assert again.replays["host-b"] == expected["host-b"]
    assert outputs.stat().st_mtime_ns > before_ns, "host-a's log is another one now"


def test_a_log_with_a_hole_is_none(evidence: EvidenceDirectory, tmp_path: Path) -> None:
    shutil.copytree(evidence.path, tmp_path / "copy")
    nothing_seen = EvidenceDirectory(tmp_path / "copy")
    nothing_seen.wire.messages.clear()
    with pytest.raises(EvidenceError, match="host-b has no entry 1"):
        assert nothing_seen.replays


def test_a_guest_that_leaves_its_log_is_told(evidence: EvidenceDirectory, tmp_path: Path) -> None:
    """An input that it was told otherwise than the log has it."""
    shutil.copytree(evidence.path, tmp_path / "copy")
    (log,) = (tmp_path / "copy" / "hosts" / "host-a").glob("recorded-*.log")
    (recording,) = (one for one in evidence.recordings if one.host == "host-a")
    number = next(at for at, one in enumerate(recording.entries) if at > 300 and one.kind == NETWORK_READ)
    entries = recording.entries
    altered = decode_entry(_sealed(entries[number].encoded[8:-1] + b"?"))
    write_log(log, recording.header, [*entries[:number], altered, *entries[number + 1 :]], b"")
    replay = EvidenceDirectory(tmp_path / "copy").replays["host-a"]
    assert replay.divergence
    assert replay.position > number
    assert replay.disagreement is not None
    assert f"entry {number + 1} " in replay.disagreement


def _sealed(body: bytes) -> bytes:
    checksum: bytes = blake3(body).digest(length=4)
    return len(body).to_bytes(4, "little") + checksum + body
