"""Every fault bites and says so; and every confirmation can fail."""

from __future__ import annotations

import importlib
import json
import pkgutil
from pathlib import Path

import pytest

import fault_injectors
from fault_injectors.arbiter_record import RolledBackRecords, UnreadableRecord
from fault_injectors.base import LabFault
from fault_injectors.disk import BitFlip, DiskError, ReadError, SlowDisk, TornWrite, WriteError
from fault_injectors.fault import Direction, Fault, FaultLog, FaultRecord, Verdict
from fault_injectors.heartbeat import HeartbeatLoss
from fault_injectors.host import BriefFreeze, Freeze, PowerOff
from fault_injectors.logging_network import LogCorruption, LogDelay, LoggingCut, LogReset, LogThrottle
from fault_injectors.memory import DamagedMemory
from fault_injectors.networks import ArbiterUnreachable, FlappingCut, HostPairCut, NetworkCut
from fault_injectors.registry import FAULTS
from fault_injectors.stray_heartbeats import ForgedHeartbeats, ReplayedHeartbeats
from fault_injectors.toxiproxy_client import LogProxy, Toxic, ToxiproxyError
from fault_injectors.vmm import KillVmm
from harness.lab.interface import HostState, LabError
from harness.lab.netns.lab import NetnsLab
from harness.lab.topology import ARBITER_PATH, CLIENT, DISK_PATH, MANAGEMENT, STORAGE, STORAGE_ARBITER
from harness.lab.waiting import wait_until
from tests.lab.conftest import Pair, log_of, start_peer


@pytest.fixture
def faults(shared_lab: NetnsLab, tmp_path: Path) -> FaultLog:
    return FaultLog(shared_lab, tmp_path / "faults.jsonl")


def inject(faults: FaultLog, fault: Fault, timeout_seconds: float = 3.0) -> FaultRecord:
    return faults.await_confirmation(faults.inject(fault, confirm_timeout_seconds=timeout_seconds))


def verdict(faults: FaultLog, fault: Fault, timeout_seconds: float = 1.0) -> Verdict:
    """Inject, judge and heal."""
    with faults.injected(fault, confirm_timeout_seconds=timeout_seconds) as record:
        assert record.evidence
        return record.verdict


def test_a_power_off_is_confirmed_and_a_second_one_is_a_mismatch(shared_lab: NetnsLab, faults: FaultLog) -> None:
    host = shared_lab.hosts["host-c"]
    first = inject(faults, PowerOff(shared_lab, host))
    assert first.verdict is Verdict.CONFIRMED, first.evidence
    assert inject(faults, PowerOff(shared_lab, host)).verdict is Verdict.MISMATCH
    faults.heal(first)
    assert host.is_alive()


def test_the_end_of_a_run_leaves_a_dead_host_dead_and_wakes_a_frozen_one(
    shared_lab: NetnsLab, faults: FaultLog
) -> None:
    dead, frozen = shared_lab.hosts["host-b"], shared_lab.hosts["host-c"]
    faults.inject(PowerOff(shared_lab, dead))
    faults.inject(Freeze(shared_lab, frozen))
    faults.end_all()
    assert dead.state is HostState.OFF
    assert frozen.is_alive()
    assert [record.healed_ns for record in faults.records] == [None, None]
    dead.power_on()


def test_a_freeze_is_confirmed_and_a_second_one_is_a_mismatch(shared_lab: NetnsLab, faults: FaultLog) -> None:
    host = shared_lab.hosts["host-a"]
    with faults.injected(Freeze(shared_lab, host)) as record:
        assert record.verdict is Verdict.CONFIRMED, record.evidence
        assert inject(faults, Freeze(shared_lab, host)).verdict is Verdict.MISMATCH
    assert host.is_alive()


