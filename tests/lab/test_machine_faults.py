"""What can be tried of the faults of real machines without any: how they read evidence, and whom they turn away."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fault_injectors import echoes, file_system, kernel, memory
from fault_injectors.cable import PulledCable
from fault_injectors.device_mapper import Target, parse_table
from fault_injectors.fault import Verdict
from fault_injectors.file_system import FullFileSystem
from fault_injectors.host import PowerOff
from fault_injectors.kernel import KernelPanic
from fault_injectors.logging_network import LogDelay, LogThrottle
from fault_injectors.memory import killed_processes
from fault_injectors.registry import FAULTS
from fault_injectors.traffic import NetemCounters, PacketReordering, checksum_errors, netem_counters
from harness.lab.interface import HostState, LabError, Pace
from harness.lab.namespaces import run_inside
from harness.lab.netns.lab import NetnsLab
from harness.lab.registry import LABS
from harness.lab.topology import LOGGING
from harness.promise import Expect, Promise
from harness.scenario import Plan
from harness.scenario_plugin import evidence_of
from harness.vm.node_file import Timing

ROOT = Path(__file__).resolve().parents[2]

NETEM = """[{"kind":"netem","handle":"8001:","root":true,"refcnt":2,"options":{"limit":1000,"delay":{"delay":0.01,
"jitter":0,"correlation":0},"reorder":{"reorder":0.25,"correlation":0},"ecn":false,"gap":1},"bytes":5400,
"packets":54,"drops":3,"overlimits":0,"requeues":11,"backlog":0,"qlen":0}]"""

SNMP = """\
Ip: Forwarding DefaultTTL InReceives
Ip: 1 64 2000
Icmp: InMsgs InErrors InCsumErrors
Icmp: 60 4 4
Tcp: RtoAlgorithm InSegs InCsumErrors
Tcp: 1 800 2
"""

PINGS = """\
PING 10.1.0.11 (10.1.0.11) 1000(1028) bytes of data.
1008 bytes from 10.1.0.11: icmp_seq=1 ttl=64 time=10.3 ms
1008 bytes from 10.1.0.11: icmp_seq=4 ttl=64 time=0.3 ms
1008 bytes from 10.1.0.11: icmp_seq=2 ttl=64 time=10.1 ms
1008 bytes from 10.1.0.11: icmp_seq=2 ttl=64 time=10.4 ms (DUP!)
1008 bytes from 10.1.0.11: icmp_seq=5 ttl=64 time=10.2 ms (BAD CHECKSUM)

