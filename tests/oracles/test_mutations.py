"""Every oracle notices what it is there for: each mutation of a good run is caught, by the right oracle, by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.evidence.verdicts import Judgement, Verdict
from harness.oracles.registry import ORACLES, all_passed
from tests.oracles.conftest import JudgeRun
from tests.oracles.mutations import MUTATIONS, TICKER_MUTATIONS, Mutation
from tests.oracles.outside_mutations import OUTSIDE_MUTATIONS
from tests.oracles.run_builder import Run


def check(judgements: dict[str, Judgement], mutation: Mutation) -> None:
    assert not all_passed(list(judgements.values()))
    judgement = judgements[mutation.oracle]
    assert mutation.code in {finding.code for finding in judgement.findings}
    assert judgement.verdict is not Verdict.PASSED


@pytest.mark.parametrize("mutation", MUTATIONS + OUTSIDE_MUTATIONS, ids=lambda mutation: mutation.name)
def test_mutation_is_caught(mutation: Mutation, run: Run, judge_run: JudgeRun) -> None:
    mutation.apply(run)
    check(judge_run(run), mutation)


@pytest.mark.parametrize("mutation", TICKER_MUTATIONS, ids=lambda mutation: mutation.name)
def test_ticker_mutation_is_caught(mutation: Mutation, ticker_run: Run, judge_run: JudgeRun) -> None:
    mutation.apply(ticker_run)
    check(judge_run(ticker_run), mutation)


DOCUMENTED = re.compile(r"\| `(?P<oracle>[a-z-]+)` \| [^|]+ \| (?P<findings>[^|]+) \|")


def test_every_documented_finding_has_a_run_that_produces_it_and_every_such_finding_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text()
    section = text[text.index("### Oracles and what they find") : text.index("### Clocks")]
    documented = {
        match["oracle"]: set(re.findall(r"`([a-z-]+)`", match["findings"])) for match in DOCUMENTED.finditer(section)
    }
    produced: dict[str, set[str]] = {oracle: set() for oracle in documented}
    for mutation in MUTATIONS + OUTSIDE_MUTATIONS:
        if mutation.oracle in produced:
            produced[mutation.oracle].add(mutation.code)
    assert len(documented) == 8
    assert documented == produced


def test_every_oracle_has_a_mutation() -> None:
    assert {mutation.oracle for mutation in MUTATIONS + OUTSIDE_MUTATIONS + TICKER_MUTATIONS} == {
        oracle.name for oracle in ORACLES
    }
