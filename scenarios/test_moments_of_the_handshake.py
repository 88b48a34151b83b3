"""A host dies while the pair forms: COMMIT is on its way, or has just come, and the guest has hardly begun."""

from __future__ import annotations

from fault_injectors.host import PowerOff
from harness.promise import Expect, Promise
from harness.scenario import scenario
from harness.vm.run import Run

# Nobody was answered before the fault. The client comes when the survivor owns the VM, and sees a guest that boots.
FAILS_OVER = Promise(expect=Expect.FAILOVER, operations_before_min=0, stall_ms_max=2000)
GOES_ON_ALONE = Promise(expect=Expect.PRIMARY_ALONE, operations_before_min=0, stall_ms_max=2000)


@scenario(FAILS_OVER, faults=(PowerOff,), failpoints=("commit-sent block",), under_load=False)
def test_primary_loses_power_having_sent_commit(run: Run) -> None:
    """The guest has not begun: the backup starts it, as the machine that the primary had."""
    survivor = run.backup
    run.inject(PowerOff(run.lab, run.primary.host))
    run.pair.wait_until_alone(survivor)
    run.start_load()


@scenario(FAILS_OVER, faults=(PowerOff,), failpoints=("commit-received delay:1000",), under_load=False)
def test_primary_loses_power_before_its_backup_begins_to_replay(run: Run) -> None:
    """The backup has acknowledged what it has not looked at yet: it replays all of it before it asks."""
    survivor = run.backup
    run.inject(PowerOff(run.lab, run.primary.host))
    run.pair.wait_until_alone(survivor)
    run.start_load()


@scenario(GOES_ON_ALONE, faults=(PowerOff,), failpoints=("commit-received block",), under_load=False)
def test_backup_loses_power_having_received_commit(run: Run) -> None:
    """It holds entries and replays none: the primary wins the next generation and goes on alone."""
    survivor = run.primary
    run.inject(PowerOff(run.lab, run.backup.host))
    run.pair.wait_until_alone(survivor)
    run.start_load()


@scenario(GOES_ON_ALONE, faults=(PowerOff,), failpoints=("commit-sent delay:1000",), under_load=False)
def test_backup_loses_power_before_the_guest_begins(run: Run) -> None:
    """COMMIT was sent, so the backup might own the next generation: the primary asks before its guest says a word."""
    survivor = run.primary
    run.inject(PowerOff(run.lab, run.backup.host))
    run.pair.wait_until_alone(survivor)
    run.start_load()
