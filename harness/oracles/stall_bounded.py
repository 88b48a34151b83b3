"""Transparent failover: the client sees at most a stall, and the stall is within the scenario's bound."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from harness.evidence.directory import EvidenceDirectory
from harness.evidence.history import History
from harness.evidence.scenario import Scenario
from harness.evidence.verdicts import Finding, Judgement, Verdict

NAME = "stall-bounded"
PROMISE = "transparent-failover"


@dataclass(frozen=True)
class Stall:
    """A time without any answer (CLOCK_BOOTTIME nanoseconds)."""

    start_ns: int
    end_ns: int
    # By how much it may be shorter, by the client's clock.
    uncertainty_ns: int = 0

    @property
    def milliseconds(self) -> float:
        """Its length."""
        return (self.end_ns - self.start_ns) / 1e6

    @property
    def milliseconds_at_least(self) -> float:
        """The length that it certainly has."""
        return self.milliseconds - self.uncertainty_ns / 1e6


def longest_stall(history: History) -> Stall | None:
    """The longest gap between two answers that follow each other under load; None with fewer than two."""
    answers = [one for one in history.answers if one.phase == "load"]
    return max(
        (
            Stall(before.return_ns or 0, after.return_ns or 0, before.uncertainty_ns + after.uncertainty_ns)
            for before, after in itertools.pairwise(answers)
        ),
        key=lambda stall: stall.milliseconds_at_least,
        default=None,
    )


def applies(scenario: Scenario) -> bool:
    """Where the VM is to go on answering."""
    return scenario.client == "key-value" and scenario.expects_service


def judge(evidence: EvidenceDirectory) -> Judgement:
    """Judge the gap between answers, the latency of each operation, and that each got an answer at all."""
    bound_ms = evidence.scenario.stall_ms_max
    history = evidence.history
    findings = []
    stall = longest_stall(history)
    if stall is None:
        findings.append(Finding("no-answers", "fewer than two operations were answered", Verdict.INSUFFICIENT))
    elif stall.milliseconds_at_least > bound_ms:
        message = f"no answer for {stall.milliseconds:.0f} ms, the bound is {bound_ms:.0f} ms"
        findings.append(Finding("stall-too-long", message, at_ns=stall.start_ns))
    latencies_ns = [one.latency_ns for one in history.operations if one.latency_ns is not None]
    for operation in history.operations:
        what = f"client {operation.client}: {operation.operation} {operation.key}"
        if not operation.is_answered:
            findings.append(Finding("unanswered", f"{what}: {operation.error}", at_ns=operation.call_ns))
        elif ((operation.latency_ns or 0) - 2 * operation.uncertainty_ns) / 1e6 > bound_ms:
            message = f"{what} took {(operation.latency_ns or 0) / 1e6:.0f} ms, the bound is {bound_ms:.0f} ms"
            findings.append(Finding("operation-too-long", message, at_ns=operation.call_ns))
    counted = {
        "answered": len(latencies_ns),
        "stall_ms": round(stall.milliseconds, 1) if stall else None,
        "latency_ms_max": round(max(latencies_ns, default=0) / 1e6, 1),
        "stall_ms_max": bound_ms,
    }
    return Judgement.of(NAME, findings, counted)
