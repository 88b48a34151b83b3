"""Fixtures of the mutants' tests: a pair that is broken on purpose, and what the oracles say of it."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.evidence.allure_report import EvidenceInsufficientError, PromiseBrokenError
from harness.evidence.verdicts import Finding, Judgement, Verdict
from harness.lab.interface import Lab
from harness.promise import Promise, Workload
from harness.scenario import Plan
from harness.vm.run import Run

Start = Callable[..., Run]


def pytest_configure(config: pytest.Config) -> None:
    """Registers what a test may say of itself."""
    config.addinivalue_line("markers", "mutant(name): both nodes' VMM is broken on purpose in this way")


class Judgements:
    """What the oracles say of one run."""

    def __init__(self, judgements: list[Judgement]) -> None:
        self._by_oracle = {judgement.oracle: judgement for judgement in judgements}

    def __str__(self) -> str:
        return "\n".join(
            f"{oracle}: {judgement.verdict} {judgement.counted}"
            + "".join(f"\n  {finding.code}: {finding.message}" for finding in judgement.findings[:5])
            for oracle, judgement in self._by_oracle.items()
        )

    def findings(self, oracle: str) -> list[Finding]:
        """What an oracle has to say."""
        return self._by_oracle[oracle].findings

    def assert_caught(self, oracle: str, *codes: str, verdict: Verdict = Verdict.FAILED) -> None:
        """This oracle did not let the run pass, and says why by these findings."""
        judgement = self._by_oracle[oracle]
        assert judgement.verdict is verdict, str(self)
        assert set(codes) <= {finding.code for finding in judgement.findings}, str(self)

    def assert_passed(self) -> None:
        """No oracle has anything to say against the run."""
        assert {judgement.verdict for judgement in self._by_oracle.values()} == {Verdict.PASSED}, str(self)


Judge = Callable[[Run], Judgements]


@pytest.fixture
def start(request: pytest.FixtureRequest, lab: Lab, tmp_path: Path) -> Iterator[Start]:
    """Starts a run whose VMM is broken as the test's `mutant` marker says; without one it is healthy."""
    name = request.node.name
    mutants = tuple(marker.args[0] for marker in request.node.iter_markers("mutant"))
    runs: list[Run] = []

    def start_run(promise: Promise, *, workload: Workload = Workload.KV, **plan: Any) -> Run:
        plan_of_it = Plan(promise=promise, mutants=mutants, **plan)
        seed = zlib.crc32(name.encode())
        run = Run(lab, tmp_path / "evidence", plan_of_it, name=name, seed=seed, workload=workload)
        runs.append(run)
        run.start()
        return run

    yield start_run
    for run in runs:
        if not run.judgements:
            run.abandon()


@pytest.fixture
def judge() -> Judge:
    """Ends a run, gathers its evidence and lets every oracle judge it."""

    def end_and_judge(run: Run) -> Judgements:
        with contextlib.suppress(PromiseBrokenError, EvidenceInsufficientError):
            run.conclude()
        return Judgements(run.judgements)

    return end_and_judge
