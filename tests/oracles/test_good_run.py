"""A run that keeps every promise passes every oracle, and none of them passes without having counted something."""

from __future__ import annotations

from harness.evidence.verdicts import Verdict
from tests.oracles.conftest import JudgeRun
from tests.oracles.run_builder import Run


def test_every_oracle_passes(run: Run, judge_run: JudgeRun) -> None:
    judgements = judge_run(run)
    assert {name: judgement.findings for name, judgement in judgements.items() if judgement.findings} == {}
    assert len(judgements) == 14
    assert all(judgement.verdict is Verdict.PASSED for judgement in judgements.values())
    assert judgements["output-rule"].counted["announcements"] == 2
    assert judgements["output-rule"].counted["frame_matched"] > 300
    assert judgements["output-rule"].counted["block_matched"] > 200
    assert judgements["console"].counted["chunks"] == {"host-a": 10, "host-b": 8}
    assert judgements["single-speaker"].counted["owners"] == ["1: host-a", "2: host-b"]
    assert judgements["durable"].counted["keys_read_from_the_disk"] == 6


def test_every_oracle_passes_under_the_ticker(ticker_run: Run, judge_run: JudgeRun) -> None:
    judgements = judge_run(ticker_run)
    assert {name: judgement.findings for name, judgement in judgements.items() if judgement.findings} == {}
    assert "ticks-complete" in judgements
    assert "linearizable" not in judgements
