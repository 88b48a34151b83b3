"""A suite is worth what it catches: each VMM broken on purpose, running for real, is caught by the oracle named for it.

`MUTANTS` in the environment says which: all where it is empty, a number of them drawn by `MUTANTS_SEED`, or names with
commas between. Without it none is run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from harness.evidence.allure_report import EvidenceInsufficientError, PromiseBrokenError
from harness.evidence.verdicts import Verdict
from harness.lab.interface import Lab
from harness.promise import ArbiterKind, Workload
from harness.scenario import Plan
from harness.vm.run import Run
from scenarios import test_etcd, test_host_faults, test_linux_programs, test_moments_of_a_takeover
from tests.mutants import arrangements
from tests.mutants.conftest import Judgements
from tests.mutants.table import TABLE, Mutant, Scenario

WANTED = os.environ.get("MUTANTS", "0") or "all"
SEED = int(os.environ.get("MUTANTS_SEED") or random.SystemRandom().randrange(10**6))


# What has to be seen as well where the arbiter's word is read from keys and not from files: who is caught by it, under
# what, and by which findings of `single-speaker` or `stall-bounded`.
WITH_ETCD: tuple[tuple[str, Scenario, str, tuple[str, ...]], ...] = (
    (
        "skip-arbiter",
        test_etcd.test_majority_is_lost_and_then_the_primary_loses_power,
        "single-speaker",
        ("spoke-without-claim",),
    ),
    ("ignore-lost", test_moments_of_a_takeover.test_primary_asks_too_late, "single-speaker", ("two-speakers",)),
    ("ask-early", test_host_faults.test_primary_vmm_is_killed, "single-speaker", ("asked-within-lease",)),
    (
        "ask-once",
        test_etcd.test_primary_loses_power_with_the_member_that_leads,
        "stall-bounded",
        ("unanswered", "stall-too-long"),
    ),
)


def wanted() -> list[Mutant]:
    if WANTED == "all":
        return list(TABLE)
    if WANTED.isdigit():
        return random.Random(SEED).sample(TABLE, int(WANTED))
    names = WANTED.split(",")
    return [mutant for mutant in TABLE if mutant.name in names]


def run_of(
    lab: Lab,
    directory: Path,
    scenario: Scenario,
    mutants: tuple[str, ...],
    name: str,
    workload: Workload = Workload.KV,
    arbiter: ArbiterKind | None = None,
) -> Run:
    """A run of a scenario with a broken VMM, with another arbiter than the scenario's own where one is given."""
    [plan] = [mark.args[0] for mark in scenario.pytestmark if mark.name == "scenario"]  # type: ignore[attr-defined]
    assert isinstance(plan, Plan)
    plan = dataclasses.replace(plan, mutants=mutants, arbiter=arbiter or plan.arbiter)
    return Run(lab, directory, plan, name=name, seed=zlib.crc32(name.encode()), workload=workload)


def judgements_of(run: Run, scenario: Scenario) -> tuple[Judgements, BaseException | None]:
    """What the oracles say of a run that a mutant spoils, and what its own lines raised."""
    own_lines: BaseException | None = None
    try:
        try:
            run.start()
            scenario(run)
        except Exception as error:
            own_lines = error
        # What the scenario's lines say of it is no verdict of an oracle's.
        with contextlib.suppress(PromiseBrokenError, EvidenceInsufficientError, type(own_lines or ValueError())):
            run.conclude(own_lines)
    finally:
        if not run.judgements:
            run.abandon()
    return Judgements(run.judgements), own_lines


@pytest.mark.parametrize("mutant", wanted(), ids=lambda mutant: f"{mutant.name},seed={SEED}")
def test_mutant_is_caught(lab: Lab, tmp_path: Path, mutant: Mutant) -> None:
    run = run_of(lab, tmp_path / "evidence", mutant.under, mutant.names, mutant.name)
    judgements, own_lines = judgements_of(run, mutant.under)
    found = judgements.findings(mutant.oracle)
    failed = {finding.code for finding in found if finding.verdict is Verdict.FAILED}
    assert failed & set(mutant.codes), f"{mutant.names}: {own_lines!r}\n{judgements}"
    for oracle, code in mutant.also:
        assert code in {finding.code for finding in judgements.findings(oracle)}, f"{mutant.names}\n{judgements}"


@pytest.mark.parametrize(
    ("mutant", "scenario", "oracle", "codes"),
    [case for case in WITH_ETCD if case[0] in {mutant.name for mutant in wanted()}],
)
def test_mutant_is_caught_with_etcd(
    lab: Lab, tmp_path: Path, mutant: str, scenario: Scenario, oracle: str, codes: tuple[str, ...]
) -> None:
    run = run_of(lab, tmp_path / "evidence", scenario, (mutant,), mutant, arbiter=ArbiterKind.ETCD)
    judgements, own_lines = judgements_of(run, scenario)
    failed = {finding.code for finding in judgements.findings(oracle) if finding.verdict is Verdict.FAILED}
    assert failed & set(codes), f"{own_lines!r}\n{judgements}"


@pytest.mark.parametrize("workload", test_linux_programs.PROGRAMS if WANTED == "all" else [])
def test_what_a_program_forgets_is_seen_through_its_own_protocol(lab: Lab, tmp_path: Path, workload: Workload) -> None:
    scenario = test_linux_programs.test_primary_loses_power
    run = run_of(lab, tmp_path / "evidence", scenario, ("reset-on-go-live",), f"reset-{workload}", workload)
    judgements, _ = judgements_of(run, scenario)
    judgements.assert_caught("connections-kept", "segment-rst")
    # What is on a disk is not forgotten.
    if not run.pair.guest.block:
        judgements.assert_caught("linearizable", "not-linearizable")


@pytest.mark.parametrize(
    ("mutant", "oracle", "code"),
    [("lose-a-write", "outputs-complete", "block-missing"), ("tear-a-write", "output-rule", "two-contents")]
    if WANTED == "all"
    else [],
)
def test_what_a_program_writes_to_its_disk_is_looked_for(
    lab: Lab, tmp_path: Path, mutant: str, oracle: str, code: str
) -> None:
    """Each command of redis' is several block writes, by its file and by its file system's journal."""
    scenario = test_linux_programs.test_primary_loses_power
    run = run_of(lab, tmp_path / "evidence", scenario, (mutant,), mutant, Workload.REDIS)
    judgements, _ = judgements_of(run, scenario)
    judgements.assert_caught(oracle, code)


@pytest.mark.parametrize(
    "scenario",
    [each for each in vars(arrangements).values() if hasattr(each, "pytestmark")] if WANTED == "all" else [],
    ids=lambda scenario: scenario.__name__,
)
def test_a_healthy_vmm_keeps_its_promise_under_each_arrangement(lab: Lab, tmp_path: Path, scenario: Scenario) -> None:
    run = run_of(lab, tmp_path / "evidence", scenario, (), scenario.__name__)
    try:
        run.start()
        scenario(run)
    except Exception as error:
        run.conclude(error)
        raise
    run.conclude()


def test_every_mutant_of_the_labs_build_is_in_the_table() -> None:
    # In a process of its own: this one has the shipped core.
    program = "from ftvmm import _core; print(*_core.MUTANTS, sep='\\n')"
    known = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "FTVMM_CORE": "lab"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert {mutant.name for mutant in TABLE} == set(known)
    assert len({mutant.name for mutant in TABLE}) == len(TABLE) >= 40
