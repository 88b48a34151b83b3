"""What a machine that stood still explains is `insufficient` by that name, and nothing else is touched by it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.evidence.verdicts import Finding, Judgement, Verdict
from harness.oracles.registry import all_passed
from harness.oracles.standstill import CODE, reason_to_begin_anew
from harness.promise import Expect
from tests.oracles.conftest import JudgeRun
from tests.oracles.mutations import MUTATIONS, TICKER_MUTATIONS, Mutation
from tests.oracles.outside_mutations import (
    OUTSIDE_MUTATIONS,
    a_frozen_primary_says_what_it_was_about_to_say,
    change_messages,
    the_machine_stands_still_and_the_backup_takes_over,
)
from tests.oracles.run_builder import KILL_MS, LIVE_MS, Run, wall_ns

# What can be under the standstill's name: a takeover, a wait, a silence.
EXPLAINED = {
    *(("outcome", code) for code in ("pair-parted", "changed-hosts", "no-failover")),
    *(("stall-bounded", code) for code in ("stall-too-long", "stall-noticed", "stall-afterwards")),
    *(("stall-bounded", code) for code in ("handshake-too-long", "nobody-let-in")),
    *(("ticks-complete", code) for code in ("stall-too-long", "stall-noticed")),
}

Judgements = dict[str, Judgement]


def codes(judgements: Judgements, *, verdict: Verdict | None = None) -> set[tuple[str, str]]:
    return {
        (judgement.oracle, finding.code)
        for judgement in judgements.values()
        for finding in judgement.findings
        if verdict in (None, finding.verdict)
    }


def named(judgements: Judgements, oracle: str) -> list[Finding]:
    return [finding for finding in judgements[oracle].findings if finding.code == CODE]


@pytest.fixture
def unasked(run: Run) -> Run:
    """The backup takes the VM over, and nothing was injected: the pair was to stay together."""
    run.scenario |= {"expect": Expect.STAYS_TOGETHER, "faults": ()}
    run.faults = []
    return run


# A takeover that nobody asked for


def test_a_takeover_behind_a_standstill_is_under_its_name(unasked: Run, judge_run: JudgeRun) -> None:
    unasked.stand_still(KILL_MS, KILL_MS + 162)
    judgements = judge_run(unasked)
    assert codes(judgements) == {("outcome", CODE), ("evidence-sufficient", CODE)}
    [finding] = named(judgements, "outcome")
    assert finding.verdict is Verdict.INSUFFICIENT
    assert finding.message.startswith("the machine stood still for 162 ms at 1.000 s; the pair tolerates 100 ms")
    assert "pair-parted: the pair was to stay together, and generation 2 of host-b" in finding.message
    assert judgements["evidence-sufficient"].counted["stood_still_ms"] == [162.0]
    assert "the machine stood still for 162 ms" in (reason_to_begin_anew(judgements.values()) or "")


def test_a_standstill_with_moments_in_between_is_one(unasked: Run, judge_run: JudgeRun) -> None:
    for since, until in ((0, 15), (31, 43), (43, 121), (122, 151)):
        unasked.stand_still(KILL_MS + since, KILL_MS + until)
    [finding] = named(judge_run(unasked), "outcome")
    assert "the machine stood still for 134 of 151 ms at 1.000 s" in finding.message


@pytest.mark.parametrize(
    ("since", "until", "processors"),
    [
        pytest.param(KILL_MS, KILL_MS + 80, (0, 1), id="shorter"),
        pytest.param(KILL_MS, KILL_MS + 162, (0,), id="one-processor-alone"),
        pytest.param(400, 562, (0, 1), id="long-before"),
        pytest.param(KILL_MS + 250, KILL_MS + 412, (0, 1), id="afterwards"),
        pytest.param(KILL_MS + 150, KILL_MS + 312, (0, 1), id="too-late-to-be-the-cause"),
    ],
)
def test_a_takeover_for_no_such_reason_is_a_failure(
    unasked: Run, judge_run: JudgeRun, since: float, until: float, processors: tuple[int, ...]
) -> None:
    unasked.stand_still(since, until, processors=processors)
    judgements = judge_run(unasked)
    assert codes(judgements) == {("outcome", "pair-parted")}
    assert judgements["outcome"].verdict is Verdict.FAILED
    assert reason_to_begin_anew(judgements.values()) is None


def test_a_primary_that_had_been_silent_before_is_not_acquitted(unasked: Run, judge_run: JudgeRun) -> None:
    silent_ns = wall_ns(KILL_MS - 120)
    change_messages(unasked, object, lambda one: one if (one.arrived_ns or 0) < silent_ns else None)
    unasked.stand_still(KILL_MS, KILL_MS + 162)
    assert ("outcome", "pair-parted") in codes(judge_run(unasked), verdict=Verdict.FAILED)


def test_a_second_claim_that_followed_no_standstill_is_not_acquitted(unasked: Run, judge_run: JudgeRun) -> None:
    unasked.stand_still(KILL_MS, KILL_MS + 162)
    last = unasked.records[-1]
    late_ns = wall_ns(LIVE_MS + 600)
    unasked.records.append(replace(last, generation=3, claimed_ns=late_ns, linked_ns=late_ns))
    assert ("outcome", "pair-parted") in codes(judge_run(unasked), verdict=Verdict.FAILED)


def test_a_takeover_before_the_fault_shows_nothing_of_the_fault(run: Run, judge_run: JudgeRun) -> None:
    """Everything is as promised, and the primary had lost the VM already when it lost its power."""
    run.stand_still(KILL_MS, KILL_MS + 162)
    run.faults[0] |= {"injected_ns": wall_ns(LIVE_MS + 30), "confirmed_ns": wall_ns(LIVE_MS + 60)}
    judgements = judge_run(run)
    assert codes(judgements) == {("evidence-sufficient", CODE)}
    assert "generation 2 of host-b" in named(judgements, "evidence-sufficient")[0].message


def test_a_takeover_that_a_fault_asked_for_is_none_of_the_standstills(run: Run, judge_run: JudgeRun) -> None:
    run.stand_still(KILL_MS + 10, KILL_MS + 140)
    judgements = judge_run(run)
    assert all_passed(list(judgements.values()))
    assert judgements["evidence-sufficient"].counted["stood_still_ms"] == [130.0]


# A wait, a silence


def test_a_wait_is_too_long_for_the_standstill_alone(run: Run, judge_run: JudgeRun) -> None:
    stall_ms = judge_run(run)["stall-bounded"].counted["stall_ms"]
    run.stand_still(KILL_MS + 20, KILL_MS + 150)
    run.scenario["stall_ms_max"] = stall_ms - 120
    judgements = judge_run(run)
    assert codes(judgements) == {("stall-bounded", CODE)}
    assert "stall-too-long" in named(judgements, "stall-bounded")[0].message
    run.scenario["stall_ms_max"] = stall_ms - 140
    assert codes(judge_run(run)) == {("stall-bounded", "stall-too-long")}


def test_the_next_longest_wait_counts_where_the_longest_is_explained(run: Run, judge_run: JudgeRun) -> None:
    """A VMM that is always slow is not acquitted by a standstill that was even longer."""
    stall_ms = judge_run(run)["stall-bounded"].counted["stall_ms"]
    run.stand_still(KILL_MS + 20, KILL_MS + 150)
    run.scenario["stall_ms_max"] = stall_ms - 120
    slow = next(one for one in run.history if one.get("call_ns", 0) > run.history[60]["call_ns"])
    client = slow["client"]
    longest = max((one for one in run.history if one.get("client") == client), key=_length_ns)
    slow["return_ns"] = slow["call_ns"] + _length_ns(longest) - 1_000_000
    found = [one for one in judge_run(run)["stall-bounded"].findings if one.at_ns == slow["call_ns"]]
    assert [finding.code for finding in found] == ["stall-too-long"]


def _length_ns(operation: dict[str, int]) -> int:
    return operation["return_ns"] - operation["call_ns"]


def test_a_wait_elsewhere_is_a_failure(run: Run, judge_run: JudgeRun) -> None:
    run.scenario["stall_ms_max"] = 150.0
    run.stand_still(400, 562)
    judgements = judge_run(run)
    assert ("stall-bounded", "stall-too-long") in codes(judgements, verdict=Verdict.FAILED)


def test_whoever_notices_an_unasked_takeover_noticed_the_standstill(unasked: Run, judge_run: JudgeRun) -> None:
    unasked.faults = [
        {"fault": "log-delay", "target": "host-b", "injected_ns": wall_ns(500), "confirmed_ns": wall_ns(510)}
        | {"healed_ns": wall_ns(600), "verdict": "confirmed", "evidence": ["late"], "parameters": {}}
    ]
    unasked.scenario |= {"faults": ("log-delay",), "latency_over_before_ms_max": 100.0}
    assert ("stall-bounded", "stall-noticed") in codes(judge_run(unasked), verdict=Verdict.FAILED)
    unasked.stand_still(KILL_MS, KILL_MS + 162)
    judgements = judge_run(unasked)
    assert codes(judgements, verdict=Verdict.FAILED) == set()
    assert "stall-noticed" in named(judgements, "stall-bounded")[0].message


@pytest.mark.parametrize(("until", "code"), [(150, CODE), (90, "stall-too-long")])
def test_a_silence_of_the_ticker(ticker_run: Run, judge_run: JudgeRun, until: float, code: str) -> None:
    ticker_run.scenario["stall_ms_max"] = 150.0
    ticker_run.stand_still(KILL_MS + 20, KILL_MS + until)
    assert codes(judge_run(ticker_run)) == {("ticks-complete", code)}


# Nobody is acquitted


@pytest.mark.parametrize("mutation", MUTATIONS + OUTSIDE_MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_standstill_acquits_nobody(mutation: Mutation, run: Run, judge_run: JudgeRun) -> None:
    mutation.apply(run)
    check_that_it_acquits_nobody(mutation, run, judge_run)


@pytest.mark.parametrize("mutation", TICKER_MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_standstill_acquits_nobody_under_the_ticker(mutation: Mutation, ticker_run: Run, judge_run: JudgeRun) -> None:
    mutation.apply(ticker_run)
    check_that_it_acquits_nobody(mutation, ticker_run, judge_run)


def check_that_it_acquits_nobody(mutation: Mutation, run: Run, judge_run: JudgeRun) -> None:
    """What a mutation is found by without a standstill is found with one, or stands under its name."""
    run.overdue = None
    run.stand_still(KILL_MS, KILL_MS + 162)
    judgements = judge_run(run)
    found = mutation.oracle, mutation.code
    assert found in codes(judgements) or (found in EXPLAINED and named(judgements, mutation.oracle))
    assert judgements[mutation.oracle].verdict is not Verdict.PASSED


def test_two_that_speak_after_an_unasked_takeover_are_still_two(unasked: Run, judge_run: JudgeRun) -> None:
    unasked.stand_still(KILL_MS, KILL_MS + 162)
    a_frozen_primary_says_what_it_was_about_to_say(unasked)
    judgements = judge_run(unasked)
    assert ("single-speaker", "two-speakers") in codes(judgements, verdict=Verdict.FAILED)
    assert ("outcome", CODE) in codes(judgements)
    assert reason_to_begin_anew(judgements.values()) is None


# A second attempt


def judgement(*findings: Finding) -> Judgement:
    return Judgement.of("any", findings, {})


@pytest.mark.parametrize(
    ("judgements", "reason"),
    [
        pytest.param([judgement()], None, id="passed"),
        pytest.param([judgement(Finding("too-few-after", "", Verdict.INSUFFICIENT))], None, id="insufficient"),
        pytest.param([judgement(Finding("two-speakers", ""))], None, id="failed"),
        pytest.param(
            [judgement(Finding("fault-missing", "", Verdict.INSUFFICIENT), Finding(CODE, "why", Verdict.INSUFFICIENT))],
            "why",
            id="stood-still",
        ),
        pytest.param(
            [judgement(Finding(CODE, "why", Verdict.INSUFFICIENT)), judgement(Finding("two-speakers", ""))],
            None,
            id="stood-still-and-failed",
        ),
        pytest.param([], None, id="not-judged"),
    ],
)
def test_only_a_standstill_is_a_reason_to_begin_anew(judgements: list[Judgement], reason: str | None) -> None:
    assert reason_to_begin_anew(judgements) == reason


def test_a_mutation_names_what_is_begun_anew(run: Run, judge_run: JudgeRun) -> None:
    the_machine_stands_still_and_the_backup_takes_over(run)
    assert reason_to_begin_anew(judge_run(run).values()) is not None
