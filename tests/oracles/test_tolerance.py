"""What the oracles must not hold against a node, and how malformed evidence is named."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness.evidence.capture import Direction
from harness.evidence.digest import digest
from harness.evidence.directory import EvidenceDirectory
from harness.evidence.failover import find_failovers
from harness.evidence.json_lines import EvidenceError
from harness.evidence.looks import EXCUSED_MS_MAX
from harness.evidence.replay import ReplayedOutput
from harness.evidence.trace import NodeStarted, read_trace
from harness.evidence.verdicts import Verdict
from harness.evidence.wire.messages import Answer, Entries, HandOver, Heartbeat
from harness.evidence.wire.storage import StorageWrite
from harness.oracles.emissions import find_emissions
from harness.oracles.registry import judge
from tests.oracles.conftest import JudgeRun
from tests.oracles.outside_mutations import (
    a_frame_is_left_out,
    a_frozen_primary_says_what_it_was_about_to_say,
    a_mark_covers_outputs_that_nobody_emitted,
    a_primary_speaks_five_milliseconds_after_it_has_handed_the_vm_over,
    a_superseded_primary_writes_to_the_disk,
    an_uncertain_frame_is_not_reissued,
    one_frame_leaves_before_its_acknowledgement,
    the_survivor_asks_five_milliseconds_too_early,
    the_survivor_speaks_before_the_last_write_is_sure_to_have_landed,
)
from tests.oracles.run_builder import (
    BACKUP,
    HEARTBEATS,
    KILL_MS,
    LIVE_MS,
    PRIMARY,
    BuiltEvidence,
    Run,
    boot_ns,
    connection,
    segment,
    wall_ns,
)


def test_a_frame_past_its_look_is_counted_apart_where_the_scenario_allows_it(run: Run, judge_run: JudgeRun) -> None:
    a_frozen_primary_says_what_it_was_about_to_say(run)
    run.scenario["late_frames_max"] = 1
    judgements = judge_run(run)
    assert {name: judgement.findings for name, judgement in judgements.items() if judgement.findings} == {}
    assert judgements["single-speaker"].counted["late_identical"] == 1


def test_a_second_late_frame_is_one_too_many(run: Run, judge_run: JudgeRun) -> None:
    a_frozen_primary_says_what_it_was_about_to_say(run)
    run.scenario["late_frames_max"] = 1
    a_superseded_primary_writes_to_the_disk(run)
    codes = {finding.code for finding in judge_run(run)["single-speaker"].findings}
    assert codes == {"two-speakers", "alone-without-asking"}


def client_network_cut(since_ns: int, until_ns: int) -> dict[str, object]:
    """The primary's cable to the clients was cut between two times."""
    cut = {"fault": "network-cut", "target": PRIMARY, "parameters": {"network": "client", "direction": "both"}}
    times = {"injected_ns": since_ns, "confirmed_ns": since_ns + 1, "healed_ns": until_ns}
    return cut | times | {"verdict": "confirmed", "evidence": ["frames dropped"]}


@pytest.mark.parametrize("event", [{"event": "output-withheld"}, {"event": "frame-refused", "reason": "it is down"}])
def test_an_output_that_was_withheld_or_refused_was_not_emitted(
    run: Run, judge_run: JudgeRun, event: dict[str, str]
) -> None:
    original = run.events(PRIMARY, "output", kind="frame")[50]
    before = dict(original, monotonic_ns=original["monotonic_ns"] - 300_000, wall_ns=original["wall_ns"] - 300_000)
    withheld = {name: before[name] for name in ("node", "incarnation", "generation", "wall_ns")}
    moment = {**event, "index": before["index"], "monotonic_ns": before["monotonic_ns"] + 1}
    run.traces[PRIMARY] += [before, withheld | moment]
    # What an interface refuses has a fault for its reason.
    run.faults.append(client_network_cut(before["wall_ns"] - 1, before["wall_ns"] + 1))
    assert judge_run(run)["output-rule"].findings == []


@pytest.mark.parametrize(("waited_ms", "codes"), [(90, []), (20, ["stall-noticed"]), (900, [])])
def test_a_wait_for_a_processor_is_no_wait_for_the_vm(
    run: Run, judge_run: JudgeRun, waited_ms: int, codes: list[str]
) -> None:
    """The bound lies halfway between the longest stall less what is excused, and that stall."""
    stall = judge_run(run)["stall-bounded"].counted["stall_ms"]
    run.scenario["latency_over_before_ms_max"] = stall - 60
    counts = ((KILL_MS - 100, 0), (LIVE_MS + 500, waited_ms * 1000))
    run.looks = [{"at_ns": boot_ns(at), "waited_us": {PRIMARY: 0, BACKUP: count}} for at, count in counts]
    assert sorted({one.code for one in judge_run(run)["stall-bounded"].findings}) == codes


