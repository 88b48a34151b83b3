"""The oracles that guard the evidence: a fault that does not bite, and a run that proves nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fault_injectors.host import PowerOff
from fault_injectors.logging_network import LogReset
from harness.evidence.capture import CaptureCount
from harness.evidence.directory import EvidenceDirectory
from harness.evidence.verdicts import Verdict
from harness.lab import topology
from harness.oracles.registry import judge as judge_directory
from harness.promise import Expect, Promise, Workload
from harness.vm.read_back import collect_read_back
from tests.mutants.conftest import Judge, Judgements, Start

TOGETHER = Promise(expect=Expect.STAYS_TOGETHER)


def test_a_fault_that_strikes_nothing(start: Start, judge: Judge) -> None:
    """The log does not land on the primary's host: there is no connection to reset, and nothing happens."""
    run = start(TOGETHER, faults=(LogReset,))
    run.inject(LogReset(run.lab, run.primary.host))
    run.expect_service()
    judge(run).assert_caught("faults-confirmed", "fault-inconclusive")


def test_a_fault_that_strikes_what_is_down_already(start: Start, judge: Judge) -> None:
    """A host cannot lose its power twice."""
    run = start(TOGETHER, faults=(PowerOff,))
    spare = run.lab.hosts["host-c"]
    spare.power_off()
    run.inject(PowerOff(run.lab, spare))
    judge(run).assert_caught("faults-confirmed", "fault-mismatch")


def test_a_failover_that_nobody_watches(start: Start, judge: Judge) -> None:
    """The client has gone when the primary dies: nobody can say that it would have noticed nothing."""
    run = start(Promise(expect=Expect.FAILOVER), faults=(PowerOff,))
    survivor = run.backup
    run.client.stop()
    run.inject(PowerOff(run.lab, run.primary.host))
    run.pair.wait_until_alone(survivor)
    judge(run).assert_caught("evidence-sufficient", "too-few-after", verdict=Verdict.INSUFFICIENT)


def test_captures_that_missed_frames(start: Start, judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    """What went by uncaptured may be what a node must not have said."""
    run = start(TOGETHER)
    collect = run.lab.collect_captures

    def collect_with_gaps(directory: Path) -> dict[str, CaptureCount]:
        return {port: replace(count, dropped=3) for port, count in collect(directory).items()}

    monkeypatch.setattr(run.lab, "collect_captures", collect_with_gaps)
    judge(run).assert_caught("evidence-sufficient", "capture-incomplete", verdict=Verdict.INSUFFICIENT)


@pytest.mark.parametrize(
    ("workload", "codes"),
    [(Workload.KV, ("read-back-error", "damage-on-disk")), (Workload.REDIS, ("write-not-on-disk",))],
)
def test_an_image_that_a_fresh_vm_finds_changed(
    start: Start, judge: Judge, workload: Workload, codes: tuple[str, ...]
) -> None:
    """The client was told the truth all the while; what a fresh VM finds on the disk is another matter.

    A flipped bit is damage to a server that keeps checksums, and to another one it is a value that nobody wrote.
    """
    run = start(TOGETHER, workload=workload)
    judge(run).assert_passed()
    storage, image = run.lab.storage_host, topology.STORAGE_IMAGE
    evidence = EvidenceDirectory(run.directory)
    before = evidence.read_back
    assert before is not None
    assert before.values.keys() == {one.key for one in evidence.history.operations}

    def judge_again(command: str) -> Judgements:
        storage.run(command, check=True)
        collect_read_back(run.lab, workload, sorted(before.values), run.directory / "readback.json")
        return Judgements(judge_directory(EvidenceDirectory(run.directory)))

    value = next(value for value in before.values.values() if value is not None and value.startswith("<"))
    written_last = value[value.rindex("<") :]
    flip = f"import mmap; f = open('{image}', 'r+b'); m = mmap.mmap(f.fileno(), 0); m[m.rfind(b'{written_last}')] ^= 1"
    judge_again(f'{storage.python} -c "{flip}"').assert_caught("durable", *codes)
    judge_again(f"tr '\\0-\\377' '\\1-\\377\\0' <{image} >{image}.2; cat {image}.2 >{image}").assert_caught(
        "durable", "disk-not-served"
    )
    judge_again(f"head -c {topology.DISK_MIB}M /dev/zero >{image}").assert_caught("durable", "write-not-on-disk")