def test_a_brief_freeze_is_confirmed_and_one_of_a_frozen_host_is_a_mismatch(
    shared_lab: NetnsLab, faults: FaultLog
) -> None:
    host = shared_lab.hosts["host-a"]
    record = inject(faults, BriefFreeze(shared_lab, host, 100))
    assert record.verdict is Verdict.CONFIRMED, record.evidence
    assert host.state is not HostState.FROZEN
    with faults.injected(Freeze(shared_lab, host)):
        assert inject(faults, BriefFreeze(shared_lab, host, 100)).verdict is Verdict.MISMATCH
    assert host.is_alive()


def test_a_killed_process_is_confirmed_and_a_missing_one_is_a_mismatch(shared_lab: NetnsLab, faults: FaultLog) -> None:
    host = shared_lab.hosts["host-a"]
    process = host.start(["sleep", "1000"])
    record = inject(faults, KillVmm(shared_lab, host, process.pid))
    assert record.verdict is Verdict.CONFIRMED, record.evidence
    assert "sleep 1000" in record.evidence[0]
    assert verdict(faults, KillVmm(shared_lab, host, process.pid)) is Verdict.MISMATCH


# Holds a file in memory, and ends when that is no longer what was read of it.
_HOLDER = """
import sys, time, zlib
held = open(sys.argv[1], "rb").read()
before = zlib.crc32(held)
print("holds it", flush=True)
while zlib.crc32(held) == before:
    time.sleep(0.01)
"""


def test_damaged_memory_is_confirmed_and_where_no_such_code_is_held_a_mismatch(
    shared_lab: NetnsLab, faults: FaultLog
) -> None:
    host, image = shared_lab.hosts["host-a"], "/bin/sleep"
    host.write_file("/var/lib/ftvmm/hold.log", b"")
    holder = host.start(["python3", "-c", _HOLDER, image], log="/var/lib/ftvmm/hold.log")
    other = host.start(["sleep", "1000"])
    assert wait_until(lambda: "holds it" in log_of(host, "hold"), timeout_seconds=10)
    record = inject(faults, DamagedMemory(shared_lab, host, holder.pid, image))
    assert record.verdict is Verdict.CONFIRMED, record.evidence
    assert verdict(faults, DamagedMemory(shared_lab, host, other.pid, image)) is Verdict.MISMATCH
    other.signal("KILL")


@pytest.mark.parametrize("direction", list(Direction))
def test_a_cut_logging_network_stops_the_log_which_flows_on_after_it(
    shared_lab: NetnsLab, faults: FaultLog, pair: Pair, direction: Direction
) -> None:
    cut = LoggingCut(shared_lab, pair.dialler, pair.listener, direction)
    with faults.injected(cut, confirm_timeout_seconds=3) as record:
        assert record.verdict is Verdict.CONFIRMED, record.evidence
        assert any("held back" in line and not line.endswith(" 0") for line in record.evidence), record.evidence
        assert not pair.flows(timeout_seconds=0.3)
    assert pair.flows()
    assert "closed" not in log_of(pair.listener, "listen")


def test_a_cut_of_what_never_was_connected_is_inconclusive(shared_lab: NetnsLab, faults: FaultLog) -> None:
    first, second = shared_lab.hosts["host-a"], shared_lab.hosts["host-b"]
    with faults.injected(HostPairCut(shared_lab, first, second)):
        assert verdict(faults, LoggingCut(shared_lab, first, second)) is Verdict.INCONCLUSIVE
        assert verdict(faults, HostPairCut(shared_lab, first, second)) is Verdict.INCONCLUSIVE


def test_a_delayed_log(shared_lab: NetnsLab, faults: FaultLog, pair: Pair) -> None:
    fault = LogDelay(shared_lab, pair.listener, delay_ms=300)
    with faults.injected(fault, confirm_timeout_seconds=3) as record:
        assert record.verdict is Verdict.CONFIRMED, record.evidence
    assert pair.flows()


