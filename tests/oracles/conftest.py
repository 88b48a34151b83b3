"""Fixtures of the oracles' tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.evidence.verdicts import Judgement
from harness.oracles.registry import judge
from tests.oracles.run_builder import Builder, BuiltEvidence, Run, good_ticker_run

JudgeRun = Callable[[Run], dict[str, Judgement]]


@pytest.fixture
def run() -> Run:
    """A run in which every promise is kept."""
    return Builder().good_failover()


@pytest.fixture
def ticker_run() -> Run:
    """The same under the ticker."""
    return good_ticker_run()


@pytest.fixture
def judge_run(tmp_path: Path) -> JudgeRun:
    """Writes a run and judges it; the judgements by oracle."""

    def write_and_judge(run: Run) -> dict[str, Judgement]:
        evidence = BuiltEvidence(run.write(tmp_path / "evidence"), run)
        return {judgement.oracle: judgement for judgement in judge(evidence)}

    return write_and_judge
