"""The oracles that guard the evidence: a fault that does not bite, and a run that proves nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fault_injectors.host import PowerOff
from fault_injectors.logging_network import LogReset
from harness.evidence.capture_counts import CaptureCount
from harness.evidence.verdicts import Verdict
from tests.mutants.conftest import Judge, Start


def test_a_fault_that_strikes_nothing(start: Start, judge: Judge) -> None:
    """The log does not land on the primary's host: there is no connection to reset, and nothing happens."""
    trial = start(expects_failover=False)
    trial.inject(LogReset(trial.lab, trial.primary.host))
    trial.expect_service()
    judge(trial).assert_caught("faults-confirmed", "fault-inconclusive")


def test_a_fault_that_strikes_what_is_down_already(start: Start, judge: Judge) -> None:
    """A host cannot lose its power twice."""
    trial = start(expects_failover=False)
    spare = trial.lab.hosts["host-c"]
    spare.power_off()
    trial.inject(PowerOff(trial.lab, spare))
    judge(trial).assert_caught("faults-confirmed", "fault-mismatch")


def test_a_failover_that_nobody_watches(start: Start, judge: Judge) -> None:
    """The client has gone when the primary dies: nobody can say that it would have noticed nothing."""
    trial = start()
    survivor = trial.backup
    trial.client.stop()
    trial.inject(PowerOff(trial.lab, trial.primary.host))
    trial.pair.wait_until_alone(survivor)
    judge(trial).assert_caught("evidence-sufficient", "too-few-after", verdict=Verdict.INSUFFICIENT)


def test_captures_that_missed_frames(start: Start, judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    """What went by uncaptured may be what a node must not have said."""
    trial = start(expects_failover=False, expects_faults=False)
    collect = trial.lab.collect_captures

    def collect_with_gaps(directory: Path) -> dict[str, CaptureCount]:
        return {port: replace(count, dropped=3) for port, count in collect(directory).items()}

    monkeypatch.setattr(trial.lab, "collect_captures", collect_with_gaps)
    judge(trial).assert_caught("evidence-sufficient", "capture-incomplete", verdict=Verdict.INSUFFICIENT)