def test_a_throttled_log(shared_lab: NetnsLab, faults: FaultLog) -> None:
    pair = Pair(shared_lab, line_bytes=4096)
    try:
        fault = LogThrottle(shared_lab, pair.listener, rate_kib_per_second=16)
        with faults.injected(fault, confirm_timeout_seconds=3) as record:
            assert record.verdict is Verdict.CONFIRMED, record.evidence
    finally:
        pair.stop()


def test_a_corrupted_byte_arrives(shared_lab: NetnsLab, faults: FaultLog, pair: Pair) -> None:
    # The lines are digits, dots and newlines; only a flipped bit makes anything else.
    fault = LogCorruption(shared_lab, pair.listener, after_bytes=2, mask=0x40)
    with faults.injected(fault, confirm_timeout_seconds=3) as record:
        assert record.verdict is Verdict.CONFIRMED, record.evidence
    strange = "grep -a '^got' /var/lib/ftvmm/listen.log | cut -c 4- | grep -ac '[^0-9. ]'"
    assert wait_until(lambda: pair.listener.run(strange).stdout.strip() == "1", timeout_seconds=3)


@pytest.mark.parametrize("fault", [LogDelay, LogThrottle, LogCorruption, LogReset])
def test_without_traffic_a_fault_of_the_log_is_inconclusive(
    shared_lab: NetnsLab, faults: FaultLog, fault: type
) -> None:
    assert verdict(faults, fault(shared_lab, shared_lab.hosts["host-b"]), 0.3) is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("lasting", [False, True])
def test_a_reset_log_connection(shared_lab: NetnsLab, faults: FaultLog, pair: Pair, lasting: bool) -> None:
    with faults.injected(LogReset(shared_lab, pair.listener, lasting=lasting)) as record:
        assert record.verdict is Verdict.CONFIRMED, record.evidence
        assert wait_until(lambda: "error 104" in log_of(pair.dialler, "dial"), timeout_seconds=3)
        assert pair.flows(timeout_seconds=2 if not lasting else 0.5) is not lasting
    assert pair.flows()


def test_lost_heartbeats(shared_lab: NetnsLab, faults: FaultLog, pair: Pair) -> None:
    with faults.injected(HeartbeatLoss(shared_lab, pair.listener)) as record:
        assert record.verdict is Verdict.CONFIRMED, record.evidence
        assert pair.flows(), "the log must not be touched"
    half = HeartbeatLoss(shared_lab, pair.listener, direction=Direction.INCOMING, percent=50)
    assert verdict(faults, half, 3) is Verdict.CONFIRMED


def test_without_heartbeats_their_loss_is_inconclusive(shared_lab: NetnsLab, faults: FaultLog) -> None:
    assert verdict(faults, HeartbeatLoss(shared_lab, shared_lab.hosts["host-c"]), 0.3) is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("network", [MANAGEMENT, STORAGE])
@pytest.mark.parametrize("direction", list(Direction))
def test_a_cut_network(shared_lab: NetnsLab, faults: FaultLog, network: str, direction: Direction) -> None:
    host = shared_lab.hosts["host-c"]
    with faults.injected(NetworkCut(shared_lab, host, network, direction)) as record:
        assert record.verdict is Verdict.CONFIRMED, record.evidence
        assert verdict(faults, NetworkCut(shared_lab, host, network, direction)) is Verdict.INCONCLUSIVE


def test_a_cut_storage_network_hangs_the_disk_and_heals(shared_lab: NetnsLab, faults: FaultLog) -> None:
    host = shared_lab.hosts["host-c"]
    with faults.injected(NetworkCut(shared_lab, host, STORAGE)):
        touch = host.start(["touch", f"{ARBITER_PATH}/touched"])
        with pytest.raises(LabError, match="still runs"):
            touch.wait(0.5)
    assert touch.wait(10) == 0, "what hung must end well, as if nothing had been"
    assert shared_lab.storage_host.testinfra.file(f"{STORAGE_ARBITER}/touched").exists