--- 10.1.0.11 ping statistics ---
"""

KERNEL_LOG = """\
[   71.2] python3 invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP), order=0, oom_score_adj=0
[   71.3] oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),task=python,pid=812,uid=0
[   71.3] Out of memory: Killed process 812 (python) total-vm:412312kB, anon-rss:88012kB, oom_score_adj:1000
"""


@dataclass
class SlowLab:
    """A lab that is nothing but slow."""

    pace: Pace = field(default_factory=lambda: Pace(work=4.0, timing=2.5))


@dataclass
class HalfDeadHost:
    """A host whose power stays on when it is to be cut: it stands still and is silent from then on.

    `error` is what the lab says of it, if anything.
    """

    error: str = ""
    name: str = "host-a"
    state: HostState = HostState.RUNNING

    def is_alive(self, *, timeout_seconds: float) -> bool:
        return self.state is HostState.RUNNING

    def power_off(self) -> None:
        self.state = HostState.FROZEN
        if self.error:
            raise LabError(self.error)


def test_a_host_that_keeps_its_power_has_not_lost_it_however_silent_it_is() -> None:
    fault = PowerOff(SlowLab(), HalfDeadHost())
    fault.prepare()
    fault.inject()
    confirmation = fault.confirm(0.1)
    assert confirmation.verdict is Verdict.MISMATCH
    assert confirmation.evidence == ("host-a still has power",)


def test_a_power_off_that_fails_says_so() -> None:
    fault = PowerOff(SlowLab(), HalfDeadHost("host-a does not stand still"))
    fault.prepare()
    with pytest.raises(LabError, match="does not stand still"):
        fault.inject()


def test_netem_counts() -> None:
    assert netem_counters(NETEM) == NetemCounters(packets=54, drops=3, requeues=11)
    assert netem_counters('[{"kind":"fq_codel","packets":1,"drops":0,"requeues":0}]') is None
    assert netem_counters("") is None


def test_checksum_errors_of_all_protocols_are_added_up() -> None:
    assert checksum_errors(SNMP) == 6
    assert checksum_errors(Path("/proc/net/snmp").read_text()) >= 0


def test_pings_tell_losses_and_overtakes() -> None:
    seen = echoes.parse(5, PINGS)
    assert seen.answered == (1, 4, 2)
    assert (seen.lost, seen.overtakes) == (2, 1)
    assert echoes.parse(3, "").lost == 3


def test_pings_between_healthy_hosts_are_answered_in_order(shared_lab: NetnsLab) -> None:
    seen = echoes.echoes(shared_lab, shared_lab.hosts["host-b"], shared_lab.hosts["host-a"].addresses[LOGGING])
    assert (seen.lost, seen.overtakes) == (0, 0)


def test_tables_of_device_mapper() -> None:
    (target,) = parse_table("0 131072 linear 7:0 0\n")
    assert target == Target(0, 131072, "linear", ("7:0", "0"))
    assert str(target) == "0 131072 linear 7:0 0"
    assert str(target.failing()) == "0 131072 error"
    assert str(target.flaky(up_seconds=2, down_seconds=1)) == "0 131072 flakey 7:0 0 2 1"
    with pytest.raises(ValueError, match="not linear"):
        target.failing().flaky(up_seconds=2, down_seconds=1)


def test_the_kernel_tells_whom_it_killed() -> None:
    assert killed_processes(KERNEL_LOG) == {812: "python"}
    assert killed_processes("Memory cgroup out of memory: Killed process 7 (x y) total-vm:1kB") == {7: "x y"}


@pytest.mark.parametrize("script", [kernel._HOG, memory._HOG, file_system._FILL], ids=["hang", "memory", "fill"])
def test_what_runs_on_hosts_is_python(script: str) -> None:
    compile(script, "on a host", "exec")


def test_a_full_file_system_is_confirmed_and_gets_its_room_back(shared_lab: NetnsLab) -> None:
    host = shared_lab.hosts["host-c"]
    host.run("mkdir -p /run/small && mount -t tmpfs -o size=4m tmpfs /run/small", check=True)
    fault, second = (FullFileSystem(shared_lab, host, "/run/small") for _ in range(2))
    fault.prepare()
    fault.inject()
    confirmation = fault.confirm(1)
    assert confirmation.verdict is Verdict.CONFIRMED, confirmation.evidence
    second.prepare()
    assert second.confirm(1).verdict is Verdict.MISMATCH, "it was full before"
    fault.heal()
    assert host.run("dd if=/dev/zero of=/run/small/room bs=1M count=3 status=none && rm /run/small/room").succeeded
    assert fault.confirm(1).verdict is Verdict.MISMATCH
    host.run("umount /run/small", check=True)


def test_a_carrier_that_goes_is_seen_on_the_host(shared_lab: NetnsLab) -> None:
    """This lab cannot pull cables, but the switch's port going down looks the same to the host."""
    host = shared_lab.hosts["host-c"]
    rack, port = host._switch.rack_pid, host._plan.port(LOGGING)
    fault = PulledCable(shared_lab, host, LOGGING)
    fault.prepare()
    assert fault.confirm(0.1).verdict is Verdict.MISMATCH
    run_inside(rack, ["net"], ["ip", "link", "set", port, "down"])
    try:
        confirmation = fault.confirm(1)
        assert confirmation.verdict is Verdict.CONFIRMED, confirmation.evidence
    finally:
        run_inside(rack, ["net"], ["ip", "link", "set", port, "up"])


def test_a_lab_says_what_it_lacks_before_it_is_up() -> None:
    lab = NetnsLab()
    promise = Promise(expect=Expect.FAILOVER)
    assert Plan(promise=promise, faults=(PowerOff, LogDelay)).why_not_in(lab) == ""
    told = Plan(promise=promise, faults=(PowerOff, KernelPanic)).why_not_in(lab)
    assert told == "the lab netns cannot inject kernel-panic: it lacks kernel"


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_every_fault_can_be_injected_in_some_lab(name: str) -> None:
    assert any(FAULTS[name].available(make()) for make in LABS.values())


def test_what_this_lab_cannot_do_is_skipped_with_the_reason() -> None:
    output = pytest_output("scenarios/test_kernel_faults.py", "--lab=netns", "-rs")
    assert "the lab netns cannot inject kernel-panic: it lacks kernel" in output
    assert "4 skipped" in output


def test_the_smoke_scenarios_are_five_of_five_families() -> None:
    output = pytest_output("scenarios/", "-m", "smoke", "--collect-only")
    chosen = [line.split("::")[0] for line in output.splitlines() if "::" in line]
    assert len(chosen) == len(set(chosen)) == 5


def pytest_output(*arguments: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_no_lab_writes_over_the_evidence_of_another() -> None:
    assert len({evidence_of(kind()) for kind in LABS.values()}) == len(LABS)


def test_bounds_of_time_follow_the_pace() -> None:
    lab = SlowLab()
    assert lab.pace.stretch(2000) == 8000
    assert Timing().for_pace(Pace()) == Timing()
    stretched = Timing(heartbeat_ms=51).for_pace(lab.pace)
    assert (stretched.heartbeat_ms, stretched.lease_ms, stretched.arbiter_ms) == (128, 250, 1250)


def test_faults_that_mean_something_beside_a_bound_follow_the_pace() -> None:
    lab = SlowLab()
    assert LogDelay(lab, None, delay_ms=200).parameters == {"stream": "upstream", "delay_ms": 500, "jitter_ms": 0}
    throttled = LogThrottle(lab, None, rate_kib_per_second=4).parameters
    assert throttled == {"stream": "upstream", "bytes_per_second": 1024}
    assert PacketReordering(lab, None).parameters["delay_ms"] == 25
