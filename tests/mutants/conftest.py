"""Fixtures of the mutants' tests: a pair that is broken on purpose, and what the oracles say of it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.evidence.directory import EvidenceDirectory
from harness.evidence.verdicts import Judgement, Verdict
from harness.lab.interface import Lab
from harness.oracles.registry import judge
from harness.vm.trial import Trial

Break = Callable[..., Trial]
Judge = Callable[[Trial], "Judgements"]


class Judgements:
    """What the oracles say of one run."""

    def __init__(self, judgements: list[Judgement]) -> None:
        self.by_oracle = {judgement.oracle: judgement for judgement in judgements}

    def __str__(self) -> str:
        return "\n".join(
            f"{oracle}: {judgement.verdict}"
            + "".join(f"\n  {finding.code}: {finding.message}" for finding in judgement.findings[:5])
            for oracle, judgement in self.by_oracle.items()
        )

    def assert_caught(self, oracle: str, code: str, *, verdict: Verdict = Verdict.FAILED) -> None:
        """This oracle did not let the run pass, and says why by this finding."""
        judgement = self.by_oracle[oracle]
        assert judgement.verdict is verdict, str(self)
        assert code in {finding.code for finding in judgement.findings if finding.verdict is verdict}, str(self)

    def assert_passed(self) -> None:
        """No oracle has anything to say against the run."""
        assert {judgement.verdict for judgement in self.by_oracle.values()} == {Verdict.PASSED}, str(self)


@pytest.fixture
def start(request: pytest.FixtureRequest, lab: Lab, tmp_path: Path) -> Iterator[Break]:
    """Starts a trial whose VMM is broken by the mutants named; without any it is healthy."""
    trials: list[Trial] = []

    def start_trial(*mutants: str, client: str = "key-value", **promise: Any) -> Trial:
        name = request.node.name
        trial = Trial(
            lab,
            tmp_path / "evidence",
            name=name,
            client=client,
            seed=zlib.crc32(name.encode()),
            promise=promise,
            mutants=mutants,
        )
        trials.append(trial)
        trial.start()
        return trial

    yield start_trial
    for trial in trials:
        if not trial.judgements:
            trial.abandon()


@pytest.fixture
def judged() -> Judge:
    """Ends a trial, gathers its evidence and lets every oracle judge it."""

    def end_and_judge(trial: Trial) -> Judgements:
        trial.client.stop()
        trial.collect()
        trial.judgements = judge(EvidenceDirectory(trial.directory))
        return Judgements(trial.judgements)

    return end_and_judge