def test_a_cut_client_network_silences_the_vm(shared_lab: NetnsLab, faults: FaultLog) -> None:
    host = shared_lab.hosts["host-a"]
    vm = start_peer(host, "frame", "tap0", "02:00:00:00:00:02")
    received = lambda: log_of(host, "frame").count("frame")  # noqa: E731
    ping = "ping -q -c 1 -W 0.2 10.0.0.2"
    try:
        shared_lab.client_host.run("ip neigh replace 10.0.0.2 lladdr 02:00:00:00:00:02 dev client", check=True)
        assert wait_until(lambda: shared_lab.client_host.run(ping) and received(), timeout_seconds=5)
        with faults.injected(NetworkCut(shared_lab, host, CLIENT)) as record:
            assert record.verdict is Verdict.CONFIRMED, record.evidence
            before = received()
            shared_lab.client_host.run(ping)
            assert received() == before
    finally:
        vm.signal("KILL")


@pytest.mark.parametrize("direction", list(Direction))
def test_two_hosts_cut_from_each_other_still_reach_the_rest(
    shared_lab: NetnsLab, faults: FaultLog, pair: Pair, direction: Direction
) -> None:
    first, second = pair.dialler, pair.listener
    with faults.injected(HostPairCut(shared_lab, first, second, direction=direction)) as record:
        assert record.verdict is Verdict.CONFIRMED, record.evidence
        assert first.run("ping -q -c 1 -W 1 10.1.0.13 && ping -q -c 1 -W 1 10.2.0.20").succeeded


def test_an_unreachable_arbiter_leaves_the_disk(shared_lab: NetnsLab, faults: FaultLog) -> None:
    hosts = [shared_lab.hosts["host-a"], shared_lab.hosts["host-b"]]
    with faults.injected(ArbiterUnreachable(shared_lab, hosts)) as record:
        assert record.verdict is Verdict.CONFIRMED, record.evidence
        look = hosts[0].start(["ls", ARBITER_PATH])
        assert hosts[0].run(f"dd if={DISK_PATH} of=/dev/null bs=4096 count=1 iflag=direct").succeeded
        assert verdict(faults, ArbiterUnreachable(shared_lab, hosts)) is Verdict.INCONCLUSIVE
        assert look.is_running()
    assert look.wait(10) == 0


def test_a_flipped_bit_is_read_by_the_hosts_and_heals(shared_lab: NetnsLab, faults: FaultLog) -> None:
    host = shared_lab.hosts["host-b"]
    read = f"dd if={DISK_PATH} bs=1 skip=5000 count=1 status=none | od -An -tx1"
    assert host.run(read).stdout.strip() == "00"
    with faults.injected(BitFlip(shared_lab, offset_bytes=5000, mask=0x10)) as record:
        assert record.verdict is Verdict.CONFIRMED, record.evidence
        assert host.run(read).stdout.strip() == "10"
    assert host.run(read).stdout.strip() == "00"


def test_a_flip_that_is_overwritten_at_once_is_a_mismatch(shared_lab: NetnsLab) -> None:
    fault = BitFlip(shared_lab, offset_bytes=6000)
    fault.inject()
    shared_lab.hosts["host-a"].run(f"dd if=/dev/zero of={DISK_PATH} bs=512 seek=11 count=1 conv=notrunc oflag=sync")
    assert fault.confirm(1).verdict is Verdict.MISMATCH


def test_a_failing_disk_fails_for_its_host_alone(shared_lab: NetnsLab, faults: FaultLog) -> None:
    host, other = shared_lab.hosts["host-a"], shared_lab.hosts["host-b"]
    read = f"dd if={DISK_PATH} of=/dev/null bs=4096 count=1 iflag=direct"
    with faults.injected(ReadError(shared_lab, host)) as record:
        assert record.verdict is Verdict.CONFIRMED, record.evidence
        assert other.run(read).succeeded
        assert verdict(faults, ReadError(shared_lab, host)) is Verdict.MISMATCH
    assert host.run(read).succeeded


