"""Transparent failover: errors are answers, and none of them is what the client was promised."""

from __future__ import annotations

from collections import Counter

from harness.evidence.directory import EvidenceDirectory
from harness.evidence.scenario import Scenario
from harness.evidence.verdicts import Finding, Judgement, Verdict

NAME = "answers-clean"
PROMISE = "transparent-failover"


def applies(scenario: Scenario) -> bool:
    """Where there is a key-value client."""
    return scenario.client == "key-value"


def judge(evidence: EvidenceDirectory) -> Judgement:
    """Judge every reply, and every attempt to connect after the first that was let in."""
    allowed = tuple(evidence.scenario.errors_allowed)
    answers = evidence.history.answers
    findings = []
    errors = [one for one in answers if one.error is not None]
    for one in errors:
        if not (one.error or "").startswith(allowed):
            message = f"client {one.client}: {one.operation} {one.key} was answered with the error `{one.error}`"
            findings.append(Finding("error-answered", message, at_ns=one.return_ns))
    # Until the first connection is open the VM boots, and its kernel refuses whoever comes.
    opened_ns = min((event.at_ns for event in evidence.connections if event.event == "opened"), default=None)
    refused = [one for one in evidence.connections if one.event == "refused" and opened_ns and one.asked_ns > opened_ns]
    for event in refused:
        if not (event.error or "").startswith(allowed):
            message = f"client {event.client}: the VM refused it ({event.error})"
            findings.append(Finding("connection-refused", message, at_ns=event.at_ns))
    if not answers:
        findings.append(Finding("no-answers", "no operation was answered", Verdict.INSUFFICIENT))
    counted = {
        "answers": len(answers),
        "errors": dict(Counter((one.error or "").split(" ")[0] for one in errors)),
        "refused": len(refused),
    }
    return Judgement.of(NAME, findings, counted)
