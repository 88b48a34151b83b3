"""The storage is slow, out of reach, full or broken: the VM waits for it, or stops rather than lie."""

from __future__ import annotations

import pytest

from fault_injectors.block_layer import FailingDevice, FlakyDevice
from fault_injectors.file_system import FullFileSystem
from fault_injectors.host import PowerOff
from fault_injectors.networks import NetworkCut
from fault_injectors.storage_server import StoppedStorageServer
from fault_injectors.traffic import PacketDelay
from harness.lab.topology import NODE_DIRECTORY, STORAGE, STORAGE_DIRECTORY
from harness.vm.trial import Trial


@pytest.mark.promise(expects_failover=False)
def test_storage_network_of_the_backup_is_cut_and_nobody_notices(trial: Trial) -> None:
    """Only the primary touches the disk, and a healthy pair does not ask the arbiter."""
    with trial.under(NetworkCut(trial.lab, trial.backup.host, STORAGE)):
        trial.expect_service()
        trial.expect_protected()


@pytest.mark.faults("packet-delay")
@pytest.mark.promise(expects_failover=False)
def test_storage_is_slow_and_the_pair_stays_together(trial: Trial) -> None:
    """The disk's answers come late: whoever waits for the disk waits longer, and nobody is suspected."""
    with trial.under(PacketDelay(trial.lab, trial.lab.storage_host, STORAGE)):
        trial.expect_service()
        trial.expect_protected()


@pytest.mark.faults("stopped-storage-server")
@pytest.mark.promise(stall_ms_max=30_000)
def test_storage_server_stops_and_comes_back(trial: Trial) -> None:
    """The primary's disk fails, so it halts itself; when there is an arbiter to win again, the backup goes on."""
    survivor, failing = trial.backup, trial.primary
    with trial.under(StoppedStorageServer(trial.lab)):
        trial.pair.wait_until_halted(failing)
        trial.pair.wait_for_event(survivor, "arbiter", outcome="unreachable")
        trial.expect_roles({survivor: "CANDIDATE"})
    trial.expect_takeover(survivor)


@pytest.mark.faults("failing-device")
@pytest.mark.promise(expects_failover=False, expects_service=False)
def test_disk_and_arbiter_fail_for_good(trial: Trial) -> None:
    """A write fails that the guest was told is done, on whichever host: the primary halts itself.

    The arbiter lies on the same device. Whether the backup still wins or not, nobody can write: the VM stops.
    """
    failing = trial.primary
    with trial.under(FailingDevice(trial.lab)):
        trial.pair.wait_until_halted(failing)
        trial.pair.stop()


@pytest.mark.faults("flaky-device")
@pytest.mark.promise(expects_failover=False, expects_service=False)
def test_disk_and_arbiter_fail_in_turns(trial: Trial) -> None:
    """One failed write is enough: the primary does not try again what may have half happened, it halts itself."""
    failing = trial.primary
    with trial.under(FlakyDevice(trial.lab)):
        trial.pair.wait_until_halted(failing)
        trial.pair.stop()


@pytest.mark.faults("full-file-system")
@pytest.mark.promise(expects_failover=False)
def test_storage_is_full_and_nobody_notices(trial: Trial) -> None:
    """The disk image has all its blocks from the beginning, and a healthy pair does not ask the arbiter."""
    with trial.under(FullFileSystem(trial.lab, trial.lab.storage_host, STORAGE_DIRECTORY)):
        trial.expect_service()
        trial.expect_protected()


@pytest.mark.faults("full-file-system", "power-off")
@pytest.mark.promise(stall_ms_max=30_000)
def test_storage_is_full_and_then_the_primary_dies(trial: Trial) -> None:
    """Nobody can claim the next generation while there is no room for the claim; when there is, the VM goes on."""
    survivor = trial.backup
    with trial.under(FullFileSystem(trial.lab, trial.lab.storage_host, STORAGE_DIRECTORY)):
        trial.inject(PowerOff(trial.lab, trial.primary.host))
        trial.pair.wait_for_event(survivor, "arbiter", outcome="unreachable")
        trial.expect_roles({survivor: "CANDIDATE"})
    trial.expect_takeover(survivor)


@pytest.mark.faults("full-file-system")
@pytest.mark.promise(expects_failover=False, promises=["transparent-failover"])
def test_file_system_of_the_backup_is_full_and_the_client_does_not_notice(trial: Trial) -> None:
    """A trace that cannot be written is evidence lost, and no reason to stop a VM.

    So only what the client sees is promised: the output rule cannot be judged without the backup's acknowledgements.
    """
    with trial.under(FullFileSystem(trial.lab, trial.backup.host, NODE_DIRECTORY)):
        trial.expect_service()
        trial.expect_protected()