@pytest.mark.parametrize(("held_ms", "codes"), [(61, []), (59, ["stall-too-long"]), (None, ["stall-too-long"])])
def test_a_wait_through_a_hold_may_be_longer_by_twice_that(
    run: Run, judge_run: JudgeRun, held_ms: int | None, codes: list[str]
) -> None:
    """The question was asked while the suite held a node; the bound is missed by 120 ms."""
    longest = max(run.history, key=lambda one: (one.get("return_ns") or 0) - one.get("call_ns", 0))
    longest["call_ns"] = boot_ns(KILL_MS - 200)
    run.scenario["stall_ms_max"] = (longest["return_ns"] - longest["call_ns"]) / 1e6 - 120
    run.faults[0]["held_ns"] = None if held_ms is None else wall_ns(KILL_MS - held_ms)
    assert sorted({one.code for one in judge_run(run)["stall-bounded"].findings}) == codes


def test_no_more_is_excused_than_the_most(run: Run, judge_run: JudgeRun) -> None:
    """A VMM that keeps the processors busy makes everybody wait, and is found all the same."""
    stall = judge_run(run)["stall-bounded"].counted["stall_ms"]
    run.scenario["latency_over_before_ms_max"] = stall - EXCUSED_MS_MAX - 60
    run.looks = [
        {"at_ns": boot_ns(at), "waited_us": {PRIMARY: count, BACKUP: count}}
        for at, count in ((0, 0), (LIVE_MS + 500, 10_000_000))
    ]
    assert {one.code for one in judge_run(run)["stall-bounded"].findings} == {"stall-noticed"}


@pytest.mark.parametrize(("hears", "codes"), [(True, []), (False, ["asked-within-lease", "spoke-within-write-bound"])])
def test_a_survivor_that_was_handed_the_vm_waits_for_no_lease(
    run: Run, judge_run: JudgeRun, hears: bool, codes: list[str]
) -> None:
    the_survivor_asks_five_milliseconds_too_early(run)
    the_survivor_speaks_before_the_last_write_is_sure_to_have_landed(run)
    handed = run.say(PRIMARY, KILL_MS + 91, HandOver(3, 0))
    if not hears:
        run.messages[-1] = replace(handed, arrived_ns=None)
    found = {one.code for one in judge_run(run)["single-speaker"].findings}
    assert sorted(found & {"asked-within-lease", "spoke-within-write-bound"}) == codes


def test_a_hand_over_that_was_taken_back_binds_nobody(run: Run, judge_run: JudgeRun) -> None:
    """The two found each other again on another session: the primary speaks, and the backup waits for its lease."""
    a_primary_speaks_five_milliseconds_after_it_has_handed_the_vm_over(run)
    handed = run.messages[-1]
    assert handed.arrived_ns is not None
    answer = run.say(BACKUP, KILL_MS - 300, Answer(3, 3))
    again_ns = handed.arrived_ns + 1_000_000
    run.messages[-1] = replace(answer, session=handed.session + 1, left_ns=again_ns, arrived_ns=again_ns + 1)
    assert "spoke-after-hand-over" not in {one.code for one in judge_run(run)["single-speaker"].findings}
    the_survivor_asks_five_milliseconds_too_early(run)
    assert "asked-within-lease" in {one.code for one in judge_run(run)["single-speaker"].findings}


def test_entries_that_come_at_the_same_time_came_in_their_order(run: Run, judge_run: JudgeRun) -> None:
    """A segment that was late brings what came before it with it, and they may have left in another order."""
    places = [at for at, one in enumerate(run.messages) if isinstance(one.body, Entries)][20:22]
    first, second = (run.messages[at] for at in places)
    assert first.left_ns is not None
    run.messages[places[0]] = replace(first, left_ns=first.left_ns + 1000, arrived_ns=first.left_ns + 2000)
    assert isinstance(first.body, Entries)
    assert isinstance(second.body, Entries)
    body = replace(second.body, released=first.body.released)
    run.messages[places[1]] = replace(second, body=body, left_ns=first.left_ns, arrived_ns=first.left_ns + 2000)
    assert judge_run(run)["output-rule"].findings == []


