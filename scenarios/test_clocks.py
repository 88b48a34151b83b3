"""Clocks jump and hosts sleep: leases are kept by the time since boot, which counts sleep and knows no steps."""

from __future__ import annotations

import pytest

from fault_injectors.clock import ClockStep
from fault_injectors.sleep import Sleep
from harness.promise import Expect, Promise, unnoticed
from harness.scenario import scenario
from harness.vm.run import Run

HOUR_SECONDS = 3600


@scenario(unnoticed(), faults=(ClockStep,))
@pytest.mark.parametrize("seconds", [5 * HOUR_SECONDS, -5 * HOUR_SECONDS], ids=["forward", "back"])
def test_clock_of_the_primary_jumps_and_nobody_notices(run: Run, seconds: int) -> None:
    """No decision of the protocol looks at the wall clock."""
    with run.under(ClockStep(run.lab, run.primary.host, seconds)):
        run.expect_together()


@scenario(unnoticed(), faults=(ClockStep,))
def test_clock_of_the_backup_jumps_and_nobody_notices(run: Run) -> None:
    """The guest's wall clock is the primary's, by the log: the backup's own is never asked."""
    with run.under(ClockStep(run.lab, run.backup.host, 5 * HOUR_SECONDS)):
        run.expect_together()


@scenario(Promise(expect=Expect.FAILOVER), faults=(Sleep,))
def test_sleeping_primary_wakes_hours_later_and_does_not_speak(run: Run) -> None:
    """The backup takes over, the sleeper wakes hours later by its own clock: it halts itself before it says a word."""
    survivor, sleeping = run.backup, run.primary
    with run.under(Sleep(run.lab, sleeping.host, slept_seconds=5 * HOUR_SECONDS)):
        run.expect_takeover(survivor)
    run.pair.wait_until_halted(sleeping)
    run.expect_service()
