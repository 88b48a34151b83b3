"""Hosts with clocks of their own are judged as those that share this machine's, and only because of `clocks.json`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.evidence.clocks import ClockPair, Pause, read_clock_record
from harness.evidence.directory import EvidenceDirectory
from harness.evidence.failover import find_failovers
from harness.evidence.verdicts import Judgement, Verdict
from harness.oracles.registry import UNCERTAINTY_NS_MAX, judge
from tests.oracles.mutations import MUTATIONS, TICKER_MUTATIONS, Mutation, the_wall_clock_was_stepped
from tests.oracles.outside_mutations import (
    a_frozen_primary_says_what_it_was_about_to_say,
    the_backup_says_that_it_acknowledged_later,
)
from tests.oracles.own_clocks import OwnClocks, own_clocks
from tests.oracles.run_builder import (
    BACKUP,
    END_MS,
    KILL_MS,
    LIVE_MS,
    PRIMARY,
    BuiltEvidence,
    Run,
    boot_ns,
    gratuitous_arp,
    segment,
)

# How well a round trip of several milliseconds under emulation bounds a clock, sampled a few times a run.
COARSE = {"width_ns": 6_000_000, "every_ms": 400.0}
Judgements = dict[str, Judgement]


def write(run: Run, directory: Path, clocks: OwnClocks) -> BuiltEvidence:
    """The run's evidence with the hosts' own clocks; the dead primary's host is up again at the end."""
    again = run.trace(PRIMARY, END_MS - 100, "node-started", 0, vm="6f1c", pid=11, mutants=[], timing={})
    again["incarnation"] = "cccc"
    return rewrite(run, directory, clocks)


def rewrite(run: Run, directory: Path, clocks: OwnClocks) -> BuiltEvidence:
    return BuiltEvidence(clocks.write(run.write(directory)), run)


def judged(evidence: EvidenceDirectory) -> Judgements:
    return {judgement.oracle: judgement for judgement in judge(evidence)}


def findings(judgements: Judgements) -> dict[str, list[str]]:
    return {
        name: [f"{finding.code}: {finding.message}" for finding in judgement.findings]
        for name, judgement in judgements.items()
        if judgement.verdict is not Verdict.PASSED
    }


@pytest.mark.parametrize("sampling", [{}, COARSE], ids=["well-sampled", "coarsely-sampled"])
def test_a_good_run_passes(run: Run, tmp_path: Path, sampling: dict[str, float]) -> None:
    shared = judged(BuiltEvidence(run.write(tmp_path / "shared"), run))
    own = judged(write(run, tmp_path / "own", own_clocks(**sampling)))  # type: ignore[arg-type]
    assert findings(own) == {}
    assert own.keys() == shared.keys()
    assert own["output-rule"].counted == shared["output-rule"].counted
    assert own["linearizable"].counted == shared["linearizable"].counted


def test_a_good_run_passes_under_the_ticker(ticker_run: Run, tmp_path: Path) -> None:
    assert findings(judged(write(ticker_run, tmp_path, own_clocks()))) == {}


def test_without_the_samples_a_good_run_is_judged_wrong(run: Run, tmp_path: Path) -> None:
    evidence = write(run, tmp_path, own_clocks())
    (evidence.path / "clocks.json").unlink()
    failed = findings(judged(evidence))
    assert {"output-rule", "single-speaker", "evidence-sufficient", "connections-kept"} <= failed.keys()


# A host may step a clock of its own; of this machine's, a test below tells.
CAUGHT = [mutation for mutation in MUTATIONS if mutation.apply is not the_wall_clock_was_stepped]


@pytest.mark.parametrize("mutation", CAUGHT, ids=lambda mutation: mutation.name)
def test_mutation_is_caught(mutation: Mutation, run: Run, tmp_path: Path) -> None:
    mutation.apply(run)
    if PRIMARY not in run.traces:
        run.traces[PRIMARY] = []
        evidence = write(run, tmp_path, own_clocks())
        (evidence.path / "hosts" / PRIMARY / "trace.jsonl").unlink()
    else:
        evidence = write(run, tmp_path, own_clocks())
    judgement = judged(evidence)[mutation.oracle]
    assert mutation.code in {finding.code for finding in judgement.findings}
    assert judgement.verdict is not Verdict.PASSED


@pytest.mark.parametrize("mutation", TICKER_MUTATIONS, ids=lambda mutation: mutation.name)
def test_ticker_mutation_is_caught(mutation: Mutation, ticker_run: Run, tmp_path: Path) -> None:
    mutation.apply(ticker_run)
    judgement = judged(write(ticker_run, tmp_path, own_clocks()))[mutation.oracle]
    assert mutation.code in {finding.code for finding in judgement.findings}


