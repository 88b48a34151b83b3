"""Transparent failover: the key-value history is linearizable (Herlihy and Wing, 1990), judged by porcupine."""

from __future__ import annotations

from harness.evidence.directory import EvidenceDirectory
from harness.evidence.scenario import Scenario
from harness.evidence.verdicts import Finding, Judgement, Verdict
from harness.oracles.linearizability_checker import check

NAME = "linearizable"
PROMISE = "transparent-failover"
TIME_LIMIT_SECONDS = 30.0


def applies(scenario: Scenario) -> bool:
    """Where there is a key-value history."""
    return scenario.client == "key-value"


def judge(evidence: EvidenceDirectory) -> Judgement:
    """Judge; a history that is not sealed may lack a write that took place, so it carries no judgement."""
    findings = []
    if not evidence.history.sealed:
        findings.append(Finding("history-not-sealed", "the client did not end in order", Verdict.INSUFFICIENT))
    picture = evidence.path / "linearizability.html"
    answer = check(evidence.path / "history.jsonl", picture=picture, time_limit_seconds=TIME_LIMIT_SECONDS)
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