def test_a_write_error_needs_a_write(shared_lab: NetnsLab, faults: FaultLog) -> None:
    host = shared_lab.hosts["host-a"]
    fault = DiskError(shared_lab, host, ["write"])
    assert verdict(faults, fault, 0.3) is Verdict.INCONCLUSIVE
    fault = DiskError(shared_lab, host, ["write"])
    fault.prepare()
    fault.inject()
    write = f"dd if=/dev/zero of={DISK_PATH} bs=512 seek=40 count=1 conv=notrunc oflag=sync"
    assert "Input/output error" in host.run(write).stderr
    confirmation = fault.confirm(2)
    assert confirmation.verdict is Verdict.CONFIRMED, confirmation.evidence
    fault.heal()
    assert host.run(write).succeeded


def test_only_writes_fail_and_a_disk_is_slow_for_its_host_alone(shared_lab: NetnsLab, faults: FaultLog) -> None:
    host, other = shared_lab.hosts["host-a"], shared_lab.hosts["host-b"]
    write = f"dd if=/dev/zero of={DISK_PATH} bs=512 seek=41 count=1 conv=notrunc oflag=sync"
    with faults.injected(SlowDisk(shared_lab, host)) as record:
        assert record.verdict is Verdict.CONFIRMED, record.evidence
        with pytest.raises(LabError, match="slow already"):
            shared_lab.storage.slow_disk(host, pause_ms=1, serve_ms=1)
        assert host.run(write).succeeded
        assert other.run(write).succeeded
    assert verdict(faults, WriteError(shared_lab, host), 0.3) is Verdict.INCONCLUSIVE, "nobody wrote"
    fault = WriteError(shared_lab, host)
    fault.prepare()
    fault.inject()
    assert not host.run(write).succeeded
    assert other.run(write).succeeded
    assert fault.confirm(2).verdict is Verdict.CONFIRMED
    fault.heal()


def test_half_of_a_write_lands(shared_lab: NetnsLab, faults: FaultLog) -> None:
    host, other = shared_lab.hosts["host-a"], shared_lab.hosts["host-b"]
    write = f"dd if=/dev/urandom of={DISK_PATH} bs=4096 seek=20 count=1 conv=notrunc oflag=sync"
    assert verdict(faults, TornWrite(shared_lab, host), 0.3) is Verdict.INCONCLUSIVE, "nobody wrote"
    fault = TornWrite(shared_lab, host)
    fault.prepare()
    writer = host.start(["bash", "-c", f"while {write}; do :; done"], log="/var/lib/ftvmm/writer.log")
    fault.inject()
    writer.wait(10)  # Its loop ends at the first write that fails.
    confirmation = fault.confirm(2)
    assert confirmation.verdict is Verdict.CONFIRMED, confirmation.evidence
    assert other.run(write).succeeded
    fault.heal()
    assert host.run(write).succeeded


def test_networks_that_flap(shared_lab: NetnsLab, faults: FaultLog, pair: Pair) -> None:
    with faults.injected(FlappingCut(shared_lab, pair.dialler, pair.listener)) as record:
        assert record.verdict is Verdict.CONFIRMED, record.evidence
    assert pair.flows()
    with faults.injected(HostPairCut(shared_lab, pair.dialler, pair.listener)):
        assert verdict(faults, FlappingCut(shared_lab, pair.dialler, pair.listener)) is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("kind", [ForgedHeartbeats, ReplayedHeartbeats])
