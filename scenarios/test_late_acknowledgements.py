"""Acknowledgements come late, each entry with one of its own: an output that leaves one entry too soon is seen."""

from __future__ import annotations

import pytest

from fault_injectors.fault import Direction
from fault_injectors.heartbeat import HeartbeatLoss
from fault_injectors.host import PowerOff
from fault_injectors.logging_network import LogDelay
from harness.promise import ClientKind, Expect, Promise
from harness.scenario import scenario
from harness.vm.run import Run

LATE = pytest.mark.parametrize("delay_ms", [20, 50], ids=["20ms", "50ms"])
# The answers to heartbeats acknowledge as well, and would come sooner.
FAULTS = (LogDelay, HeartbeatLoss)


def late(run: Run, delay_ms: int) -> tuple[HeartbeatLoss, LogDelay]:
    backup = run.backup.host
    loss = HeartbeatLoss(run.lab, backup, direction=Direction.INCOMING)
    return loss, LogDelay(run.lab, backup, "downstream", delay_ms=delay_ms, jitter_ms=10)


@scenario(Promise(expect=Expect.STAYS_TOGETHER, stall_ms_max=1500), faults=FAULTS, entries_per_message=1)
@LATE
def test_outputs_wait_for_late_acknowledgements(run: Run, delay_ms: int) -> None:
    """Frames, block writes and console lines alike: the client sees latency and nothing else."""
    with run.under(*late(run, delay_ms)):
        run.expect_together()


@scenario(Promise(expect=Expect.FAILOVER, stall_ms_max=1500), faults=(*FAULTS, PowerOff), entries_per_message=1)
@LATE
def test_primary_dies_while_acknowledgements_are_late(run: Run, delay_ms: int) -> None:
    """More is uncertain than ever: the survivor says all of it again, and nothing that was not said is missing."""
    survivor = run.backup
    with run.under(*late(run, delay_ms)):
        run.await_confirmations()
        run.inject(PowerOff(run.lab, run.primary.host))
        run.expect_takeover(survivor)


@scenario(
    Promise(expect=Expect.FAILOVER, ticks_duplicated_max=8),
    faults=(*FAULTS, PowerOff),
    client=ClientKind.TICKER,
    entries_per_message=1,
)
def test_no_tick_is_lost_while_acknowledgements_are_late(run: Run) -> None:
    """Every datagram depends on an entry of its own."""
    survivor = run.backup
    with run.under(*late(run, 50)):
        run.await_confirmations()
        run.inject(PowerOff(run.lab, run.primary.host))
        run.expect_takeover(survivor)
