"""What the oracles must not hold against a node, and how malformed evidence is named."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from harness.evidence.capture import Direction
from harness.evidence.directory import EvidenceDirectory
from harness.evidence.failover import find_failovers
from harness.evidence.json_lines import EvidenceError
from harness.evidence.trace import read_trace
from harness.evidence.verdicts import Verdict
from harness.oracles.registry import judge
from tests.oracles.conftest import JudgeRun
from tests.oracles.run_builder import LIVE_MS, PRIMARY, Run, connection, segment


def test_a_frame_past_its_check_is_counted_apart(run: Run, judge_run: JudgeRun) -> None:
    frame = run.captures[PRIMARY].pop(60)
    run.frame(PRIMARY, LIVE_MS + 80, frame.content)
    judgement = judge_run(run)["single-speaker"]
    assert judgement.verdict is Verdict.PASSED
    assert judgement.counted["late_identical_frames"] == 1


def test_a_withheld_output_was_not_emitted(run: Run, judge_run: JudgeRun) -> None:
    original = run.events(PRIMARY, "output", kind="frame")[50]
    before = dict(original, monotonic_ns=original["monotonic_ns"] - 300_000, wall_ns=original["wall_ns"] - 300_000)
    withheld = {name: before[name] for name in ("node", "incarnation", "generation", "wall_ns")}
    moment = {"event": "output-withheld", "index": before["index"], "monotonic_ns": before["monotonic_ns"] + 1}
    run.traces[PRIMARY] += [before, withheld | moment]
    assert judge_run(run)["output-rule"].findings == []


def test_a_frame_of_a_withheld_output_is_caught(run: Run, judge_run: JudgeRun) -> None:
    original = run.events(PRIMARY, "output", kind="frame")[50]
    withheld = {name: original[name] for name in ("node", "incarnation", "generation", "wall_ns", "index")}
    run.traces[PRIMARY].append(withheld | {"event": "output-withheld", "monotonic_ns": original["monotonic_ns"] + 1})
    assert "frame-not-traced" in {finding.code for finding in judge_run(run)["output-rule"].findings}


def test_a_torn_last_line_is_counted_and_a_torn_middle_is_named(run: Run, tmp_path: Path) -> None:
    path = run.write(tmp_path) / "hosts" / PRIMARY / "trace.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"event":"outp')
    assert read_trace(path, PRIMARY).torn_lines == 1
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:6], b'{"event":"outp\n', *lines[6:]]))
    with pytest.raises(EvidenceError, match=r"trace\.jsonl:7: no JSON"):
        read_trace(path, PRIMARY)


def test_evidence_that_does_not_say_what_captures_missed_is_too_little(run: Run, tmp_path: Path) -> None:
    (run.write(tmp_path) / "captures" / "counts.json").unlink()
    (judgement,) = [one for one in judge(EvidenceDirectory(tmp_path)) if one.oracle == "evidence-sufficient"]
    assert judgement.verdict is Verdict.INSUFFICIENT
    assert "no-capture" in {finding.code for finding in judgement.findings}


def test_a_capture_that_lost_a_frame_after_it_was_counted_is_too_little(run: Run, tmp_path: Path) -> None:
    counts = run.write(tmp_path) / "captures" / "counts.json"
    held = len(run.captures[PRIMARY])
    counts.write_text(counts.read_text().replace(f'"captured": {held}', f'"captured": {held + 1}'))
    (judgement,) = [one for one in judge(EvidenceDirectory(tmp_path)) if one.oracle == "evidence-sufficient"]
    assert [finding.code for finding in judgement.findings] == ["capture-torn"]


def test_a_torn_capture_is_no_evidence(run: Run, tmp_path: Path) -> None:
    path = run.write(tmp_path) / "captures" / f"client.{PRIMARY}.sent.pcap.gz"
    whole, last = gzip.decompress(path.read_bytes()), max(run.captures[PRIMARY], key=lambda frame: frame.wall_ns)
    torn = [gzip.compress(whole[:-missing]) for missing in (1, len(last.content), len(last.content) + 3)]
    for content in [*torn, path.read_bytes()[:-9]]:
        path.write_bytes(content)
        with pytest.raises(EvidenceError, match="no whole pcap file"):
            EvidenceDirectory(tmp_path).frames("client", PRIMARY, Direction.SENT)


def test_a_capture_keeps_its_nanoseconds(run: Run, tmp_path: Path) -> None:
    run.frame(PRIMARY, 123.456789, segment(0, 1, b"x"))
    evidence = EvidenceDirectory(run.write(tmp_path))
    stamps = [frame.wall_ns for frame in evidence.frames("client", PRIMARY, Direction.SENT)]
    assert sorted(frame.wall_ns for frame in run.captures[PRIMARY]) == stamps


def test_the_parts_of_a_failover_add_up(run: Run, tmp_path: Path) -> None:
    (failover,) = find_failovers(EvidenceDirectory(run.write(tmp_path)))
    parts = failover.parts_ms()
    assert (parts["detect"], parts["drain"], parts["arbitrate"]) == (150.0, 8.0, 62.0)
    assert sum(value or 0 for value in parts.values()) == pytest.approx(failover.total_ms)
    assert failover.stall_ms == pytest.approx(238.95)


def test_who_asked_during_the_stall_waits_for_the_kernel_to_ask_again(run: Run, judge_run: JudgeRun) -> None:
    late = {"asked_ms": LIVE_MS - 200, "long_lived": False}
    run.connections.append(connection(90, "opened", LIVE_MS + 801, **late))  # type: ignore[arg-type]
    judgement = judge_run(run)["stall-bounded"]
    assert judgement.findings == []
    assert judgement.counted["handshake_ms"] == pytest.approx(1001)


def test_errors_that_the_scenario_allows_are_answers_too(run: Run, judge_run: JudgeRun) -> None:
    run.scenario["errors_allowed"] = ["IOERR"]
    answered = next(one for one in run.history if one.get("operation") == "GET")
    answered |= {"result": None, "error": "IOERR no"}
    judgement = judge_run(run)["answers-clean"]
    assert judgement.findings == []
    assert judgement.counted["errors"] == {"IOERR": 1}


def test_the_refusals_of_a_vm_that_boots_are_none(run: Run, judge_run: JudgeRun) -> None:
    run.connections.insert(0, connection(91, "refused", 5, asked_ms=4, error="ECONNREFUSED"))
    assert judge_run(run)["answers-clean"].findings == []
