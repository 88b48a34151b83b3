"""A suite is worth what it catches: each VMM broken on purpose, running for real, is caught by an oracle, by name."""

from __future__ import annotations

from fault_injectors.host import Freeze, PowerOff
from fault_injectors.logging_network import LogDelay
from fault_injectors.networks import HostPairCut
from tests.mutants.conftest import Break, Judge


def test_outputs_that_leave_before_their_acknowledgement(start: Break, judged: Judge) -> None:
    trial = start("release-before-acknowledgement", expects_failover=False)
    with trial.under(LogDelay(trial.lab, trial.backup.host, delay_ms=60)):
        trial.expect_service()
    judged(trial).assert_caught("output-rule", "frame-before-acknowledgement")


def test_a_woken_primary_that_speaks(start: Break, judged: Judge) -> None:
    trial = start("ignore-lease")
    survivor, frozen = trial.backup, trial.primary
    with trial.under(Freeze(trial.lab, frozen.host)):
        trial.expect_takeover(survivor)
    trial.pair.wait_until_halted(frozen)
    judged(trial).assert_caught("single-speaker", "two-speakers")


def test_a_survivor_that_does_not_ask_the_arbiter(start: Break, judged: Judge) -> None:
    trial = start("skip-arbiter")
    nodes = trial.primary, trial.backup
    with trial.under(HostPairCut(trial.lab, nodes[0].host, nodes[1].host)):
        for node in nodes:
            trial.pair.wait_until_alone(node)
    judgements = judged(trial)
    for code in ("live-without-winning", "two-owners", "two-speakers", "arbiter-disagrees"):
        judgements.assert_caught("single-speaker", code)


def test_a_survivor_that_loses_the_end_of_the_log(start: Break, judged: Judge) -> None:
    trial = start("lose-log-tail")
    survivor = trial.backup
    trial.inject(PowerOff(trial.lab, trial.primary.host))
    trial.pair.wait_until_alone(survivor)
    judgements = judged(trial)
    print(judgements)
    judgements.assert_caught("linearizable", "not-linearizable")
    judgements.assert_caught("durable", "write-lost")


def test_a_survivor_that_repeats_outputs(start: Break, judged: Judge) -> None:
    trial = start("repeat-outputs", client="ticker", ticks_duplicated_max=8)
    survivor = trial.backup
    trial.inject(PowerOff(trial.lab, trial.primary.host))
    trial.expect_takeover(survivor)
    judgements = judged(trial)
    judgements.assert_caught("ticks-complete", "tick-repeated")
    judgements.assert_caught("output-rule", "completed-output-repeated")


def test_a_survivor_that_reissues_other_bytes(start: Break, judged: Judge) -> None:
    trial = start("alter-reissue")
    survivor = trial.backup
    trial.inject(PowerOff(trial.lab, trial.primary.host))
    trial.expect_takeover(survivor)
    judged(trial).assert_caught("output-rule", "two-contents")


def test_a_survivor_that_is_slow(start: Break, judged: Judge) -> None:
    trial = start("slow-go-live")
    survivor = trial.backup
    trial.inject(PowerOff(trial.lab, trial.primary.host))
    trial.expect_takeover(survivor)
    judged(trial).assert_caught("stall-bounded", "stall-too-long")


def test_a_survivor_that_starts_the_guest_afresh(start: Break, judged: Judge) -> None:
    trial = start("reset-on-go-live")
    survivor = trial.backup
    trial.inject(PowerOff(trial.lab, trial.primary.host))
    trial.pair.wait_until_alone(survivor)
    judgements = judged(trial)
    print(judgements)
    judgements.assert_caught("connections-kept", "connection-reset")


def test_writes_that_never_reach_the_disk(start: Break, judged: Judge) -> None:
    trial = start("lose-writes", expects_failover=False, expects_faults=False)
    print(trial.command("SCRUB"))
    judgements = judged(trial)
    print(judgements)
    judgements.assert_caught("durable", "x")


def test_reads_that_miss_the_last_write(start: Break, judged: Judge) -> None:
    trial = start("serve-stale", expects_failover=False)
    with trial.under(LogDelay(trial.lab, trial.backup.host, delay_ms=60)):
        print(trial.command("SCRUB"))
    judgements = judged(trial)
    print(judgements)
    judgements.assert_caught("durable", "x")
