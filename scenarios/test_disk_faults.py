"""The VM's disk loses bits, or fails: never a wrong value to a client."""

from __future__ import annotations

import pytest

from fault_injectors.disk import BitFlip, DiskError, ReadError, SlowDisk, TornWrite, WriteError
from fault_injectors.fault import Fault
from fault_injectors.host import PowerOff
from harness.evidence.allure_report import PromiseBrokenError
from harness.promise import Expect, Promise, unnoticed
from harness.scenario import scenario
from harness.vm.run import Run

MARKER = "a value that the disk is going to forget"
# What was written of it is served while the VM lives, and after that nothing tells a flipped bit from a value.
NEEDS_CHECKSUMS = "what it keeps on the disk has no checksums"
# Where nobody else could read it, the guest is told of a read that failed, and a program may end by it.
ALONE_IT_IS_TOLD = "alone it is told of a read that failed, and ends by that"
READS_WHEN_TOLD = "nothing has it read its disk at a moment"
HALF_OLD = "of a block that a file system writes anew the first half is often what it was"


@scenario(Promise(expect=Expect.STAYS_TOGETHER, damage_allowed=True), faults=(BitFlip,), only_kv=NEEDS_CHECKSUMS)
def test_flipped_bit_on_the_disk_never_becomes_a_value(run: Run) -> None:
    """The guest finds the damaged record when it scrubs its log, and serves the value that was written."""
    run.key_value.command("SET", "marker", MARKER)
    run.inject(BitFlip(run.lab, run.key_value.offset_on_disk(MARKER.encode())))
    run.await_confirmations()
    found = run.key_value.command("SCRUB")
    if run.key_value.command("GET", "marker") != MARKER:
        raise PromiseBrokenError("the flipped bit came through to the client")
    run.pair.wait_for_console([run.primary], "damage")
    assert found, "SCRUB says nothing"
    run.expect_service()


@scenario(Promise(expect=Expect.FAILOVER, damage_allowed=True), faults=(BitFlip, PowerOff), only_kv=NEEDS_CHECKSUMS)
@pytest.mark.smoke
def test_flipped_bit_and_then_a_failover(run: Run) -> None:
    """The disk forgets a bit, then the primary dies: the survivor serves the value that was written."""
    survivor = run.backup
    run.key_value.command("SET", "marker", MARKER)
    run.inject(BitFlip(run.lab, run.key_value.offset_on_disk(MARKER.encode())))
    run.inject(PowerOff(run.lab, run.primary.host))
    run.expect_takeover(survivor)
    if run.key_value.command("GET", "marker") != MARKER:
        raise PromiseBrokenError("the flipped bit came through to the client")


def primary_halts_itself(run: Run, fault: Fault) -> None:
    """Under a fault of its disk, and the backup takes over."""
    survivor, failing = run.backup, run.primary
    with run.under(fault):
        run.expect_takeover(survivor)
    run.pair.wait_until_halted(failing)


@scenario(Promise(expect=Expect.FAILOVER), faults=(DiskError,), needs_disk=True)
def test_disk_of_the_primary_fails(run: Run) -> None:
    """A write fails that the guest was told is done, or a read that it waits for: the primary halts itself, and the
    backup writes it, or reads it."""
    primary_halts_itself(run, DiskError(run.lab, run.primary.host))


@scenario(Promise(expect=Expect.FAILOVER), faults=(ReadError,), only_kv=READS_WHEN_TOLD)
def test_reads_of_the_primary_fail_and_writes_do_not(run: Run) -> None:
    """The backup's way to the disk is well: the guest is told of no error, and finds its whole log on the survivor."""
    survivor, failing = run.backup, run.primary
    with run.under(ReadError(run.lab, failing.host)):
        found = run.key_value.command("SCRUB")
        run.expect_takeover(survivor)
    run.pair.wait_until_halted(failing)
    if "repaired\n0\n" not in found:
        raise PromiseBrokenError(f"the guest found damage where only a read had failed: {found}")


@scenario(Promise(expect=Expect.FAILOVER), faults=(WriteError,), needs_disk=True)
def test_writes_of_the_primary_fail_and_reads_do_not(run: Run) -> None:
    """One failed write is enough: the primary halts itself, however well it could still read."""
    primary_halts_itself(run, WriteError(run.lab, run.primary.host))


@scenario(Promise(expect=Expect.FAILOVER), faults=(TornWrite,), only_kv=HALF_OLD)
def test_write_of_the_primary_is_torn(run: Run) -> None:
    """Half of a write lands: the survivor, which cannot know how much did, writes all of it again."""
    primary_halts_itself(run, TornWrite(run.lab, run.primary.host))


@scenario(Promise(expect=Expect.STAYS_TOGETHER, stall_ms_max=1500), faults=(SlowDisk,), needs_disk=True)
def test_disk_of_the_primary_is_slow(run: Run) -> None:
    """Whoever waits for the disk waits longer, and nobody is suspected."""
    with run.under(SlowDisk(run.lab, run.primary.host)):
        run.expect_together()


@scenario(Promise(expect=Expect.FAILOVER, stall_ms_max=1500), faults=(SlowDisk, PowerOff), needs_disk=True)
def test_disk_of_the_primary_is_slow_and_then_it_dies(run: Run) -> None:
    """A write is under way for long, so that it mostly is when the power goes: the survivor writes it again."""
    survivor = run.backup
    with run.under(SlowDisk(run.lab, run.primary.host)):
        run.await_confirmations()
        run.inject(PowerOff(run.lab, run.primary.host))
        run.expect_takeover(survivor)


@scenario(Promise(expect=Expect.STOPS), faults=(DiskError,), only_kv=ALONE_IT_IS_TOLD)
def test_disks_of_both_hosts_fail(run: Run) -> None:
    """The primary cannot write what the guest was told is done: it halts itself, rather than lie to anybody.

    The backup cannot have the VM either, so it does not ask for it: the VM stands still until a disk is back.
    """
    failing, candidate = run.primary, run.backup
    with run.under(*(DiskError(run.lab, node.host) for node in (failing, candidate))):
        run.pair.wait_until_halted(failing)
        run.pair.wait_for_event(candidate, "role", to="CANDIDATE")
        run.pair.stop()


@scenario(unnoticed(), faults=(DiskError,), needs_disk=True)
def test_disk_of_the_backup_fails_and_nobody_notices(run: Run) -> None:
    """Only the primary touches the disk."""
    with run.under(DiskError(run.lab, run.backup.host)):
        run.expect_together()
