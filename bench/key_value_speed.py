"""redis-benchmark against `kv` or a packed redis-server: throughput, and the latency that output commit adds.

`kv` writes its disk through at each commit. redis-server is measured with its data in memory, as Debian's own serves it
when it is new: its append-only file is turned off before.
"""

import csv
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.deployment import fresh_lab, running_alone, running_pair
from bench.distribution import Distribution
from bench.figure import Figure
from harness.lab import topology
from harness.lab.interface import Host
from harness.promise import Workload
from harness.vm.guests import KEY_VALUE_PORT, key_value

OPERATIONS = ("SET", "GET")
# What a server is told before it is measured.
SETTINGS: Mapping[Workload, str] = {Workload.REDIS: "config set appendonly no"}
CLIENTS = 50
BENCHMARK_SECONDS_MAX = 300
BOOT_SECONDS_MAX = 20


@dataclass(frozen=True)
class Reading:
    """What one redis-benchmark said of one operation."""

    operation: str
    requests_per_second: float
    median_latency_ms: float


@dataclass(frozen=True)
class Run:
    """Both benchmarks of one deployment: many clients for throughput, one for latency."""

    many: dict[str, Reading]
    single: dict[str, Reading]


def measure(workload: Workload, *, repetitions: int, requests: int, progress: Callable[[str], None]) -> list[Figure]:
    """Benchmark the server without and with a backup in turns; each turn has a fresh lab and an empty disk."""
    without: list[Run] = []
    protected: list[Run] = []
    for repetition in range(repetitions):
        progress(f"{workload}, repetition {repetition + 1} of {repetitions}")
        with fresh_lab() as lab, running_alone(lab.fault_tolerant_hosts[0], key_value(workload)):
            without.append(_run(lab.client_host, workload, requests))
        with fresh_lab() as lab, running_pair(lab, key_value(workload)):
            protected.append(_run(lab.client_host, workload, requests))
    figures = [_throughput(workload, operation, without, protected) for operation in OPERATIONS]
    return [*figures, *(_latency(workload, operation, without, protected) for operation in reversed(OPERATIONS))]


def await_server(client: Host, workload: Workload) -> None:
    """Wait until the server answers, and tell it what it is told before it is measured."""
    command_line = f"redis-cli -e -h {topology.VM_ADDRESS} -p {KEY_VALUE_PORT}"
    ready = f"until timeout 1 {command_line} ping 2>&1 | grep -q PONG; do sleep 0.1; done"
    client.run(
        ["timeout", str(BOOT_SECONDS_MAX), "bash", "-c", ready], check=True, timeout_seconds=BOOT_SECONDS_MAX + 5
    )
    if (setting := SETTINGS.get(workload)) is not None:
        client.run(f"{command_line} {setting}", check=True)


def _run(client: Host, workload: Workload, requests: int) -> Run:
    await_server(client, workload)
    many = _benchmark(client, clients=CLIENTS, requests=requests)
    return Run(many, _benchmark(client, clients=1, requests=max(200, requests // 20)))


def _benchmark(client: Host, *, clients: int, requests: int) -> dict[str, Reading]:
    command = (
        f"redis-benchmark -h {topology.VM_ADDRESS} -p {KEY_VALUE_PORT} -t set,get -c {clients} -n {requests} --csv"
    )
    printed = client.run(command, check=True, timeout_seconds=BENCHMARK_SECONDS_MAX).stdout
    return {reading.operation: reading for reading in parse(printed)}


def parse(printed: str) -> list[Reading]:
    """Read ``redis-benchmark --csv`` (version 7: a header line, latencies in milliseconds)."""
    header = '"test","rps"'
    lines = printed[printed.index(header) :].splitlines()
    return [
        Reading(row["test"], float(row["rps"]), float(row["p50_latency_ms"]))
        for row in csv.DictReader(lines)
        if row["test"] in OPERATIONS
    ]


def _throughput(workload: Workload, operation: str, without: Sequence[Run], protected: Sequence[Run]) -> Figure:
    alone = [run.many[operation].requests_per_second for run in without]
    paired = [run.many[operation].requests_per_second for run in protected]
    ratio = statistics.median(paired) / statistics.median(alone)
    return Figure(
        title=f"{workload}: {operation} throughput, {CLIENTS} clients",
        without=Distribution.of(alone).summary(unit="/s"),
        protected=Distribution.of(paired).summary(unit="/s"),
        result=f"{ratio:.2f} x",
        samples={"without_per_second": alone, "protected_per_second": paired},
    )


def _latency(workload: Workload, operation: str, without: Sequence[Run], protected: Sequence[Run]) -> Figure:
    alone = [run.single[operation].median_latency_ms for run in without]
    paired = [run.single[operation].median_latency_ms for run in protected]
    added = statistics.median(paired) - statistics.median(alone)
    return Figure(
        title=f"{workload}: {operation} latency, one client, at the median",
        without=Distribution.of(alone).summary(digits=2, unit="ms"),
        protected=Distribution.of(paired).summary(digits=2, unit="ms"),
        result=f"{added:+.2f} ms",
        samples={"without_ms": alone, "protected_ms": paired},
    )
