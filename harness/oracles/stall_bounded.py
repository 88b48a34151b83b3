"""Transparent failover: no connection waits longer than the scenario's bound, and every question gets its answer.

A wait is the latency of an operation or of a handshake, on each connection by itself: one that hangs is not excused by
others that go on. Where the suite itself held a node while it made a fault ready, a wait through that may be longer, by
twice that time: TCP asks again after pauses that double. Two bounds are so tight that a machine which is short of
processors breaks them by itself; of a wait there, what the kernel says that the hosts' programs waited for a processor
does not count. A wait that is too long for the machine's standing still alone says nothing (`standstill.py`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from harness.evidence.client import (
    ClosedDoor,
    Wait,
    closed_doors,
    handshake_waits,
    operation_waits,
    silence_of_handshake,
)
from harness.evidence.directory import EvidenceDirectory
from harness.evidence.scenario import Scenario
from harness.evidence.verdicts import Finding, Judgement, Verdict
from harness.lab.topology import FAULT_TOLERANT_PLANS
from harness.oracles import standstill

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
    longest = {client: each[0] for client, each in _longest_first(operations).items()}
    findings = [Finding("unanswered", f"{one}: no answer", at_ns=one.start_ns) for one in operations if not one.ended]
    findings += _judge_stalls(evidence, operations, bound_ms)
    findings += _judge_handshakes(evidence, handshakes, doors, bound_ms)
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


def _longest_first(waits: Sequence[Wait]) -> dict[int, list[Wait]]:
    """Each client's waits, the longest first."""
    by_client: dict[int, list[Wait]] = defaultdict(list)
    for wait in waits:
        by_client[wait.client].append(wait)
    for each in by_client.values():
        each.sort(key=lambda one: one.milliseconds_at_least, reverse=True)
    return by_client


def _judge_longest(waits: Sequence[Wait], judge_one: Callable[[Wait], Finding | None]) -> Iterator[Finding]:
    """What there is to say of each client's longest wait, or of the longest that the machine did not stand still in."""
    for each in _longest_first(waits).values():
        said: Finding | None = None
        for wait in each:
            finding = judge_one(wait)
            said = finding if finding is not None and finding.verdict is Verdict.FAILED else said or finding
            if finding is None or finding.verdict is Verdict.FAILED:
                break
        if said is not None:
            yield said


def _judge_stalls(evidence: EvidenceDirectory, operations: Sequence[Wait], bound_ms: float) -> Iterator[Finding]:
    def judge_one(one: Wait) -> Finding | None:
        allowed_ms = bound_ms + 2 * _held_ms(evidence, one)
        if one.milliseconds_at_least <= allowed_ms:
            return None
        return _too_long(evidence, "stall-too-long", one, allowed_ms, f"{one} took {one.milliseconds:.0f} ms")

    yield from _judge_longest(operations, judge_one)


def _held_ms(evidence: EvidenceDirectory, wait: Wait) -> float:
    """How long the suite held a node for a fault within a wait, by the suite's own clock."""
    held_ms = 0.0
    for fault in evidence.faults:
        start_ns, end_ns = evidence.to_boot_ns(fault.held_ns), evidence.to_boot_ns(fault.injected_ns)
        if start_ns is not None and end_ns is not None:
            held_ms += max(0, min(end_ns, wait.end_ns) - max(start_ns, wait.start_ns)) / 1e6
    return held_ms


def _too_long(
    evidence: EvidenceDirectory, code: str, wait: Wait, bound_ms: float, what: str, *, length_ms: float | None = None
) -> Finding:
    """A wait is longer than its bound; `length_ms`: what counts of it, where that is not all of it."""
    finding = Finding(code, f"{what}, {_spell(bound_ms)}", at_ns=wait.start_ns)
    length_ms = wait.milliseconds_at_least if length_ms is None else length_ms
    span_ns = wait.start_ns, wait.end_ns
    return standstill.unless_behind_wait(evidence, finding, span_ns, length_ms=length_ms, bound_ms=bound_ms)


def _judge_handshakes(
    evidence: EvidenceDirectory, handshakes: Sequence[Wait], doors: Sequence[ClosedDoor], bound_ms: float
) -> Iterator[Finding]:
    for one in handshakes:
        silence_ms = silence_of_handshake(one)
        allowed_ms = bound_ms + 2 * _held_ms(evidence, one)
        if silence_ms > allowed_ms:
            what = f"{one} took {one.milliseconds:.0f} ms, {silence_ms:.0f} ms of it in silence"
            yield _too_long(evidence, "handshake-too-long", one, allowed_ms, what, length_ms=silence_ms)
    for door in doors:
        if not door.wait.ended:
            message = f"{door.wait}: nobody was let in from here to the end, {door.length_ms:.0f} ms"
            yield Finding("nobody-let-in", message, at_ns=door.wait.start_ns)
        elif door.wait.milliseconds_at_least > (allowed_ms := bound_ms + 2 * _held_ms(evidence, door.wait)):
            what = f"{door.wait}: nobody was let in for {door.length_ms:.0f} ms"
            yield _too_long(evidence, "nobody-let-in", door.wait, allowed_ms, what)
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
    bound_ms = usual_ms + allowed_ms

    def judge_one(one: Wait) -> Finding | None:
        if one.milliseconds_at_least - evidence.looks.excused_ms(one.start_ns, one.end_ns) <= bound_ms:
            return None
        what = f"{one} took {one.milliseconds:.0f} ms, and none before the fault more than {usual_ms:.0f} ms"
        return _too_long(evidence, "stall-noticed", one, bound_ms, what)

    yield from _judge_longest(waits, judge_one)


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

    def judge_one(one: Wait) -> Finding | None:
        if one.milliseconds_at_least - evidence.looks.excused_ms(one.start_ns, one.end_ns) <= bound_ms:
            return None
        later_ms = (one.start_ns - settled_ns) / 1e6
        what = f"{one}, begun {later_ms:.0f} ms after the VM had settled, took {one.milliseconds:.0f} ms"
        return _too_long(evidence, "stall-afterwards", one, bound_ms, what)

    yield from _judge_longest([one for one in operations if one.start_ns >= settled_ns], judge_one)


def _spell(bound_ms: float) -> str:
    return f"the bound is {bound_ms:.0f} ms"
