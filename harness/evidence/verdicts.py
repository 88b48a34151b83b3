"""`verdicts.json`: what each oracle said."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


class Verdict(enum.StrEnum):
    """INSUFFICIENT: the evidence does not carry a judgement; it counts as a failure of the scenario."""

    PASSED = "passed"
    FAILED = "failed"
    INSUFFICIENT = "insufficient"


@dataclass(frozen=True)
class Finding:
    """One thing that was found. `at_ns` is CLOCK_BOOTTIME where a time belongs to it."""

    code: str
    message: str
    verdict: Verdict = Verdict.FAILED
    at_ns: int | None = None
    position: int | None = None


@dataclass(frozen=True)
class Judgement:
    """One oracle's verdict, why, and how much evidence it rests on."""

    oracle: str
    verdict: Verdict
    findings: list[Finding] = field(default_factory=list)
    counted: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, oracle: str, findings: Iterable[Finding], counted: dict[str, Any]) -> Judgement:
        """Failed when any finding says so, else insufficient when any says so, else passed."""
        findings = list(findings)
        said = {finding.verdict for finding in findings}
        verdict = next((one for one in (Verdict.FAILED, Verdict.INSUFFICIENT) if one in said), Verdict.PASSED)
        return cls(oracle, verdict, findings, counted)


def write_verdicts(path: Path, judgements: Iterable[Judgement]) -> None:
    """Write the file."""
    path.write_text(json.dumps([asdict(judgement) for judgement in judgements], indent=2) + "\n")
