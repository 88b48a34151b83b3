"""A host's kernel panics, hangs, starts anew, or runs out of memory: to the others it is a host that fell silent."""

from __future__ import annotations

import pytest

from fault_injectors.kernel import KernelHang, KernelPanic, Reboot
from fault_injectors.memory import MemoryPressure
from harness.promise import Expect, Promise
from harness.scenario import scenario
from harness.vm.run import Run


@scenario(Promise(expect=Expect.FAILOVER), faults=(KernelPanic,))
@pytest.mark.smoke
def test_kernel_of_the_primary_panics(run: Run) -> None:
    """The host stays dead with its power on: the backup goes live, and every connection lives on."""
    survivor = run.backup
    run.inject(KernelPanic(run.lab, run.primary.host))
    run.expect_takeover(survivor)


@scenario(Promise(expect=Expect.FAILOVER), faults=(KernelHang,))
def test_kernel_of_the_primary_hangs(run: Run) -> None:
    """No process of the host gets time, its kernel still acknowledges TCP: only signs of life count, not sockets."""
    survivor = run.backup
    run.inject(KernelHang(run.lab, run.primary.host))
    run.expect_takeover(survivor)


@scenario(Promise(expect=Expect.FAILOVER), faults=(Reboot,))
def test_primary_reboots_in_the_middle(run: Run) -> None:
    """The host is back before long, but its node is gone: the survivor goes on alone, undisturbed by the return."""
    survivor = run.backup
    run.inject(Reboot(run.lab, run.primary.host))
    run.expect_takeover(survivor)


@scenario(Promise(expect=Expect.FAILOVER, stall_ms_max=2000), faults=(MemoryPressure,))
def test_primary_vmm_is_killed_for_want_of_memory(run: Run) -> None:
    """The host starves before its kernel kills the VMM: slow first and dead then, it speaks no later than allowed."""
    survivor, victim = run.backup, run.primary
    run.inject(MemoryPressure(run.lab, victim.host, victim.process.pid))
    run.expect_takeover(survivor)
