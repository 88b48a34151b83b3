"""Heartbeats are made up, or said once more: who has no key is not heard, and what is old proves nothing new."""

from __future__ import annotations

import pytest

from fault_injectors.fault import Direction
from fault_injectors.heartbeat import HeartbeatLoss
from fault_injectors.host import PowerOff
from fault_injectors.logging_network import LogDelay
from fault_injectors.stray_heartbeats import ForgedHeartbeats, ReplayedHeartbeats
from harness.promise import Expect, Promise, unnoticed
from harness.scenario import scenario
from harness.vm.node_file import Timing
from harness.vm.run import Run


@scenario(unnoticed(), faults=(ForgedHeartbeats,))
@pytest.mark.parametrize("hearer", ["primary", "backup"])
def test_forged_heartbeats_are_not_heard(run: Run, hearer: str) -> None:
    """One flipped bit in a real one, wherever it is: the tag tells."""
    first, second = (run.backup, run.primary) if hearer == "primary" else (run.primary, run.backup)
    with run.under(ForgedHeartbeats(run.lab, first.host, second.host)):
        run.expect_together()


@scenario(unnoticed(), faults=(ReplayedHeartbeats,))
def test_answers_of_the_backup_are_said_once_more(run: Run) -> None:
    """An echo of long ago makes no lease longer, nor does it take one away."""
    with run.under(ReplayedHeartbeats(run.lab, run.backup.host, run.primary.host)):
        run.expect_together()


@scenario(Promise(expect=Expect.FAILOVER, stall_ms_min=100), faults=(ReplayedHeartbeats, PowerOff))
def test_heartbeats_of_a_dead_primary_are_said_once_more(run: Run) -> None:
    """They are authentic and tell of nobody who lives: the backup takes over in time."""
    survivor = run.backup
    with run.under(ReplayedHeartbeats(run.lab, run.primary.host, survivor.host)):
        run.inject(PowerOff(run.lab, run.primary.host))
        run.expect_takeover(survivor)


@scenario(Promise(expect=Expect.FAILOVER, stall_ms_min=100), faults=(ForgedHeartbeats, PowerOff))
def test_heartbeats_of_a_dead_primary_are_forged(run: Run) -> None:
    """Nobody without the key keeps a dead primary alive."""
    survivor = run.backup
    with run.under(ForgedHeartbeats(run.lab, run.primary.host, survivor.host)):
        run.inject(PowerOff(run.lab, run.primary.host))
        run.expect_takeover(survivor)


@scenario(
    Promise(expect=Expect.STAYS_TOGETHER, stall_ms_max=2000),
    faults=(HeartbeatLoss, LogDelay),
    entries_per_message=1,
)
def test_answers_are_as_old_as_the_lease(run: Run) -> None:
    """Only late echoes come, some just within LEASE and some just past it: no output leaves on the wrong side of it."""
    backup = run.backup.host
    loss = HeartbeatLoss(run.lab, backup, direction=Direction.INCOMING)
    delay = LogDelay(run.lab, backup, "downstream", delay_ms=Timing().lease_ms - 5, jitter_ms=10)
    with run.under(loss, delay):
        run.expect_together()
