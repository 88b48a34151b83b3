"""How long clients wait when the primary's host loses power, and what that time is made of."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

from bench.deployment import KEY_VALUE, fresh_lab, running_pair
from bench.distribution import Distribution
from bench.failover_parts import PARTS, FailoverParts, failover_parts
from bench.figure import Figure
from bench.load import running_load
from harness.evidence.history import History

GOAL_MS = 300
WARM_UP_OPERATIONS = 300
OPERATIONS_AFTER = 200


@dataclass(frozen=True)
class Kill:
    """One primary killed: the client's longest silence around it, and its parts where the traces tell."""

    stall_ms: float
    parts: FailoverParts | None
    lost_connections: int


def measure(*, kills: int, progress: Callable[[str], None]) -> list[Figure]:
    """Kill ``kills`` primaries, each of a fresh pair in a fresh lab, under load."""
    done = []
    for number in range(1, kills + 1):
        progress(f"primary kill {number} of {kills}")
        done.append(_kill_once())
    stalls = [kill.stall_ms for kill in done]
    stall = Distribution.of(stalls)
    lost = sum(kill.lost_connections for kill in done)
    figures = [
        Figure(
            title=f"kv: client-visible stall, {kills} primary kills ({lost} connections lost)",
            protected=stall.summary(unit="ms"),
            result=f"{stall.median:.0f} ms, p95 {stall.percentile(95):.0f}",
            goal=f"median under {GOAL_MS} ms",
            reached=stall.median < GOAL_MS and not lost,
            samples={"stall_ms": stalls},
        )
    ]
    taken_apart = [kill.parts.values() for kill in done if kill.parts is not None]
    for index, part in enumerate(PARTS if taken_apart else ()):
        samples = [values[index] for values in taken_apart]
        summary = Distribution.of(samples).summary(unit="ms")
        figures.append(Figure(title=f"    of it: {part}", protected=summary, result="", samples={"ms": samples}))
    return figures


def _kill_once() -> Kill:
    with fresh_lab() as lab, running_pair(lab, KEY_VALUE) as pair, running_load(lab.client_host) as load:
        load.control.wait_answered(WARM_UP_OPERATIONS)
        primary, backup = (pair.nodes[host.name] for host in lab.fault_tolerant_hosts[:2])
        fault_ns = load.control.progress().now_ns
        primary.host.power_off()
        load.control.wait_answered(OPERATIONS_AFTER, called_after_ns=load.control.progress().now_ns)
        end = load.control.stop()
        start_ns, end_ns = silence(load.history(), around_ns=fault_ns)
        parts = failover_parts(backup.trace(), fault_ns=fault_ns, first_answer_ns=end_ns)
        return Kill((end_ns - start_ns) / 1e6, parts, end.lost_connections)


def silence(history: History, *, around_ns: int) -> tuple[int, int]:
    """The longest time without an answer that ended after ``around_ns``: from one answer to the next."""
    returns = [one.return_ns for one in history.answers if one.return_ns is not None and one.phase == "load"]
    gaps = [gap for gap in itertools.pairwise(returns) if gap[1] > around_ns]
    if not gaps:
        raise ValueError("the client got no answer after the fault")
    return max(gaps, key=lambda gap: gap[1] - gap[0])
