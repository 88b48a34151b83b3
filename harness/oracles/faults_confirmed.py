"""A fault must prove that it bit: a scenario whose fault is not confirmed has not passed."""

from __future__ import annotations

from harness.evidence.directory import EvidenceDirectory
from harness.evidence.scenario import Scenario
from harness.evidence.verdicts import Finding, Judgement, Verdict

NAME = "faults-confirmed"
PROMISE = "evidence"


def applies(scenario: Scenario) -> bool:
    """Where faults are injected."""
    return scenario.expects_faults


def judge(evidence: EvidenceDirectory) -> Judgement:
    """Judge each injection's own verdict, and that there is evidence behind a confirmation."""
    findings = []
    for fault in evidence.faults:
        what = f"{fault.fault} at {fault.target}"
        if fault.verdict != "confirmed":
            words = "; ".join(fault.evidence) or "no evidence"
            findings.append(Finding(f"fault-{fault.verdict}", f"{what}: {words}"))
        elif not fault.evidence or fault.confirmed_ns is None or fault.injected_ns is None:
            findings.append(Finding("fault-without-evidence", f"{what} is confirmed by nothing", Verdict.INSUFFICIENT))
    injected = {fault.fault for fault in evidence.faults}
    for name in evidence.scenario.faults:
        if name not in injected:
            findings.append(Finding("fault-missing", f"no {name} was injected", Verdict.INSUFFICIENT))
    return Judgement.of(NAME, findings, {"faults": len(evidence.faults)})
