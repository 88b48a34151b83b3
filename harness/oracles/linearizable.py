"""Transparent failover: the key-value history is linearizable (Herlihy and Wing, 1990), judged by porcupine.

Porcupine is a Go library, and `linearizability/` the program around it.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.evidence.directory import EvidenceDirectory
from harness.evidence.json_lines import EvidenceError
from harness.evidence.scenario import Scenario
from harness.evidence.verdicts import Finding, Judgement, Verdict

_ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT_VARIABLE = "FTVMM_LINEARIZABILITY"
NAME = "linearizable"
PROMISE = "transparent-failover"
TIME_LIMIT_SECONDS = 30.0


@dataclass(frozen=True)
class CheckerAnswer:
    """What porcupine found; `verdict` is `linearizable`, `violation` or `unknown` (no answer in time)."""

    verdict: str
    keys: int
    operations: int
    unknown_outcomes: int
    violations: list[dict[str, Any]]
    undecided_keys: list[str]
    picture: str | None


def ask_checker(history: Path, *, picture: Path, time_limit_seconds: float) -> CheckerAnswer:
    """Ask the checker; on a violation it draws `picture` (HTML).

    Raises `EvidenceError` when it is not built or cannot read the history.
    """
    program = Path(os.environ.get(ENVIRONMENT_VARIABLE, _ROOT / ".tools" / "bin" / "linearizability"))
    command = [str(program), "-history", str(history), "-html", str(picture), "-time-limit", f"{time_limit_seconds}s"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=time_limit_seconds + 30)
    except OSError as error:
        raise EvidenceError(f"{program}: {error.strerror}: run `make setup`, which builds it") from error
    except subprocess.TimeoutExpired as error:
        raise EvidenceError(f"{program} did not end within {error.timeout:.0f} s") from error
    if done.returncode != 0:
        raise EvidenceError(f"{program}: {done.stderr.strip()}")
    answer = json.loads(done.stdout)
    return CheckerAnswer(
        verdict=answer["verdict"],
        keys=answer["keys"],
        operations=answer["operations"],
        unknown_outcomes=answer["unknown_outcomes"],
        violations=answer["violations"],
        undecided_keys=answer["undecided_keys"],
        picture=answer.get("picture"),
    )


def applies(scenario: Scenario) -> bool:
    """Where there is a key-value history."""
    return scenario.client == "key-value"


def judge(evidence: EvidenceDirectory) -> Judgement:
    """Judge; a history that is not sealed may lack a write that took place, so it carries no judgement."""
    findings = []
    if not evidence.history.sealed:
        findings.append(Finding("history-not-sealed", "the client did not end in order", Verdict.INSUFFICIENT))
    picture = evidence.path / "linearizability.html"
    answer = ask_checker(evidence.path / "history.jsonl", picture=picture, time_limit_seconds=TIME_LIMIT_SECONDS)
    for violation in answer.violations:
        findings.append(
            Finding(
                "not-linearizable",
                f"key {violation['key']}: no order of its {violation['operations']} operations explains "
                f"`{violation['unexplained']}`",
                at_ns=evidence.to_monotonic_ns(violation["call_ns"]),
            )
        )
    if answer.verdict == "unknown":
        message = f"no answer within {TIME_LIMIT_SECONDS:.0f} s for {', '.join(answer.undecided_keys)}"
        findings.append(Finding("checker-gave-up", message, Verdict.INSUFFICIENT))
    if answer.operations == 0:
        findings.append(Finding("empty-history", "no operation to judge", Verdict.INSUFFICIENT))
    counted = {"keys": answer.keys, "operations": answer.operations, "unknown_outcomes": answer.unknown_outcomes}
    return Judgement.of(NAME, findings, counted)
