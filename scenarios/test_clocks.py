"""Clocks jump and hosts sleep: leases are kept by the time since boot, which counts sleep and knows no steps."""

from __future__ import annotations

import pytest

from fault_injectors.clock import ClockStep
from fault_injectors.sleep import Sleep
from harness.vm.trial import Trial

HOUR_SECONDS = 3600


@pytest.mark.faults("clock-step")
@pytest.mark.promise(expects_failover=False)
@pytest.mark.parametrize("seconds", [5 * HOUR_SECONDS, -5 * HOUR_SECONDS], ids=["forward", "back"])
def test_clock_of_the_primary_jumps_and_nobody_notices(trial: Trial, seconds: int) -> None:
    """No decision of the protocol looks at the wall clock."""
    with trial.under(ClockStep(trial.lab, trial.primary.host, seconds)):
        trial.expect_service()
        trial.expect_protected()


@pytest.mark.faults("clock-step")
@pytest.mark.promise(expects_failover=False)
def test_clock_of_the_backup_jumps_and_nobody_notices(trial: Trial) -> None:
    """The guest's wall clock is the primary's, by the log: the backup's own is never asked."""
    with trial.under(ClockStep(trial.lab, trial.backup.host, 5 * HOUR_SECONDS)):
        trial.expect_service()
        trial.expect_protected()


@pytest.mark.faults("sleep")
def test_sleeping_primary_wakes_hours_later_and_does_not_speak(trial: Trial) -> None:
    """The backup takes over, the sleeper wakes hours later by its own clock: it halts itself before it says a word."""
    survivor, sleeping = trial.backup, trial.primary
    with trial.under(Sleep(trial.lab, sleeping.host, slept_seconds=5 * HOUR_SECONDS)):
        trial.expect_takeover(survivor)
    trial.pair.wait_until_halted(sleeping)
    trial.expect_service()
