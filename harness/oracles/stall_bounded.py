"""Transparent failover: no connection waits longer than the scenario's bound, and every question gets its answer.

A wait is the latency of an operation or of a handshake, on each connection by itself: one that hangs is not excused by
others that go on. Two bounds are so tight that a machine which is short of processors breaks them by itself; of a wait
there, what the kernel says that the hosts' programs waited for a processor does not count.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from harness.evidence.directory import EvidenceDirectory
from harness.evidence.scenario import Scenario
from harness.evidence.verdicts import Finding, Judgement, Verdict
from harness.evidence.waits import (
    ClosedDoor,
    Wait,
    closed_doors,
    handshake_waits,
    operation_waits,
    silence_of_handshake,
)
from harness.lab.topology import FAULT_TOLERANT_PLANS

# What was lost in the stall is asked for again in this time, a long value included.
_SETTLING_SECONDS = 1.0

NAME = "stall-bounded"
PROMISE = "transparent-failover"


def applies(scenario: Scenario) -> bool:
    """Where the VM is to go on answering."""
    return scenario.client == "key-value" and scenario.expects_service


def judge(evidence: EvidenceDirectory) -> Judgement:
    """Judge every connection's longest wait, and that each question got an answer at all."""
    scenario = evidence.scenario
    bound_ms = scenario.stall_ms_max
    operations = operation_waits(evidence.history)
    handshakes = handshake_waits(evidence.connections)
    doors = closed_doors(evidence.connections)
    longest = _longest_by_client(operations)
    findings = [Finding("unanswered", f"{one}: no answer", at_ns=one.start_ns) for one in operations if not one.ended]
    findings += [
        Finding("stall-too-long", f"{one} took {one.milliseconds:.0f} ms, {_spell(bound_ms)}", at_ns=one.start_ns)
        for one in longest.values()
        if one.milliseconds_at_least > bound_ms
    ]
    findings += _judge_handshakes(handshakes, doors, bound_ms)
    findings += _judge_notice(evidence, [*operations, *handshakes])
    settled_ns = _settled_ns(evidence, operations)
    if settled_ns is not None:
        findings += _judge_settled(evidence, operations, settled_ns)
    if not longest:
        findings.append(Finding("no-answers", "no operation was answered", Verdict.INSUFFICIENT))
    faults_ns = evidence.fault_times_ns()
    if not any(one.start_ns > max(faults_ns, default=0) for one in handshakes):
        findings.append(Finding("no-newcomer", "nobody connected after the last fault", Verdict.INSUFFICIENT))
    long_lived = {event.client for event in evidence.connections if event.long_lived}
    stalls = {client: round(one.milliseconds, 1) for client, one in sorted(longest.items())}
    counted = {
        "answered": sum(one.ended for one in operations),
        "stall_ms": max(stalls.values(), default=None),
        "stall_ms_max": bound_ms,
        "stall_ms_by_long_lived_connection": {client: ms for client, ms in stalls.items() if client in long_lived},
        "handshakes": len(handshakes),
        "handshake_ms": round(max((one.milliseconds for one in handshakes), default=0.0), 1),
        "closed_to_newcomers_ms": round(max((door.length_ms for door in doors), default=0.0), 1),
    }
    return Judgement.of(NAME, findings, counted)


def _longest_by_client(waits: Sequence[Wait]) -> dict[int, Wait]:
    by_client: dict[int, list[Wait]] = defaultdict(list)
    for wait in waits:
        by_client[wait.client].append(wait)
    return {client: max(each, key=lambda one: one.milliseconds_at_least) for client, each in by_client.items()}


def _judge_handshakes(handshakes: Sequence[Wait], doors: Sequence[ClosedDoor], bound_ms: float) -> Iterator[Finding]:
    for one in handshakes:
        silence_ms = silence_of_handshake(one)
        if silence_ms > bound_ms:
            message = f"{one} took {one.milliseconds:.0f} ms, {silence_ms:.0f} ms of it in silence, {_spell(bound_ms)}"
            yield Finding("handshake-too-long", message, at_ns=one.start_ns)
    for door in doors:
        if not door.wait.ended:
            message = f"{door.wait}: nobody was let in from here to the end, {door.length_ms:.0f} ms"
            yield Finding("nobody-let-in", message, at_ns=door.wait.start_ns)
        elif door.wait.milliseconds_at_least > bound_ms:
            message = f"{door.wait}: nobody was let in for {door.length_ms:.0f} ms, {_spell(bound_ms)}"
            yield Finding("nobody-let-in", message, at_ns=door.wait.start_ns)
        for one in door.ignored:
            message = f"{one} was in vain for {one.milliseconds:.0f} ms, while others were let in"
            yield Finding("connection-ignored", message, at_ns=one.start_ns)


def _judge_notice(evidence: EvidenceDirectory, waits: Sequence[Wait]) -> Iterator[Finding]:
    """Nobody notices: no wait is much longer than the longest that ended before the first fault."""
    allowed_ms = evidence.scenario.latency_over_before_ms_max
    if allowed_ms is None:
        return
    faults_ns = evidence.fault_times_ns()
    before = [one for one in waits if one.ended and faults_ns and one.end_ns < faults_ns[0]]
    if not before:
        yield Finding("nothing-to-compare", "no wait ended before the first fault", Verdict.INSUFFICIENT)
        return
    usual_ms = max(one.milliseconds for one in before)
    for one in _longest_by_client(waits).values():
        excused_ms = evidence.looks.excused_ms(one.start_ns, one.end_ns)
        if one.milliseconds_at_least - excused_ms > usual_ms + allowed_ms:
            message = f"{one} took {one.milliseconds:.0f} ms, and none before the fault more than {usual_ms:.0f} ms"
            yield Finding("stall-noticed", message, at_ns=one.start_ns)


def _settled_ns(evidence: EvidenceDirectory, operations: Sequence[Wait]) -> int | None:
    """From when on the VM, having changed hands, is to be as quick as ever; None where a fault still slows it."""
    claims = evidence.ownership.until(evidence.scenario.end_ns)
    if len(claims) < 2:
        return None
    last = claims[-1]
    others = {plan.name for plan in FAULT_TOLERANT_PLANS} - {last.host}
    if any(fault.healed_ns is None and fault.target not in others for fault in evidence.faults):
        return None
    changes = [last.latest_ns, *(fault.healed_ns or fault.injected_ns for fault in evidence.faults)]
    changed_ns = evidence.to_boot_ns(max(at_ns for at_ns in changes if at_ns is not None))
    answers_ns = [one.end_ns for one in operations if one.ended and changed_ns is not None and one.end_ns > changed_ns]
    if not answers_ns:
        return None
    return min(answers_ns) + int(_SETTLING_SECONDS * evidence.scenario.time_scale * 1e9)


def _judge_settled(evidence: EvidenceDirectory, operations: Sequence[Wait], settled_ns: int) -> Iterator[Finding]:
    """A survivor serves as well as its predecessor did, and not only at first."""
    bound_ms = evidence.scenario.settled_ms_max
    for one in _longest_by_client([one for one in operations if one.start_ns >= settled_ns]).values():
        if one.milliseconds_at_least - evidence.looks.excused_ms(one.start_ns, one.end_ns) > bound_ms:
            later_ms = (one.start_ns - settled_ns) / 1e6
            message = f"{one}, begun {later_ms:.0f} ms after the VM had settled, took {one.milliseconds:.0f} ms"
            yield Finding("stall-afterwards", f"{message}, {_spell(bound_ms)}", at_ns=one.start_ns)


def _spell(bound_ms: float) -> str:
    return f"the bound is {bound_ms:.0f} ms"
