"""The logging channel is reset, corrupted, delayed, throttled or cut while both hosts live."""

from __future__ import annotations

import random

import pytest

from fault_injectors.fault import Direction
from fault_injectors.heartbeat import HeartbeatLoss
from fault_injectors.logging_network import (
    DOWNSTREAM,
    UPSTREAM,
    LogCorruption,
    LogDelay,
    LoggingCut,
    LogReset,
    LogThrottle,
)
from harness.promise import Expect, Promise, unnoticed
from harness.scenario import scenario
from harness.vm.run import Run


@scenario(Promise(expect=Expect.ONE_SURVIVOR), faults=(LogReset,))
def test_log_connection_is_reset_while_both_hosts_live(run: Run) -> None:
    """One of the two wins the next generation, never both; the other halts itself."""
    nodes = run.primary, run.backup
    run.inject(LogReset(run.lab, run.backup.host))
    run.expect_one_survivor(*nodes)


@scenario(Promise(expect=Expect.ONE_SURVIVOR), faults=(LogCorruption,))
@pytest.mark.smoke
def test_a_byte_of_the_log_is_corrupted(run: Run) -> None:
    """The backup sees it and takes nothing of it: the connection ends, and one of the two goes on."""
    nodes = run.primary, run.backup
    run.inject(LogCorruption(run.lab, run.backup.host))
    run.expect_one_survivor(*nodes)


@scenario(Promise(expect=Expect.ONE_SURVIVOR), faults=(LogCorruption,))
def test_an_acknowledgement_is_corrupted(run: Run) -> None:
    """The primary takes nothing of a damaged acknowledgement, least of all for one."""
    nodes = run.primary, run.backup
    run.inject(LogCorruption(run.lab, run.backup.host, stream="downstream"))
    run.expect_one_survivor(*nodes)


@scenario(Promise(expect=Expect.ONE_SURVIVOR), faults=(LogCorruption,))
@pytest.mark.parametrize("stream", ["entries", "acknowledgements"])
@pytest.mark.parametrize("place", range(2))
def test_a_byte_is_corrupted_anywhere_in_the_stream(run: Run, stream: str, place: int) -> None:
    """A length, a header, an entry, a tag: where the byte lies is drawn from the scenario's seed."""
    nodes = run.primary, run.backup
    bytes_max, way = (100_000, UPSTREAM) if stream == "entries" else (4_000, DOWNSTREAM)
    draw = random.Random(run.seed + place)
    after, mask = draw.randrange(bytes_max), 1 << draw.randrange(8)
    run.inject(LogCorruption(run.lab, run.backup.host, way, after_bytes=after, mask=mask))
    run.expect_one_survivor(*nodes)


@scenario(Promise(expect=Expect.ONE_SURVIVOR, stall_ms_max=2000), faults=(LoggingCut,))
def test_logging_network_is_cut_both_ways(run: Run) -> None:
    """Heartbeats still pass on the management network, but the log does not: the pair parts within T_ACK."""
    nodes = run.primary, run.backup
    with run.under(LoggingCut(run.lab, nodes[0].host, nodes[1].host)):
        run.expect_one_survivor(*nodes)


@scenario(Promise(expect=Expect.ONE_SURVIVOR, stall_ms_max=2000), faults=(LoggingCut,))
def test_log_does_not_reach_the_backup(run: Run) -> None:
    """Only what the primary says on the logging network is lost."""
    nodes = run.primary, run.backup
    with run.under(LoggingCut(run.lab, nodes[0].host, nodes[1].host, direction=Direction.OUTGOING)):
        run.expect_one_survivor(*nodes)


@scenario(Promise(expect=Expect.STAYS_TOGETHER), faults=(LoggingCut,))
def test_acknowledgements_do_not_reach_the_primary(run: Run) -> None:
    """Every sign of life carries them: they come over the management network, and the pair stays together.

    Each output waits for a heartbeat then, and a value of 64 KiB takes five rounds of them.
    """
    nodes = run.primary, run.backup
    with run.under(LoggingCut(run.lab, nodes[0].host, nodes[1].host, direction=Direction.INCOMING)):
        run.expect_together()


@scenario(Promise(expect=Expect.STAYS_TOGETHER, stall_ms_max=2000), faults=(LogDelay,))
def test_log_is_delayed_and_the_pair_stays_together(run: Run) -> None:
    """Every output waits for its acknowledgement: the client sees latency and nothing else.

    A value of 64 KiB takes five round trips, of which each waits for the log.
    """
    with run.under(LogDelay(run.lab, run.backup.host)):
        run.expect_together()


@scenario(Promise(expect=Expect.PRIMARY_ALONE, stall_ms_max=3000), faults=(LogThrottle,))
def test_log_is_throttled_below_what_the_guest_needs(run: Run) -> None:
    """A backup that cannot be kept up to date is given up, and the VM goes on without it."""
    survivor = run.primary
    with run.under(LogThrottle(run.lab, run.backup.host, rate_kib_per_second=4)):
        run.expect_takeover(survivor)


@scenario(unnoticed(), faults=(HeartbeatLoss,))
def test_all_heartbeats_are_lost_and_the_log_suffices(run: Run) -> None:
    """The log connection carries signs of life too: nobody is suspected."""
    with run.under(HeartbeatLoss(run.lab, run.backup.host, direction=Direction.INCOMING)):
        run.expect_together()
