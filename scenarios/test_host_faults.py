"""A host dies, freezes, or loses its VMM or what its memory held: the client sees a stall at most."""

from __future__ import annotations

import time

import pytest

from fault_injectors.host import Freeze, PowerOff
from fault_injectors.memory import DamagedMemory
from fault_injectors.vmm import KillVmm
from harness.lab import topology
from harness.promise import Expect, Promise
from harness.scenario import scenario
from harness.vm.pair import Node, Role
from harness.vm.run import Run


@scenario(Promise(expect=Expect.FAILOVER), faults=(PowerOff,))
@pytest.mark.smoke
def test_primary_loses_power_under_load(run: Run) -> None:
    """The primary's host loses power: the backup goes live, and every connection lives on."""
    survivor = run.backup
    run.inject(PowerOff(run.lab, run.primary.host))
    run.expect_takeover(survivor)


@scenario(Promise(expect=Expect.PRIMARY_ALONE), faults=(PowerOff,))
def test_backup_loses_power_under_load(run: Run) -> None:
    """The backup's host loses power: the primary wins the next generation and goes on alone."""
    survivor = run.primary
    run.inject(PowerOff(run.lab, run.backup.host))
    run.expect_takeover(survivor)


@scenario(Promise(expect=Expect.FAILOVER), faults=(KillVmm,))
def test_primary_vmm_is_killed(run: Run) -> None:
    """SIGKILL hits the primary's VMM: its kernel lives on and resets the log connection."""
    survivor, victim = run.backup, run.primary
    run.inject(KillVmm(run.lab, victim.host, victim.process.pid))
    run.expect_takeover(survivor)


@scenario(Promise(expect=Expect.FAILOVER, stall_ms_max=10_000), faults=(KillVmm,))
def test_primary_dies_while_the_interface_of_the_backup_is_down(run: Run) -> None:
    """The backup could do nothing with the VM: it asks for it when its interface is up again, and not before."""
    survivor, victim = run.backup, run.primary
    survivor.host.run(f"ip link set {topology.TAP} down", check=True)
    run.inject(KillVmm(run.lab, victim.host, victim.process.pid))
    run.pair.wait_for_event(survivor, "drained")
    # Ten leases: who asks at all has asked by then.
    time.sleep(1)
    run.expect_roles({survivor: Role.CANDIDATE})
    survivor.host.run(f"ip link set {topology.TAP} up", check=True)
    run.expect_takeover(survivor)


@scenario(Promise(expect=Expect.PRIMARY_ALONE), faults=(KillVmm,))
def test_backup_vmm_is_killed(run: Run) -> None:
    """SIGKILL hits the backup's VMM: the primary goes on alone."""
    survivor, victim = run.primary, run.backup
    run.inject(KillVmm(run.lab, victim.host, victim.process.pid))
    run.expect_takeover(survivor)


def damaged_memory(run: Run, node: Node) -> DamagedMemory:
    """Of a node's host, where it holds the code of the VM."""
    image = f"{run.lab.image_directory}/{run.pair.guest.image}"
    return DamagedMemory(run.lab, node.host, node.process.pid, image)


@scenario(Promise(expect=Expect.FAILOVER), faults=(DamagedMemory,))
def test_memory_of_the_primary_is_damaged(run: Run) -> None:
    """The guest traps there, and would nowhere else: that is not the VM's end, and the backup goes live."""
    survivor = run.backup
    run.inject(damaged_memory(run, run.primary))
    run.expect_takeover(survivor)


@scenario(Promise(expect=Expect.PRIMARY_ALONE), faults=(DamagedMemory,))
def test_memory_of_the_backup_is_damaged(run: Run) -> None:
    """The replica traps where the primary's guest goes on: it halts itself, and the primary goes on alone."""
    survivor = run.primary
    run.inject(damaged_memory(run, run.backup))
    run.expect_takeover(survivor)


@scenario(Promise(expect=Expect.FAILOVER), faults=(Freeze,))
def test_frozen_primary_wakes_after_the_failover_and_does_not_speak(run: Run) -> None:
    """The primary's host stands still, the backup takes over, the host wakes: the old primary halts itself."""
    survivor, frozen = run.backup, run.primary
    with run.under(Freeze(run.lab, frozen.host)):
        run.expect_takeover(survivor)
    run.pair.wait_until_halted(frozen)
    run.expect_service()
