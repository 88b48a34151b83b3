"""How fast a CPU-bound guest computes under fault tolerance, relative to the same guest without."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.deployment import fresh_lab, run_command, running_pair
from bench.distribution import Distribution
from bench.figure import Figure
from harness.lab.interface import Host
from harness.vm import guests
from harness.vm.node_file import Guest

GOAL = 0.97
WORK_SHARE_START = 2
"""The first progress lines are left out: they overlap the pair's start, which is no part of computing."""
RUN_SECONDS_MAX = 300

_STAMP_LINES = """
import json, subprocess, sys, time
with subprocess.Popen(sys.argv[1], shell=True, stdout=subprocess.PIPE) as run:
    stamps = [time.clock_gettime_ns(time.CLOCK_BOOTTIME) for line in run.stdout if line.startswith(b"compute:")]
print(json.dumps(stamps))
sys.exit(run.returncode)
"""


def measure(*, repetitions: int, rounds: int, progress: Callable[[str], None]) -> list[Figure]:
    """Run the guest without and with a backup in turns, so that whatever else the machine does hits both alike.

    In the lab, primary and backup share this machine's cores and caches, which two hosts would not. So there is a
    second comparison, with two unrelated copies of the guest: it has the same load and leaves fault tolerance alone.
    """
    guest = guests.compute(rounds=rounds)
    alone: list[float] = []
    beside_copy: list[float] = []
    protected: list[float] = []
    for repetition in range(repetitions):
        progress(f"compute, repetition {repetition + 1} of {repetitions}")
        with fresh_lab() as lab:
            first, second = lab.fault_tolerant_hosts[:2]
            alone.append(_run_seconds(first, guest))
            with ThreadPoolExecutor(1) as pool:
                copy = pool.submit(_run_seconds, second, guest)
                beside_copy.append(_run_seconds(first, guest))
                copy.result()
            with running_pair(lab, guest) as pair:
                node = pair.nodes[first.name]
                node.process.wait(RUN_SECONDS_MAX)
                protected.append(_trace_seconds(node.trace()))
    return [
        _figure("compute: speed with FT relative to without", alone, protected, GOAL),
        _figure("    relative to without, beside an unrelated copy", beside_copy, protected, None),
    ]


def _figure(title: str, without: list[float], protected: list[float], goal: float | None) -> Figure:
    ratios = [one / other for one, other in zip(without, protected, strict=True)]
    ratio = Distribution.of(ratios)
    return Figure(
        title=title,
        without=Distribution.of(without).summary(digits=2, unit="s"),
        protected=Distribution.of(protected).summary(digits=2, unit="s"),
        result=f"{ratio.summary(digits=3)} x",
        goal="" if goal is None else f"at least {goal} x",
        reached=None if goal is None else ratio.median >= goal,
        samples={"without_seconds": without, "protected_seconds": protected, "ratio": ratios},
    )


def _run_seconds(host: Host, guest: Guest) -> float:
    python = host.python.split()
    answer = host.run(
        [*python, "-c", _STAMP_LINES, run_command(host, guest)], timeout_seconds=RUN_SECONDS_MAX, check=True
    )
    return _seconds(json.loads(answer.stdout))


def _trace_seconds(trace: Sequence[dict[str, Any]]) -> float:
    return _seconds([one["monotonic_ns"] for one in trace if one["event"] == "output" and one["kind"] == "console"])


def _seconds(stamps_ns: Sequence[int]) -> float:
    """From an early progress line of the guest to its last."""
    if len(stamps_ns) <= WORK_SHARE_START + 1:
        raise ValueError(f"the compute guest printed only {len(stamps_ns)} lines")
    return (stamps_ns[-1] - stamps_ns[WORK_SHARE_START]) / 1e9
