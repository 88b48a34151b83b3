"""Transparent failover, seen by UDP: no tick twice, none lost, and no silence longer than the stall allows."""

from __future__ import annotations

import itertools
from collections import Counter

from harness.evidence.directory import EvidenceDirectory
from harness.evidence.scenario import Scenario
from harness.evidence.verdicts import Finding, Judgement, Verdict

NAME = "ticks-complete"
PROMISE = "transparent-failover"


def applies(scenario: Scenario) -> bool:
    """Where the ticker's listener ran."""
    return scenario.client == "ticker"


def judge(evidence: EvidenceDirectory) -> Judgement:
    """Judge numbers, order and arrival."""
    scenario = evidence.scenario
    received = evidence.ticks
    findings = []
    numbers = [tick.number for tick in received.ticks if tick.number is not None]
    for tick in received.ticks:
        if tick.number is None:
            findings.append(Finding("no-tick", f"a datagram says {tick.payload!r}", at_ns=tick.arrived_ns))
    repeated = {number: count for number, count in Counter(numbers).items() if count > 1}
    copies = sum(count - 1 for count in repeated.values())
    if copies > scenario.ticks_duplicated_max:
        findings.append(Finding("tick-repeated", f"came more than once: {_spell(sorted(repeated))}"))
    missing = sorted(set(range(min(numbers), max(numbers) + 1)) - set(numbers)) if numbers else []
    if len(missing) > scenario.ticks_lost_max:
        message = f"{len(missing)} lost, {scenario.ticks_lost_max} may be: {_spell(missing)}"
        findings.append(Finding("tick-lost", message))
    gaps = [
        (after.arrived_ns - before.arrived_ns, before.arrived_ns, before.uncertainty_ns + after.uncertainty_ns)
        for before, after in itertools.pairwise(received.ticks)
    ]
    gap_ns, since_ns, uncertainty_ns = max(gaps, key=lambda gap: gap[0] - gap[2], default=(0, 0, 0))
    if (gap_ns - uncertainty_ns) / 1e6 > scenario.stall_ms_max:
        message = f"silence for {gap_ns / 1e6:.0f} ms, the bound is {scenario.stall_ms_max:.0f} ms"
        findings.append(Finding("stall-too-long", message, at_ns=since_ns))
    findings += _judge_sufficiency(evidence)
    counted = {
        "received": len(numbers),
        "lost": len(missing),
        "repeated": copies,
        "out_of_order": sum(after < before for before, after in itertools.pairwise(numbers)),
        "silence_ms": round(gap_ns / 1e6, 1),
    }
    return Judgement.of(NAME, findings, counted)


def _judge_sufficiency(evidence: EvidenceDirectory) -> list[Finding]:
    wanted = evidence.scenario.ticks_min
    faults_ns = evidence.fault_times_ns()
    ticks = evidence.ticks.ticks
    after = [tick for tick in ticks if not faults_ns or tick.arrived_ns - tick.uncertainty_ns > faults_ns[-1]]
    before = [tick for tick in ticks if not faults_ns or tick.arrived_ns + tick.uncertainty_ns < faults_ns[0]]
    findings = []
    if not evidence.ticks.sealed:
        findings.append(Finding("ticks-not-sealed", "the listener did not end in order", Verdict.INSUFFICIENT))
    if len(before) < wanted:
        message = f"{len(before)} ticks before the first fault, {wanted} wanted"
        findings.append(Finding("too-few-before", message, Verdict.INSUFFICIENT))
    if evidence.scenario.expects_service and len(after) < wanted:
        message = f"{len(after)} ticks after the last fault, {wanted} wanted"
        findings.append(Finding("too-few-after", message, Verdict.INSUFFICIENT))
    return findings


def _spell(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:10]))
    return shown + (f" and {len(numbers) - 10} more" if len(numbers) > 10 else "")
