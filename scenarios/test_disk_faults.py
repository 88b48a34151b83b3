"""The VM's disk loses bits, or fails: never a wrong value to a client."""

from __future__ import annotations

import pytest

from fault_injectors.disk import BitFlip, DiskError
from fault_injectors.host import PowerOff
from harness.evidence.allure_report import PromiseBrokenError
from harness.vm.trial import Trial

MARKER = "a value that the disk is going to forget"


@pytest.mark.promise(expects_failover=False, damage_allowed=True)
def test_flipped_bit_on_the_disk_never_becomes_a_value(trial: Trial) -> None:
    """The guest finds the damaged record when it scrubs its log, and serves the value that was written."""
    trial.command("SET", "marker", MARKER)
    trial.inject(BitFlip(trial.lab, trial.offset_on_disk(MARKER.encode())))
    found = trial.command("SCRUB")
    if trial.command("GET", "marker") != MARKER:
        raise PromiseBrokenError("the flipped bit came through to the client")
    trial.pair.wait_for_console(trial.primary, "damage")
    assert found, "SCRUB says nothing"
    trial.expect_service()


@pytest.mark.smoke
@pytest.mark.promise(damage_allowed=True)
def test_flipped_bit_and_then_a_failover(trial: Trial) -> None:
    """The disk forgets a bit, then the primary dies: the survivor serves the value that was written."""
    survivor = trial.backup
    trial.command("SET", "marker", MARKER)
    trial.inject(BitFlip(trial.lab, trial.offset_on_disk(MARKER.encode())))
    trial.inject(PowerOff(trial.lab, trial.primary.host))
    trial.expect_takeover(survivor)
    if trial.command("GET", "marker") != MARKER:
        raise PromiseBrokenError("the flipped bit came through to the client")


def test_disk_of_the_primary_fails(trial: Trial) -> None:
    """A write fails that the guest was told is done: the primary halts itself, and the backup writes it."""
    survivor, failing = trial.backup, trial.primary
    with trial.under(DiskError(trial.lab, failing.host)):
        trial.expect_takeover(survivor)
    trial.pair.wait_until_halted(failing)


@pytest.mark.promise(expects_failover=False, expects_service=False)
def test_disks_of_both_hosts_fail(trial: Trial) -> None:
    """Whoever owns the VM cannot write what the guest was told is done: it stops, rather than lie to anybody."""
    nodes = trial.primary, trial.backup
    with trial.under(*(DiskError(trial.lab, node.host) for node in nodes)):
        for node in nodes:
            trial.pair.wait_until_halted(node)


@pytest.mark.promise(expects_failover=False)
def test_disk_of_the_backup_fails_and_nobody_notices(trial: Trial) -> None:
    """Only the primary touches the disk."""
    with trial.under(DiskError(trial.lab, trial.backup.host)):
        trial.expect_service()
        trial.expect_protected()
