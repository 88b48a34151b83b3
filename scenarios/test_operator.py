"""An operator moves a VM about: its clients see a short stall, no output is uncertain, and it gets a new backup."""

from __future__ import annotations

import pytest

from fault_injectors.host import PowerOff
from fault_injectors.networks import ArbiterUnreachable
from fault_injectors.operator import OperatorCommand
from harness.promise import Expect, Promise, Workload
from harness.scenario import scenario
from harness.vm.node_file import CONFIG_PATH
from harness.vm.pair import Node
from harness.vm.run import Run

# What reaches the old host as the VM leaves it is asked for again 0.21 s later.
HANDED_OVER_MS_MAX = 600.0
# T_ACK, after which a primary goes on whose backup does not take the VM, and the pauses of TCP that double.
NOT_TAKEN_MS_MAX = 5000.0
HANDED_OVER = Promise(expect=Expect.FAILOVER, stall_ms_max=HANDED_OVER_MS_MAX)


def operate(run: Run, owner: Node, ends: Node, command: str) -> None:
    """Types a command on the host that runs the VM; the node on one of the two ends by it."""
    line = command_line(run, owner, command)
    run.inject(OperatorCommand(run.lab, owner.host, ends.host, ends.process.pid, line))


def command_line(run: Run, owner: Node, command: str) -> str:
    """A command of the operator's about the node on one host."""
    return f"{run.pair.build}{owner.host.python} -m ftvmm {command} --config {CONFIG_PATH}"


@scenario(HANDED_OVER, faults=(OperatorCommand,), workloads=(Workload.KV, Workload.REDIS))
def test_vm_is_handed_over(run: Run) -> None:
    """The backup runs the VM as soon as the guest's last words have left: nobody waits for a lease."""
    survivor = run.backup
    operate(run, run.primary, run.primary, "test-failover")
    run.expect_takeover(survivor)


@scenario(Promise(expect=Expect.FAILOVER, stall_ms_max=HANDED_OVER_MS_MAX, renewals_min=2), faults=(OperatorCommand,))
def test_vm_goes_from_host_to_host(run: Run) -> None:
    """Handed over twice, it gets a new backup each time from managers, which start the node anew that it has left."""
    third, first, second = run.pair.start_spare(), run.primary, run.backup
    run.pair.start_managers()
    for owner, backup, spare in ((first, second, third), (second, third, first)):
        operate(run, owner, owner, "test-failover")
        run.await_confirmations()
        run.pair.wait_until_protected(backup, spare)
        run.pair.wait_until_spare(owner)
        run.expect_service()


@scenario(
    Promise(expect=Expect.PRIMARY_ALONE, stall_ms_max=HANDED_OVER_MS_MAX, renewals_min=1), faults=(OperatorCommand,)
)
def test_backup_is_restarted(run: Run) -> None:
    """It is let go, comes back as a spare, and is the backup again."""
    owner, backup = run.primary, run.backup
    run.pair.start_managers()
    operate(run, owner, backup, "test-restart-backup")
    run.await_confirmations()
    run.pair.wait_until_protected(owner, backup)
    run.expect_service()


@scenario(
    Promise(expect=Expect.PRIMARY_ALONE, stall_ms_max=HANDED_OVER_MS_MAX, renewals_min=1), faults=(OperatorCommand,)
)
def test_backup_moves_to_another_host(run: Run) -> None:
    """The VM runs alone no longer than its memory takes to go over."""
    spare, owner, backup = run.pair.start_spare(), run.primary, run.backup
    operate(run, owner, backup, f"migrate --to {spare.name}")
    run.await_confirmations()
    run.pair.wait_until_protected(owner, spare)
    run.expect_service()


@scenario(Promise(expect=Expect.FAILOVER, stall_ms_max=HANDED_OVER_MS_MAX, renewals_min=1), faults=(OperatorCommand,))
def test_primary_moves_to_another_host(run: Run) -> None:
    """Its backup moves there first, and is handed the VM."""
    spare, owner = run.pair.start_spare(), run.primary
    operate(run, owner, owner, f"migrate --primary --to {spare.name}")
    run.await_confirmations()
    run.expect_takeover(spare)


@scenario(
    Promise(expect=Expect.PRIMARY_ALONE, stall_ms_max=NOT_TAKEN_MS_MAX),
    faults=(PowerOff,),
    failpoints=(),
)
def test_backup_loses_power_with_the_vm_in_its_hands(run: Run) -> None:
    """It has not asked for it yet: the primary, which has promised to say nothing, wins it back and goes on."""
    owner, backup = run.primary, run.backup
    with run.at("before-ask", backup) as moment:
        owner.host.start(command_line(run, owner, "test-failover"))
        moment.wait()
        run.inject(PowerOff(run.lab, backup.host))
        run.expect_takeover(owner)


@scenario(Promise(expect=Expect.FAILOVER, stall_ms_max=NOT_TAKEN_MS_MAX), faults=(PowerOff,), failpoints=())
def test_primary_loses_power_having_handed_its_vm_over(run: Run) -> None:
    """Nothing of it is missed."""
    owner, survivor = run.primary, run.backup
    with run.at("before-ask", survivor) as moment:
        owner.host.start(command_line(run, owner, "test-failover"))
        moment.wait()
        run.inject(PowerOff(run.lab, owner.host))
        moment.release()
        run.expect_takeover(survivor)


@pytest.mark.parametrize("command", ["test-failover", "test-restart-backup"])
@scenario(
    Promise(expect=Expect.PRIMARY_ALONE, stall_ms_max=NOT_TAKEN_MS_MAX), faults=(ArbiterUnreachable, OperatorCommand)
)
def test_operator_wants_something_while_the_arbiter_is_out_of_reach(run: Run, command: str) -> None:
    """Nobody can win the VM: the pair stays what it was. Once the arbiter is back, it comes to what was wanted."""
    owner, backup = run.primary, run.backup
    with run.under(ArbiterUnreachable(run.lab, [owner.host, backup.host])):
        run.client.load_for(1)
        done = owner.host.run(command_line(run, owner, command))
        run.expect_protected()
    assert done.exit_status == 1, done
    operate(run, owner, backup, "test-restart-backup")
    run.pair.wait_until_alone(owner)
    run.expect_service()
