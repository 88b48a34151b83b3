"""A failover seen by someone who counts every datagram."""

from __future__ import annotations

import pytest

from fault_injectors.host import PowerOff
from harness.vm.trial import Trial


@pytest.mark.client("ticker")
@pytest.mark.promise(ticks_duplicated_max=8)
def test_no_tick_is_lost_when_the_primary_dies(trial: Trial) -> None:
    """Under `resend` every uncertain datagram comes again: none is lost, and only an uncertain one may come twice."""
    survivor = trial.backup
    trial.inject(PowerOff(trial.lab, trial.primary.host))
    trial.expect_takeover(survivor)


@pytest.mark.client("ticker")
@pytest.mark.output_policy("drop")
@pytest.mark.promise(ticks_duplicated_max=0, ticks_lost_max=8)
def test_no_tick_comes_twice_when_uncertain_frames_are_dropped(trial: Trial) -> None:
    """Under `drop` an uncertain datagram may be lost, but none ever comes twice."""
    survivor = trial.backup
    trial.inject(PowerOff(trial.lab, trial.primary.host))
    trial.expect_takeover(survivor)