def test_a_trace_excuses_nothing(run: Run, judge_run: JudgeRun) -> None:
    """Nodes that say nothing at all are judged by what was seen of them."""
    one_frame_leaves_before_its_acknowledgement(run)
    for host, events in run.traces.items():
        run.traces[host] = [one for one in events if one["event"] in ("node-started", "arbiter", "live")]
    assert [finding.code for finding in judge_run(run)["output-rule"].findings] == ["frame-before-acknowledgement"]


def test_a_segment_that_was_cut_off_and_comes_again_is_the_second_one(run: Run, judge_run: JudgeRun) -> None:
    """TCP repeats it byte for byte: what follows tells which of the two outputs was seen."""
    frames = sorted(run.captures[PRIMARY], key=lambda one: one.wall_ns)
    place = next(at for at, one in enumerate(frames) if one.wall_ns > wall_ns(400))
    lost, seen = frames[place : place + 2]
    for host, outputs in run.outputs.items():
        run.outputs[host] = [
            replace(one, digest=seen.digest, length=len(seen.content)) if one.digest == lost.digest else one
            for one in outputs
        ]
    for event in (one for events in run.traces.values() for one in events if one.get("digest") == lost.digest):
        event |= {"digest": seen.digest, "length": len(seen.content)}
    run.captures[PRIMARY].remove(lost)
    run.faults.insert(0, client_network_cut(lost.wall_ns - 1000, lost.wall_ns + 1000))
    judgements = judge_run(run)
    assert [judgements[name].findings for name in ("output-rule", "outputs-complete")] == [[], []]
    assert judgements["outputs-complete"].counted["excused"] == {"network-cut at host-a (client)": 1}


def test_frames_that_a_cut_network_kept_back_are_excused_by_name(run: Run, judge_run: JudgeRun) -> None:
    lost = [one for one in run.captures[PRIMARY] if wall_ns(400) < one.wall_ns < wall_ns(420)]
    run.captures[PRIMARY] = [one for one in run.captures[PRIMARY] if one not in lost]
    run.faults.insert(0, client_network_cut(wall_ns(399), wall_ns(421)))
    judgements = judge_run(run)
    assert judgements["outputs-complete"].findings == []
    assert judgements["output-rule"].findings == []
    excused = judgements["outputs-complete"].counted["excused"]
    assert excused == {"network-cut at host-a (client)": len(lost)}


@pytest.mark.parametrize(
    ("said", "after", "seen", "indices", "odd"),
    [
        ("ABCDBDEA", 3, "BDEA", [5, 6, 7, 8], 0),
        ("ABCDBDEA", 3, "BDBDEA", [4, 5, 6, 7, 8], 1),
        ("ABCDCBEA", 1, "CBEA", [5, 6, 7, 8], 0),
        ("ABCDCBEA", 1, "CDCBEA", [3, 4, 5, 6, 7, 8], 0),
    ],
)
def test_what_tcp_says_again_after_a_cut_is_told_from_what_had_completed(
    run: Run, tmp_path: Path, said: str, after: int, seen: str, indices: list[int], odd: int
) -> None:
    """What had not completed got lost in a cut; what comes later has the contents of outputs before, in any order."""
    contents = {name: segment(1, number, b"any") for number, name in enumerate("ABCDE")}
    run.captures[BACKUP] = []
    for number, name in enumerate(seen):
        run.frame(BACKUP, LIVE_MS + number, contents[name])
    run.outputs[BACKUP] = [
        ReplayedOutput(index, "frame", 1, None, index, len(contents[name]), digest(contents[name]))
        for index, name in enumerate(said, 1)
    ]
    spoken = find_emissions(BuiltEvidence(run.write(tmp_path), run), BACKUP, after=after)
    assert [one.output.index for one in spoken.of("frame")] == indices
    assert sum(one.kind == "frame" for one in spoken.odd) == odd


def test_frames_that_overtake_each_other_are_excused_by_name(run: Run, judge_run: JudgeRun) -> None:
    first, second = [one for one in run.captures[PRIMARY] if wall_ns(400) < one.wall_ns][:2]
    run.captures[PRIMARY].remove(first)
    run.captures[PRIMARY].append(replace(first, wall_ns=second.wall_ns + 1000))
    disorder = {"fault": "packet-reordering", "target": PRIMARY, "parameters": {"network": "client"}}
    times = {"injected_ns": wall_ns(399), "confirmed_ns": wall_ns(410), "healed_ns": wall_ns(440)}
    run.faults.insert(0, disorder | times | {"verdict": "confirmed", "evidence": ["overtaken"]})
    judgements = judge_run(run)
    assert judgements["outputs-complete"].findings == []
    assert judgements["output-rule"].findings == []


