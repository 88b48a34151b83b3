"""The arbiter's records are damaged or gone, or its answers are lost: then nobody goes live on a guess."""

from __future__ import annotations

from fault_injectors.arbiter_record import RolledBackRecords, UnreadableRecord
from fault_injectors.fault import Direction
from fault_injectors.host import PowerOff
from fault_injectors.networks import ArbiterUnreachable
from harness.lab.topology import ARBITER_PATH
from harness.promise import Expect, Promise, unnoticed
from harness.scenario import scenario
from harness.vm.pair import Role
from harness.vm.run import Run

# As long as the arbiter is out of its mind, and then the takeover.
HELD_MS_MAX = 30_000


@scenario(Promise(expect=Expect.FAILOVER, stall_ms_max=HELD_MS_MAX), faults=(UnreadableRecord, PowerOff))
def test_newest_record_is_unreadable_when_the_primary_dies(run: Run) -> None:
    """Whose the VM is cannot be read, so nobody asks for more; when it can be read again the VM goes on."""
    survivor = run.backup
    with run.under(UnreadableRecord(run.lab, run.pair.vm)):
        run.inject(PowerOff(run.lab, run.primary.host))
        run.pair.wait_for_event(survivor, "arbiter", operation="read", outcome="unreachable")
        run.expect_roles({survivor: Role.CANDIDATE})
    run.expect_takeover(survivor)


@scenario(Promise(expect=Expect.FAILOVER, stall_ms_max=HELD_MS_MAX), faults=(RolledBackRecords, PowerOff))
def test_records_are_rolled_back_when_the_primary_dies(run: Run) -> None:
    """An arbiter that forgot the own generation is none: to claim it anew could make two owners of it."""
    survivor = run.backup
    with run.under(RolledBackRecords(run.lab, run.pair.vm)):
        run.inject(PowerOff(run.lab, run.primary.host))
        run.pair.wait_for_event(survivor, "arbiter", operation="read", outcome="0")
        run.expect_roles({survivor: Role.CANDIDATE})
    run.expect_takeover(survivor)


@scenario(unnoticed(), faults=(RolledBackRecords,))
def test_records_are_rolled_back_and_nobody_needs_them(run: Run) -> None:
    """A healthy pair does not ask the arbiter."""
    with run.under(RolledBackRecords(run.lab, run.pair.vm)):
        run.expect_together()


@scenario(Promise(expect=Expect.FAILOVER, stall_ms_max=HELD_MS_MAX), faults=(ArbiterUnreachable, PowerOff))
def test_answers_of_the_arbiter_are_lost_when_the_primary_dies(run: Run) -> None:
    """What the survivor asked may have been done: it reads until it knows, and takes no silence for a yes."""
    survivor = run.backup
    with run.under(ArbiterUnreachable(run.lab, [survivor.host], Direction.INCOMING)):
        run.inject(PowerOff(run.lab, run.primary.host))
        run.pair.wait_for_event(survivor, "arbiter", outcome="unreachable")
        run.expect_roles({survivor: Role.CANDIDATE})
        assert survivor.host.testinfra.mount_point(ARBITER_PATH).exists, "the share is there, only silent"
    run.expect_takeover(survivor)
