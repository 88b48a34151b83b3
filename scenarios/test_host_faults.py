"""A host dies, freezes, or loses its VMM: the client sees a stall at most."""

from __future__ import annotations

import pytest

from fault_injectors.host import Freeze, PowerOff
from fault_injectors.vmm import KillVmm
from harness.vm.trial import Trial


@pytest.mark.smoke
def test_primary_loses_power_under_load(trial: Trial) -> None:
    """The primary's host loses power: the backup goes live, and every connection lives on."""
    survivor = trial.backup
    trial.inject(PowerOff(trial.lab, trial.primary.host))
    trial.expect_takeover(survivor)


@pytest.mark.promise(expects_failover=False)
def test_backup_loses_power_under_load(trial: Trial) -> None:
    """The backup's host loses power: the primary wins the next generation and goes on alone."""
    survivor = trial.primary
    trial.inject(PowerOff(trial.lab, trial.backup.host))
    trial.expect_takeover(survivor)


def test_primary_vmm_is_killed(trial: Trial) -> None:
    """SIGKILL hits the primary's VMM: its kernel lives on and resets the log connection."""
    survivor, victim = trial.backup, trial.primary
    trial.inject(KillVmm(trial.lab, victim.host, victim.process.pid))
    trial.expect_takeover(survivor)


@pytest.mark.promise(expects_failover=False)
def test_backup_vmm_is_killed(trial: Trial) -> None:
    """SIGKILL hits the backup's VMM: the primary goes on alone."""
    survivor, victim = trial.primary, trial.backup
    trial.inject(KillVmm(trial.lab, victim.host, victim.process.pid))
    trial.expect_takeover(survivor)


def test_frozen_primary_wakes_after_the_failover_and_does_not_speak(trial: Trial) -> None:
    """The primary's host stands still, the backup takes over, the host wakes: the old primary halts itself."""
    survivor, frozen = trial.backup, trial.primary
    with trial.under(Freeze(trial.lab, frozen.host)):
        trial.expect_takeover(survivor)
    trial.pair.wait_until_halted(frozen)
    trial.expect_service()
