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
from harness.promise import ClientKind, Expect, Promise
from harness.vm.run import Run
from tests.mutants.conftest import Judge, Start

FAILOVER = Promise(expect=Expect.FAILOVER)
TOGETHER = Promise(expect=Expect.STAYS_TOGETHER)


@pytest.mark.mutant("rule:R5-acknowledgement")
def test_outputs_that_leave_before_their_acknowledgement(start: Start, judge: Judge) -> None:
    run = start(TOGETHER, faults=(LogDelay,))
    with run.under(LogDelay(run.lab, run.backup.host)):
        run.expect_service()
    judge(run).assert_caught("output-rule", "frame-before-acknowledgement", "output-before-acknowledgement")


@pytest.mark.mutant("ignore-lease")
def test_a_primary_that_speaks_when_it_wakes(start: Start, judge: Judge) -> None:
    run = start(FAILOVER, faults=(Freeze,))
    survivor, frozen = run.backup, run.primary
    with run.under(Freeze(run.lab, frozen.host)):
        run.expect_takeover(survivor)
    run.pair.wait_until_halted(frozen)
    judge(run).assert_caught("single-speaker", "two-speakers")


@pytest.mark.mutant("skip-arbiter")
def test_nodes_that_do_not_ask_the_arbiter(start: Start, judge: Judge) -> None:
    run = start(Promise(expect=Expect.ONE_SURVIVOR), faults=(HostPairCut,))
    nodes = run.primary, run.backup
    with run.under(HostPairCut(run.lab, nodes[0].host, nodes[1].host)):
        for node in nodes:
            run.pair.wait_until_alone(node)
    judge(run).assert_caught("single-speaker", "spoke-without-claim", "two-owners", "arbiter-disagrees")


@pytest.mark.mutant("lose-log-tail")
def test_a_survivor_that_loses_the_end_of_the_log(start: Start, judge: Judge) -> None:
    run = start(FAILOVER, faults=(PowerOff,))
    survivor = run.backup
    run.inject(PowerOff(run.lab, run.primary.host))
    run.pair.wait_until_alone(survivor)
    judgements = judge(run)
    judgements.assert_caught("linearizable", "not-linearizable")
    judgements.assert_caught("durable", "write-lost")


@pytest.mark.mutant("repeat-outputs")
def test_a_survivor_that_repeats_outputs(start: Start, judge: Judge) -> None:
    run = start(Promise(expect=Expect.FAILOVER, ticks_duplicated_max=8), faults=(PowerOff,), client=ClientKind.TICKER)
    survivor = run.backup
    run.inject(PowerOff(run.lab, run.primary.host))
    run.expect_takeover(survivor)
    judgements = judge(run)
    judgements.assert_caught("ticks-complete", "tick-repeated")
    judgements.assert_caught("output-rule", "completed-output-repeated")


@pytest.mark.mutant("alter-reissue")
def test_a_survivor_that_reissues_other_bytes(start: Start, judge: Judge) -> None:
    run = start(FAILOVER, faults=(PowerOff,))
    survivor = run.backup
    run.inject(PowerOff(run.lab, run.primary.host))
    run.expect_takeover(survivor)
    judge(run).assert_caught("output-rule", "two-contents")


@pytest.mark.mutant("slow-go-live")
def test_a_survivor_that_takes_its_time(start: Start, judge: Judge) -> None:
    run = start(FAILOVER, faults=(PowerOff,))
    survivor = run.backup
    run.inject(PowerOff(run.lab, run.primary.host))
    run.expect_takeover(survivor)
    judge(run).assert_caught("stall-bounded", "stall-too-long")


@pytest.mark.mutant("reset-on-go-live")
def test_a_survivor_that_starts_the_guest_afresh(start: Start, judge: Judge) -> None:
    run = start(FAILOVER, faults=(PowerOff,))
    survivor = run.backup
    run.inject(PowerOff(run.lab, run.primary.host))
    run.pair.wait_until_alone(survivor)
    judge(run).assert_caught("connections-kept", "connection-reset", "segment-rst")


@pytest.mark.mutant("lose-writes")
def test_writes_that_never_reach_the_disk(start: Start, judge: Judge) -> None:
    run = start(TOGETHER)
    judge(run).assert_caught("durable", "block-write-lost")


@pytest.mark.mutant("serve-stale")
def test_reads_that_miss_what_was_just_written(start: Start, judge: Judge) -> None:
    judge(scrubbed_while_writes_are_held(start)).assert_caught("durable", "damage-reported")


def test_reads_of_a_healthy_pair_see_what_was_just_written(start: Start, judge: Judge) -> None:
    judge(scrubbed_while_writes_are_held(start)).assert_passed()


def scrubbed_while_writes_are_held(start: Start) -> Run:
    run = start(TOGETHER, faults=(LogDelay,))
    with run.under(LogDelay(run.lab, run.backup.host)):
        run.key_value.command("SCRUB")
        run.expect_service()
    return run


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
