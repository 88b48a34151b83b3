"""A host's kernel panics, hangs, starts anew, or runs out of memory: to the others it is a host that fell silent."""

from __future__ import annotations

import pytest

from fault_injectors.kernel import KernelHang, KernelPanic, Reboot
from fault_injectors.memory import MemoryPressure
from harness.vm.trial import Trial


@pytest.mark.smoke
@pytest.mark.faults("kernel-panic")
def test_kernel_of_the_primary_panics(trial: Trial) -> None:
    """The host stays dead with its power on: the backup goes live, and every connection lives on."""
    survivor = trial.backup
    trial.inject(KernelPanic(trial.lab, trial.primary.host))
    trial.expect_takeover(survivor)


@pytest.mark.faults("kernel-hang")
def test_kernel_of_the_primary_hangs(trial: Trial) -> None:
    """No process of the host gets time, its kernel still acknowledges TCP: only signs of life count, not sockets."""
    survivor = trial.backup
    trial.inject(KernelHang(trial.lab, trial.primary.host))
    trial.expect_takeover(survivor)


@pytest.mark.faults("reboot")
def test_primary_reboots_in_the_middle(trial: Trial) -> None:
    """The host is back before long, but its node is gone: the survivor goes on alone, undisturbed by the return."""
    survivor = trial.backup
    trial.inject(Reboot(trial.lab, trial.primary.host))
    trial.expect_takeover(survivor)


@pytest.mark.faults("memory-pressure")
def test_primary_vmm_is_killed_for_want_of_memory(trial: Trial) -> None:
    """The host starves before its kernel kills the VMM: slow first and dead then, it speaks no later than allowed."""
    survivor, victim = trial.backup, trial.primary
    trial.inject(MemoryPressure(trial.lab, victim.host, victim.process.pid))
    trial.expect_takeover(survivor)
