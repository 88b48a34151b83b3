"""The storage is slow, out of reach, full or broken: the VM waits for it, or stops rather than lie."""

from __future__ import annotations

import dataclasses

from fault_injectors.block_layer import FailingDevice, FlakyDevice
from fault_injectors.file_system import FullFileSystem
from fault_injectors.host import PowerOff
from fault_injectors.networks import NetworkCut
from fault_injectors.storage_server import StoppedStorageServer
from fault_injectors.traffic import PacketDelay
from harness.lab.topology import NODE_DIRECTORY, STORAGE, STORAGE_DIRECTORY
from harness.promise import Expect, Guarantee, Promise, Workload, unnoticed
from harness.scenario import scenario
from harness.vm.pair import Role
from harness.vm.run import Run
from scenarios.test_disk_faults import ALONE_IT_IS_TOLD

# 10 ms a write. An answer of redis' waits for all writes before it: up to three a command, of eight connections and a
# few visitors at a time. That is longer than TCP waits before it asks again, so that a lost frame does not show.
SLOW_FILE_SYSTEM_MS_MAX = 400.0


@scenario(unnoticed(), faults=(NetworkCut,))
def test_storage_network_of_the_backup_is_cut_and_nobody_notices(run: Run) -> None:
    """Only the primary touches the disk, and a healthy pair does not ask the arbiter."""
    with run.under(NetworkCut(run.lab, run.backup.host, STORAGE)):
        run.expect_together()


@scenario(unnoticed(), faults=(PacketDelay,), only_kv="its answers wait for one write each")
def test_storage_is_slow_and_the_pair_stays_together(run: Run) -> None:
    """The disk's answers come late: whoever waits for the disk waits longer, and nobody is suspected."""
    with run.under(PacketDelay(run.lab, run.lab.storage_host, STORAGE)):
        run.expect_together()


@scenario(
    Promise(expect=Expect.STAYS_TOGETHER, latency_over_before_ms_max=SLOW_FILE_SYSTEM_MS_MAX),
    faults=(PacketDelay,),
    workloads=(Workload.REDIS,),
    needs_disk=True,
)
def test_storage_is_slow_below_a_file_system(run: Run) -> None:
    """The same where an answer waits for several writes, those of a file system and its journal."""
    with run.under(PacketDelay(run.lab, run.lab.storage_host, STORAGE)):
        run.expect_together()


@scenario(Promise(expect=Expect.FAILOVER, stall_ms_max=30_000), faults=(StoppedStorageServer,), needs_disk=True)
def test_storage_server_stops_and_comes_back(run: Run) -> None:
    """The primary's disk fails, so it halts itself; when there is an arbiter to win again, the backup goes on."""
    survivor, failing = run.backup, run.primary
    with run.under(StoppedStorageServer(run.lab)):
        run.pair.wait_until_halted(failing)
        run.pair.wait_until_kept_from_takeover(survivor)
    run.expect_takeover(survivor)


@scenario(Promise(expect=Expect.STOPS), faults=(FailingDevice,), only_kv=ALONE_IT_IS_TOLD)
def test_disk_and_arbiter_fail_for_good(run: Run) -> None:
    """A write fails that the guest was told is done, on whichever host: the primary halts itself.

    The arbiter lies on the same device. Whether the backup still wins or not, nobody can write: the VM stops.
    """
    failing = run.primary
    with run.under(FailingDevice(run.lab)):
        run.pair.wait_until_halted(failing)
        run.pair.stop()


@scenario(Promise(expect=Expect.STOPS), faults=(FlakyDevice,), only_kv=ALONE_IT_IS_TOLD)
def test_disk_and_arbiter_fail_in_turns(run: Run) -> None:
    """One failed write is enough: the primary does not try again what may have half happened, it halts itself."""
    failing = run.primary
    with run.under(FlakyDevice(run.lab)):
        run.pair.wait_until_halted(failing)
        run.pair.stop()


@scenario(unnoticed(), faults=(FullFileSystem,))
def test_storage_is_full_and_nobody_notices(run: Run) -> None:
    """The disk image has all its blocks from the beginning, and a healthy pair does not ask the arbiter."""
    with run.under(FullFileSystem(run.lab, run.lab.storage_host, STORAGE_DIRECTORY)):
        run.expect_together()


@scenario(Promise(expect=Expect.FAILOVER, stall_ms_max=30_000), faults=(FullFileSystem, PowerOff))
def test_storage_is_full_and_then_the_primary_dies(run: Run) -> None:
    """Nobody can claim the next generation while there is no room for the claim; when there is, the VM goes on."""
    survivor = run.backup
    with run.under(FullFileSystem(run.lab, run.lab.storage_host, STORAGE_DIRECTORY)):
        run.inject(PowerOff(run.lab, run.primary.host))
        run.pair.wait_for_event(survivor, "arbiter", outcome="unreachable")
        run.expect_roles({survivor: Role.CANDIDATE})
    run.expect_takeover(survivor)


@scenario(dataclasses.replace(unnoticed(), promises=(Guarantee.TRANSPARENT_FAILOVER,)), faults=(FullFileSystem,))
def test_file_system_of_the_backup_is_full_and_the_client_does_not_notice(run: Run) -> None:
    """A trace that cannot be written is evidence lost, and no reason to stop a VM.

    So only what the client sees is promised: the output rule cannot be judged without the backup's acknowledgements.
    """
    with run.under(FullFileSystem(run.lab, run.backup.host, NODE_DIRECTORY)):
        run.expect_together()
