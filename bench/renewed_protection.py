"""How long a VM is without protection when the host of its primary is lost, and managers get it a new backup."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.deployment import fresh_lab
from bench.distribution import Distribution
from bench.figure import Figure, part
from fault_injectors.host import PowerOff
from harness.evidence.client import longest_wait_ms
from harness.evidence.directory import EvidenceDirectory
from harness.evidence.failover import find_failovers
from harness.evidence.transfer import find_transfers
from harness.promise import Expect, Promise
from harness.scenario import Plan
from harness.vm.run import Run

GOAL_SECONDS = 10
LOSS = Plan(promise=Promise(expect=Expect.FAILOVER, renewals_min=1), faults=(PowerOff,))
PARTS = {"takeover": "takeover", "asked": "until a spare answers", "transfer": "live transfer"}


@dataclass(frozen=True)
class Renewal:
    """From the loss of a primary to its survivor's new backup, in milliseconds.

    Attributes:
        takeover: from the fault to the survivor's go-live.
        asked: until the first page is copied: the manager sees it, the spare is dialled and says welcome.
        transfer: until the survivor is protected.
        stop: how long the guest stood still at the end of that.
        wait: what one connection waited for an answer at the most, from the fault to the end.
    """

    takeover: float
    asked: float
    transfer: float
    stop: float
    wait: float

    @property
    def total(self) -> float:
        """From the loss to protection."""
        return self.takeover + self.asked + self.transfer


def measure(*, losses: int, progress: Callable[[str], None]) -> list[Figure]:
    """Take the power of ``losses`` primaries away, each of a fresh pair with a spare and managers, under load.

    Every run is judged as a scenario is.
    """
    done = []
    for number in range(1, losses + 1):
        progress(f"loss {number} of {losses}, with managers")
        done.append(_lose_once(seed=number))
    total = Distribution.of(renewal.total for renewal in done)
    return [
        Figure(
            title=f"kv: from a loss to protection, {losses} losses",
            protected=total.summary(unit="ms"),
            result=f"{total.median:.0f} ms, max {total.largest:.0f}",
            goal=f"all within {GOAL_SECONDS} s",
            reached=total.largest < GOAL_SECONDS * 1000,
            samples={"total_ms": list(total.samples)},
        ),
        *(part(f"of it: {text}", [getattr(renewal, name) for renewal in done]) for name, text in PARTS.items()),
        part("the guest's stop", [renewal.stop for renewal in done]),
        # The takeover's, as a rule: whoever asked in vain waits until its kernel asks again.
        part("longest wait of a connection", [renewal.wait for renewal in done]),
    ]


def _lose_once(*, seed: int) -> Renewal:
    with fresh_lab() as lab, tempfile.TemporaryDirectory(prefix="ftvmm-bench-") as directory:
        evidence = Path(directory) / "evidence"
        run = Run(lab, evidence, LOSS, name="loss of a primary", seed=seed)
        run.start()
        spare, primary, survivor = run.pair.start_spare(), run.primary, run.backup
        run.pair.start_managers()
        run.inject(PowerOff(lab, primary.host))
        run.pair.wait_until_protected(survivor, spare)
        run.expect_service()
        run.conclude()
        return _renewal(EvidenceDirectory(evidence))


def _renewal(evidence: EvidenceDirectory) -> Renewal:
    (failover,) = find_failovers(evidence)
    (transfer,) = find_transfers(evidence.traces.values())
    if failover.fault_ns is None:
        raise ValueError("the evidence does not tell when the primary was lost")
    return Renewal(
        takeover=(failover.live_ns - failover.fault_ns) / 1e6,
        asked=(transfer.begun_ns - failover.live_ns) / 1e6,
        transfer=(transfer.committed_ns - transfer.begun_ns) / 1e6,
        stop=transfer.stop_ms,
        wait=longest_wait_ms(evidence.history, failover.fault_ns, transfer.resumed_ns),
    )