def test_a_violation_within_the_doubt_is_excused_and_one_beyond_it_is_not(run: Run, tmp_path: Path) -> None:
    the_backup_says_that_it_acknowledged_later(run)
    coarse = judged(write(run, tmp_path / "coarse", own_clocks(**COARSE)))  # type: ignore[arg-type]
    fine = judged(write(run, tmp_path / "fine", own_clocks()))
    assert coarse["output-rule"].verdict is Verdict.PASSED
    assert "output-before-acknowledgement" in {finding.code for finding in fine["output-rule"].findings}


def test_stamps_of_hosts_come_back_to_where_they_were(run: Run, tmp_path: Path) -> None:
    shared = BuiltEvidence(run.write(tmp_path / "shared"), run)
    own = rewrite(run, tmp_path / "own", own_clocks(**COARSE))  # type: ignore[arg-type]
    for host, trace in shared.traces.items():
        for true, mapped in zip(trace.events, own.traces[host].events, strict=True):
            assert abs(true.monotonic_ns - mapped.monotonic_ns) <= mapped.uncertainty_ns <= 7_000_000
            assert mapped.earliest_wall_ns <= true.wall_ns <= mapped.latest_wall_ns
    order = [one.call_ns for one in own.history.operations]
    assert [one.call_ns for one in shared.history.operations] == sorted(
        one.call_ns for one in shared.history.operations
    )
    assert order == sorted(order)
    (true_failover,), (failover,) = find_failovers(shared), find_failovers(own)
    assert failover.fault == true_failover.fault
    assert failover.total_ms == pytest.approx(true_failover.total_ms)
    assert failover.silence_ms == pytest.approx(true_failover.silence_ms, abs=1)


def test_a_primary_whose_clock_stood_still_is_caught_speaking_when_it_wakes(run: Run, tmp_path: Path) -> None:
    """Its clock stops with it, so by its own clock it never was away."""
    stop_ms, wake_ms = 1000.5, LIVE_MS + 40
    clocks = own_clocks()
    (first, _) = clocks.hosts[PRIMARY]
    stood_ns = boot_ns(wake_ms) - boot_ns(stop_ms)
    clocks.hosts[PRIMARY] = [type(first)(0, first.boottime_ns, first.pair_ns, leap=(wake_ms, -stood_ns))]
    clocks.pauses.append(
        Pause(PRIMARY, boot_ns(stop_ms - 1), boot_ns(stop_ms + 30), boot_ns(wake_ms - 1), boot_ns(wake_ms + 1))
    )
    # Past its look before it stood still: excused, where the scenario says that there can be such frames.
    run.scenario["late_frames_max"] = 1
    a_frozen_primary_says_what_it_was_about_to_say(run)
    assert findings(judged(rewrite(run, tmp_path / "silent", clocks))) == {}
    run.frame(PRIMARY, wake_ms + 5.1, segment(0, 9999, b"I am still here"))
    caught = judged(rewrite(run, tmp_path / "speaking", clocks))["single-speaker"]
    assert [finding.code for finding in caught.findings] == ["two-speakers"]


def test_a_judgement_that_hangs_on_a_large_doubt_is_none(run: Run, tmp_path: Path) -> None:
    """It announces itself 80 ms before it wins, which samples of 400 ms width can neither show nor exclude."""
    run.frame(BACKUP, KILL_MS + 139, gratuitous_arp())
    evidence = write(run, tmp_path, own_clocks(width_ns=400_000_000, every_ms=400.0))
    assert evidence.uncertainty_ns > UNCERTAINTY_NS_MAX
    judgement = judged(evidence)["single-speaker"]
    assert judgement.verdict is Verdict.INSUFFICIENT
    assert [finding.code for finding in judgement.findings] == ["clock-uncertain"]


def test_a_step_of_this_machines_clock_is_noticed_and_one_of_a_host_does_no_harm(run: Run, tmp_path: Path) -> None:
    the_wall_clock_was_stepped(run)
    evidence = write(run, tmp_path, own_clocks())
    assert findings(judged(evidence)) == {}
    record = read_clock_record(evidence.path / "clocks.json")
    half = len(record.machine) // 2
    stepped = [ClockPair(pair.monotonic_ns, pair.wall_ns + 3_000_000_000) for pair in record.machine[half:]]
    record.machine = [*record.machine[:half], *stepped]
    record.write(evidence.path / "clocks.json")
    again = judged(BuiltEvidence(evidence.path, run))["evidence-sufficient"]
    assert "clock-stepped" in {finding.code for finding in again.findings}


def test_a_host_that_nobody_sampled_is_not_judged(run: Run, tmp_path: Path) -> None:
    evidence = write(run, tmp_path, own_clocks())
    record = read_clock_record(evidence.path / "clocks.json")
    record.samples = [sample for sample in record.samples if sample.boot_id != f"{PRIMARY}-1"]
    record.write(evidence.path / "clocks.json")
    said = judged(evidence)["output-rule"]
    assert said.verdict is Verdict.INSUFFICIENT
    assert said.findings[0].code == "evidence-unreadable"
    assert json.loads((evidence.path / "verdicts.json").read_bytes())