def test_a_drop_policy_excuses_uncertain_frames_and_no_others(run: Run, judge_run: JudgeRun) -> None:
    an_uncertain_frame_is_not_reissued(run)
    run.scenario["output_policy"] = "drop"
    assert judge_run(run)["outputs-complete"].findings == []
    a_frame_is_left_out(run)
    assert [finding.code for finding in judge_run(run)["outputs-complete"].findings] == ["frame-missing"]


def test_a_survivor_that_heard_nothing_of_the_last_mark_repeats_what_it_covers(run: Run, judge_run: JudgeRun) -> None:
    """A mark that came to a candidate counts for nothing: it may re-issue what was completed meanwhile, or leave it."""
    event = run.events(BACKUP, "output", why="re-issue", kind="frame")[0]
    output = next(one for one in run.outputs[BACKUP] if one.index == event["index"])
    frame = next(one for one in run.captures[BACKUP] if one.digest == output.digest)
    run.frame(PRIMARY, KILL_MS - 0.15, frame.content)
    for earlier in run.events(BACKUP, "output", why="re-issue", kind="block"):
        write = next(one for one in run.writes if one.offset == earlier["offset"])
        at_ns = wall_ns(KILL_MS - 0.3)
        run.writes.append(replace(write, host=PRIMARY, asked_ns=at_ns, answered_ns=at_ns + 10_000))
    run.consoles[PRIMARY] += b"kv: 199 commands\n"
    run.say(PRIMARY, KILL_MS - 0.05, Heartbeat(event["index"]), path=HEARTBEATS[0])
    judgements = judge_run(run)
    assert {name: judgement.findings for name, judgement in judgements.items() if judgement.findings} == {}


def test_frames_that_a_machine_held_as_it_lost_its_power_are_excused_in_a_lab_of_machines(
    run: Run, judge_run: JudgeRun
) -> None:
    """The mark went out by another card than the frame that it covers."""
    a_mark_covers_outputs_that_nobody_emitted(run)
    assert [finding.code for finding in judge_run(run)["outputs-complete"].findings] == ["frame-missing"]
    run.scenario["lab"] = "vagrant"
    assert judge_run(run)["outputs-complete"].findings == []


def _in_two(whole: StorageWrite) -> tuple[StorageWrite, StorageWrite]:
    head, tail = whole.data[:4], whole.data[4:]
    first = replace(whole, data=head, length=len(head), digest=digest(head))
    rest = replace(whole, data=tail, length=len(tail), digest=digest(tail), offset=whole.offset + 4)
    return first, replace(rest, asked_ns=whole.asked_ns + 1)


def test_a_write_that_was_refused_half_way_was_not_completed(run: Run, judge_run: JudgeRun) -> None:
    """As a host's kernel does it: the first half was taken, the second refused, and refused again."""
    uncertain = run.events(BACKUP, "output", why="re-issue", kind="block")[0]
    whole = next(one for one in run.writes if one.offset == uncertain["offset"])
    first, rest = _in_two(replace(whole, host=PRIMARY, asked_ns=wall_ns(KILL_MS - 0.2), answered_ns=wall_ns(KILL_MS)))
    again = replace(rest, asked_ns=rest.asked_ns + 1)
    run.writes += [first, replace(rest, error=5), replace(again, error=5)]
    judgements = judge_run(run)
    assert {name: judgement.findings for name, judgement in judgements.items() if judgement.findings} == {}


def test_a_write_that_a_power_loss_cut_off_was_not_completed(run: Run, judge_run: JudgeRun) -> None:
    uncertain = run.events(BACKUP, "output", why="re-issue", kind="block")[0]
    whole = next(one for one in run.writes if one.offset == uncertain["offset"])
    first, _ = _in_two(replace(whole, host=PRIMARY, asked_ns=wall_ns(KILL_MS - 0.2), answered_ns=wall_ns(KILL_MS)))
    run.writes.append(first)
    judgements = judge_run(run)
    assert {name: judgement.findings for name, judgement in judgements.items() if judgement.findings} == {}


def test_a_fault_before_anything_was_said_leaves_nothing_to_be_seen_before(run: Run, judge_run: JudgeRun) -> None:
    run.scenario["operations_before_min"] = 0
    run.faults[0]["injected_ns"] = wall_ns(7)
    assert judge_run(run)["evidence-sufficient"].findings == []


