"""How long nobody gets an answer when the primary's host loses power, and what that time is made of."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.deployment import fresh_lab
from bench.distribution import Distribution
from bench.figure import Figure, part
from fault_injectors.host import PowerOff
from harness.evidence.directory import EvidenceDirectory
from harness.evidence.failover import PARTS, Failover, find_failovers
from harness.promise import Expect, Promise
from harness.scenario import Plan
from harness.vm.run import Run

GOAL_MS = 300
PRIMARY_KILL = Plan(promise=Promise(expect=Expect.FAILOVER), faults=(PowerOff,))


def measure(*, kills: int, progress: Callable[[str], None]) -> list[Figure]:
    """Kill ``kills`` primaries, each of a fresh pair in a fresh lab, under load.

    Every run is judged as a scenario is: the time of a failover that broke a promise is no figure.
    """
    done = []
    for number in range(1, kills + 1):
        progress(f"primary kill {number} of {kills}")
        done.append(_kill_once(seed=number))
    silences = [failover.silence_ms for failover in done if failover.silence_ms is not None]
    silence = Distribution.of(silences)
    waits = [failover.longest_wait_ms for failover in done if failover.longest_wait_ms is not None]
    return [
        Figure(
            title=f"kv: silence, {kills} primary kills",
            protected=silence.summary(unit="ms"),
            result=f"{silence.median:.0f} ms, p95 {silence.percentile(95):.0f}",
            goal=f"median under {GOAL_MS} ms",
            reached=silence.median < GOAL_MS,
            samples={"silence_ms": silences},
        ),
        *(_part(name, done) for name in PARTS),
        # Whoever asked in vain waits until its kernel asks again, which may be long after the silence.
        Figure(
            title="    longest wait of a connection",
            protected=Distribution.of(waits).summary(unit="ms"),
            result="",
            samples={"wait_ms": waits},
        ),
    ]


def _part(name: str, failovers: list[Failover]) -> Figure:
    samples = [value for failover in failovers if (value := failover.parts_ms()[name]) is not None]
    return part(f"of it: {name.replace('_', ' ')}", samples)


def _kill_once(*, seed: int) -> Failover:
    with fresh_lab() as lab, tempfile.TemporaryDirectory(prefix="ftvmm-bench-") as directory:
        evidence = Path(directory) / "evidence"
        run = Run(lab, evidence, PRIMARY_KILL, name="primary kill", seed=seed)
        run.start()
        primary, survivor = run.primary, run.backup
        run.inject(PowerOff(lab, primary.host))
        run.expect_takeover(survivor)
        run.conclude()
        (failover,) = find_failovers(EvidenceDirectory(evidence))
        return failover