def test_heartbeats_of_a_stranger_arrive(
    shared_lab: NetnsLab, faults: FaultLog, pair: Pair, kind: type[ForgedHeartbeats] | type[ReplayedHeartbeats]
) -> None:
    fault = kind(shared_lab, pair.dialler, pair.listener)
    with faults.injected(fault) as record:
        assert record.verdict is Verdict.CONFIRMED, record.evidence
    real = b"beat".hex()
    assert (set(fault._payloads) == {real}) is (kind is ReplayedHeartbeats)
    sent = shared_lab.hosts["host-c"].testinfra.process.filter(comm="python3")
    assert not [process for process in sent if "IPPROTO_RAW" in process.args]


@pytest.mark.parametrize("kind", [UnreadableRecord, RolledBackRecords])
def test_records_of_the_arbiter_are_damaged_and_come_back(
    shared_lab: NetnsLab, faults: FaultLog, kind: type[UnreadableRecord] | type[RolledBackRecords]
) -> None:
    vm = "6f1c2a4e-0000-4000-8000-00000000000a"
    directory = f"{STORAGE_ARBITER}/{vm.replace('-', '')}"
    make = f"mkdir -p {directory} && cd {directory} && echo '{{\"generation\": 1}}' >generation-00000001"
    storage = shared_lab.storage_host
    storage.run(make, check=True)
    before = storage.run(f"cd {directory} && stat -c '%n %Y %s' generation-*").stdout
    with faults.injected(kind(shared_lab, vm)) as record:
        assert record.verdict is Verdict.CONFIRMED, record.evidence
    assert storage.run(f"cd {directory} && stat -c '%n %Y %s' generation-*").stdout == before
    storage.run(["rm", "-r", directory], check=True)


def test_toxics_can_be_changed_and_refusals_are_errors(shared_lab: NetnsLab) -> None:
    first, second = (LogProxy(shared_lab.hosts[name]) for name in ("host-a", "host-b"))
    first.add(Toxic("slow", "latency", "upstream", 1.0, {"latency": 10, "jitter": 0}))
    assert second.toxics() == {}, "each host has a server of its own"
    first.update("slow", {"latency": 20})
    assert first.toxics()["slow"].attributes["latency"] == 20
    with pytest.raises(ToxiproxyError):
        first.add(Toxic("nonsense", "no-such-toxic", "upstream", 1.0, {}))
    with pytest.raises(ToxiproxyError):
        first.remove("never-added")
    first.remove("slow")
    assert first.toxics() == {}


def test_records_are_on_disk(shared_lab: NetnsLab, faults: FaultLog, tmp_path: Path) -> None:
    with faults.injected(NetworkCut(shared_lab, shared_lab.hosts["host-c"], MANAGEMENT)):
        (line,) = (tmp_path / "faults.jsonl").read_text().splitlines()
        assert json.loads(line)["healed_ns"] is None
    record = json.loads((tmp_path / "faults.jsonl").read_text())
    assert record["fault"] == "network-cut"
    assert record["verdict"] == "confirmed"
    assert record["injected_ns"] < record["confirmed_ns"] < record["healed_ns"]


def test_a_fault_that_breaks_off_leaves_a_record_that_says_why(
    shared_lab: NetnsLab, faults: FaultLog, tmp_path: Path
) -> None:
    with pytest.raises(LabError) as failure:
        faults.inject(BitFlip(shared_lab, offset_bytes=1 << 40))
    record = json.loads((tmp_path / "faults.jsonl").read_text())
    assert record["fault"] == "bit-flip"
    assert record["verdict"] == "inconclusive"
    assert record["evidence"] == [f"broke off: {failure.value}"]


def test_the_registry_names_every_fault_once() -> None:
    for module in pkgutil.iter_modules(fault_injectors.__path__):
        importlib.import_module(f"fault_injectors.{module.name}")

    def named(kind: type[LabFault]) -> list[type[LabFault]]:
        return [kind] * bool(kind.name) + [one for each in kind.__subclasses__() for one in named(each)]

    assert sorted(kind.name for kind in named(LabFault)) == sorted(FAULTS)
    assert all(FAULTS[fault.name] is fault for fault in FAULTS.values())