def test_pieces_of_one_write_are_put_together(run: Run, judge_run: JudgeRun) -> None:
    place = next(at for at, one in enumerate(run.writes) if one.length > 4)
    run.writes[place : place + 1] = _in_two(run.writes[place])
    assert judge_run(run)["output-rule"].findings == []


def test_a_torn_last_line_is_counted_and_a_torn_middle_is_named(run: Run, tmp_path: Path) -> None:
    path = run.write(tmp_path) / "hosts" / PRIMARY / "trace.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"event":"outp')
    assert read_trace(path, PRIMARY).torn_lines == 1
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:6], b'{"event":"outp\n', *lines[6:]]))
    with pytest.raises(EvidenceError, match=r"trace\.jsonl:7: no JSON"):
        read_trace(path, PRIMARY)


def test_a_torn_line_before_a_restart_is_counted_and_hides_nothing(run: Run, tmp_path: Path) -> None:
    path = run.write(tmp_path) / "hosts" / PRIMARY / "trace.jsonl"
    first = path.read_bytes()
    path.write_bytes(first + b'{"event":"outp\n' + first)
    trace = read_trace(path, PRIMARY)
    assert (trace.torn_lines, len(trace.of(NodeStarted))) == (1, 2)
    path.write_bytes(first + b'{"event":"outp\n{"event":"outp\n' + first)
    with pytest.raises(EvidenceError, match="no JSON"):
        read_trace(path, PRIMARY)


def test_a_rotated_trace_is_no_evidence(run: Run, tmp_path: Path) -> None:
    path = run.write(tmp_path) / "hosts" / PRIMARY / "trace.jsonl"
    first = json.loads(path.read_bytes().splitlines()[0])
    kept = ("node", "incarnation", "generation", "monotonic_ns", "wall_ns")
    rotated = {name: first[name] for name in kept} | {"event": "rotated", "file": "console.log"}
    path.write_bytes(path.read_bytes() + json.dumps(rotated).encode() + b"\n")
    with pytest.raises(EvidenceError, match=rf"console\.log of {PRIMARY} came to its bound"):
        read_trace(path, PRIMARY)


def test_evidence_that_does_not_say_what_captures_missed_is_too_little(run: Run, tmp_path: Path) -> None:
    (run.write(tmp_path) / "captures" / "counts.json").unlink()
    (judgement,) = [one for one in judge(BuiltEvidence(tmp_path, run)) if one.oracle == "evidence-sufficient"]
    assert judgement.verdict is Verdict.INSUFFICIENT
    assert "no-capture" in {finding.code for finding in judgement.findings}


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
    assert failover.silence_ms == pytest.approx(239.05)


def test_a_question_that_hangs_is_the_longest_wait_though_others_are_answered(run: Run, tmp_path: Path) -> None:
    (before,) = find_failovers(EvidenceDirectory(run.write(tmp_path / "all-answered")))
    asked = next(one for one in run.history if one.get("call_ns", 0) > boot_ns(KILL_MS - 5) and one["phase"] == "load")
    asked["return_ns"] = None
    (failover,) = find_failovers(EvidenceDirectory(run.write(tmp_path / "one-hangs")))
    assert before.longest_wait_ms is not None
    assert failover.longest_wait_ms is not None
    assert before.longest_wait_ms < 300 < failover.longest_wait_ms
    assert failover.silence_ms == pytest.approx(before.silence_ms, abs=10)


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


def test_a_forged_heartbeat_is_no_nodes_word(run: Run, judge_run: JudgeRun) -> None:
    [heartbeat, *_] = [one for one in run.messages if isinstance(one.body, Heartbeat)]
    run.messages.append(replace(heartbeat, sender="10.2.0.30", incarnation="00000000005742a9"))
    assert judge_run(run)["single-speaker"].findings == []


@pytest.mark.parametrize(("held", "after_the_fault"), [(True, False), (True, True), (False, False)])
def test_ticks_that_fell_due_while_a_frame_was_held_may_be_lost(
    ticker_run: Run, judge_run: JudgeRun, *, held: bool, after_the_fault: bool
) -> None:
    ticker_run.scenario |= {"ticks_lost_max": 8, "holds_a_tick": held, "stall_ms_max": 1000.0}
    killed_ns = boot_ns(KILL_MS)
    place = next(at for at, tick in enumerate(ticker_run.ticks) if tick.get("arrived_ns", 0) > killed_ns)
    place += 20 if after_the_fault else -11
    del ticker_run.ticks[place : place + 11]
    codes = {finding.code for finding in judge_run(ticker_run)["ticks-complete"].findings}
    assert codes == (set() if held and not after_the_fault else {"tick-lost"})
