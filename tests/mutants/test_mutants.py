"""A suite is worth what it catches: each VMM broken on purpose, running for real, is caught by an oracle, by name.

That a healthy VMM passes under the same faults is what `scenarios/` shows; where no scenario has the arrangement, the
test here runs it with and without the mutant.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fault_injectors.host import Freeze, PowerOff
from fault_injectors.logging_network import LogDelay
from fault_injectors.networks import HostPairCut
from harness.vm.trial import Trial
from tests.mutants.conftest import Judge, Start


@pytest.mark.mutant("rule:R5-acknowledgement")
def test_outputs_that_leave_before_their_acknowledgement(start: Start, judge: Judge) -> None:
    trial = start(expects_failover=False)
    with trial.under(LogDelay(trial.lab, trial.backup.host)):
        trial.expect_service()
    judge(trial).assert_caught("output-rule", "frame-before-acknowledgement", "output-before-acknowledgement")


@pytest.mark.mutant("ignore-lease")
def test_a_primary_that_speaks_when_it_wakes(start: Start, judge: Judge) -> None:
    trial = start()
    survivor, frozen = trial.backup, trial.primary
    with trial.under(Freeze(trial.lab, frozen.host)):
        trial.expect_takeover(survivor)
    trial.pair.wait_until_halted(frozen)
    judge(trial).assert_caught("single-speaker", "two-speakers")


@pytest.mark.mutant("skip-arbiter")
def test_nodes_that_do_not_ask_the_arbiter(start: Start, judge: Judge) -> None:
    trial = start()
    nodes = trial.primary, trial.backup
    with trial.under(HostPairCut(trial.lab, nodes[0].host, nodes[1].host)):
        for node in nodes:
            trial.pair.wait_until_alone(node)
    judge(trial).assert_caught("single-speaker", "two-owners", "two-speakers", "arbiter-disagrees")


@pytest.mark.mutant("lose-log-tail")
def test_a_survivor_that_loses_the_end_of_the_log(start: Start, judge: Judge) -> None:
    trial = start()
    survivor = trial.backup
    trial.inject(PowerOff(trial.lab, trial.primary.host))
    trial.pair.wait_until_alone(survivor)
    judgements = judge(trial)
    judgements.assert_caught("linearizable", "not-linearizable")
    judgements.assert_caught("durable", "write-lost")


@pytest.mark.mutant("repeat-outputs")
def test_a_survivor_that_repeats_outputs(start: Start, judge: Judge) -> None:
    trial = start(client="ticker", ticks_duplicated_max=8)
    survivor = trial.backup
    trial.inject(PowerOff(trial.lab, trial.primary.host))
    trial.expect_takeover(survivor)
    judgements = judge(trial)
    judgements.assert_caught("ticks-complete", "tick-repeated")
    judgements.assert_caught("output-rule", "completed-output-repeated")


@pytest.mark.mutant("alter-reissue")
def test_a_survivor_that_reissues_other_bytes(start: Start, judge: Judge) -> None:
    trial = start()
    survivor = trial.backup
    trial.inject(PowerOff(trial.lab, trial.primary.host))
    trial.expect_takeover(survivor)
    judge(trial).assert_caught("output-rule", "two-contents")


@pytest.mark.mutant("slow-go-live")
def test_a_survivor_that_takes_its_time(start: Start, judge: Judge) -> None:
    trial = start()
    survivor = trial.backup
    trial.inject(PowerOff(trial.lab, trial.primary.host))
    trial.expect_takeover(survivor)
    judge(trial).assert_caught("stall-bounded", "stall-too-long")


@pytest.mark.mutant("reset-on-go-live")
def test_a_survivor_that_starts_the_guest_afresh(start: Start, judge: Judge) -> None:
    trial = start()
    survivor = trial.backup
    trial.inject(PowerOff(trial.lab, trial.primary.host))
    trial.pair.wait_until_alone(survivor)
    judge(trial).assert_caught("connections-kept", "connection-reset", "segment-rst")


@pytest.mark.mutant("lose-writes")
def test_writes_that_never_reach_the_disk(start: Start, judge: Judge) -> None:
    trial = start(expects_failover=False, expects_faults=False)
    judge(trial).assert_caught("durable", "block-write-lost")


@pytest.mark.mutant("serve-stale")
def test_reads_that_miss_what_was_just_written(start: Start, judge: Judge) -> None:
    judge(scrubbed_while_writes_are_held(start)).assert_caught("durable", "damage-reported")


def test_reads_of_a_healthy_pair_see_what_was_just_written(start: Start, judge: Judge) -> None:
    judge(scrubbed_while_writes_are_held(start)).assert_passed()


def scrubbed_while_writes_are_held(start: Start) -> Trial:
    trial = start(expects_failover=False)
    with trial.under(LogDelay(trial.lab, trial.backup.host)):
        trial.command("SCRUB")
        trial.expect_service()
    return trial


def test_every_mutant_is_caught() -> None:
    marks = [mark for test in globals().values() for mark in getattr(test, "pytestmark", [])]
    caught = {mark.args[0] for mark in marks if mark.name == "mutant"}
    assert {mutant for mutant in mutants_of_the_lab() if not mutant.startswith("rule:")} <= caught


def mutants_of_the_lab() -> list[str]:
    # In a process of its own: this one has the shipped core.
    program = "from ftvmm import _core; print(*_core.MUTANTS, sep='\\n')"
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "FTVMM_CORE": "lab"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
