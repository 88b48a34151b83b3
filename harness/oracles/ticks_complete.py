"""Transparent failover, seen by UDP: no tick twice, none lost or changed, all in order, and no silence too long."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from harness.evidence.client import Tick, Ticks
from harness.evidence.directory import EvidenceDirectory
from harness.evidence.scenario import Scenario
from harness.evidence.verdicts import Finding, Judgement, Verdict
from harness.oracles import standstill

NAME = "ticks-complete"
PROMISE = "transparent-failover"
NS_PER_MS = 1_000_000


@dataclass(frozen=True)
class _Silence:
    """A time between two datagrams (CLOCK_BOOTTIME nanoseconds), and by how much it may be shorter."""

    start_ns: int
    end_ns: int
    uncertainty_ns: int

    @property
    def at_least_ns(self) -> int:
        return self.end_ns - self.start_ns - self.uncertainty_ns

    @property
    def milliseconds(self) -> float:
        return (self.end_ns - self.start_ns) / NS_PER_MS


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
    lost_max = scenario.ticks_lost_max
    if scenario.holds_a_tick:
        lost_max += _due_while_held(evidence, received.ticks)
    if len(missing) > lost_max:
        findings.append(Finding("tick-lost", f"{len(missing)} lost, {lost_max} may be: {_spell(missing)}"))
    findings += _judge_copies(received.ticks)
    silences = _silences(received, to_the_end=scenario.expects_service)
    silences.sort(key=lambda silence: silence.at_least_ns, reverse=True)
    longest = silences[0] if silences else _Silence(0, 0, 0)
    findings += _judge_stall(evidence, silences)
    findings += _judge_notice(evidence, silences)
    findings += _judge_sufficiency(evidence)
    counted = {
        "received": len(numbers),
        "lost": len(missing),
        "repeated": copies,
        "silence_ms": round(longest.milliseconds, 1),
    }
    return Judgement.of(NAME, findings, counted)


def _due_while_held(evidence: EvidenceDirectory, ticks: Sequence[Tick]) -> int:
    """How many ticks fell due between the last that came before the first fault, and that fault.

    Behind a frame that is held until the primary dies they are uncertain as well: the longer the lab takes to switch
    the host off, the more.
    """
    first_fault_ns = min(evidence.fault_times_ns(), default=0)
    before_ns = [tick.arrived_ns for tick in ticks if tick.arrived_ns < first_fault_ns]
    if len(before_ns) < 2:
        return 0
    period_ns = median(later_ns - earlier_ns for earlier_ns, later_ns in itertools.pairwise(before_ns))
    return int((first_fault_ns - before_ns[-1]) / max(period_ns, 1))


def _judge_copies(ticks: Sequence[Tick]) -> Iterator[Finding]:
    """A tick that comes again is the same one; and apart from such copies each is newer than all before it."""
    first: dict[int, Tick] = {}
    newest = None
    for tick in ticks:
        if tick.number is None:
            continue
        original = first.setdefault(tick.number, tick)
        if tick.payload != original.payload:
            message = f"tick {tick.number} says {original.payload!r}, and when it comes again {tick.payload!r}"
            yield Finding("tick-differs", message, at_ns=tick.arrived_ns)
        if original is tick:
            if newest is not None and tick.number < newest:
                yield Finding("tick-late", f"tick {tick.number} came after {newest}", at_ns=tick.arrived_ns)
            newest = max(tick.number, newest or 0)


def _silences(received: Ticks, *, to_the_end: bool) -> list[_Silence]:
    """From each datagram to the next, and from the last to the end of the listening."""
    stamps = [(tick.arrived_ns, tick.uncertainty_ns) for tick in received.ticks]
    if to_the_end and received.sealed and stamps:
        # The end bears the doubt of the stamp before it, from the same clock at about the same time.
        stamps.append((max(stamps[-1][0], received.clocks[-1].monotonic_ns), stamps[-1][1]))
    return [
        _Silence(before_ns, after_ns, before_doubt_ns + after_doubt_ns)
        for (before_ns, before_doubt_ns), (after_ns, after_doubt_ns) in itertools.pairwise(stamps)
    ]


def _judge_stall(evidence: EvidenceDirectory, silences: Sequence[_Silence]) -> Iterator[Finding]:
    """Of the longest silence, and the next longest where the machine stood still in that one."""
    bound_ms = evidence.scenario.stall_ms_max
    for one in silences:
        if one.at_least_ns <= bound_ms * NS_PER_MS:
            return
        message = f"silence for {one.milliseconds:.0f} ms, the bound is {bound_ms:.0f} ms"
        finding = _too_long(evidence, "stall-too-long", one, bound_ms, message)
        yield finding
        if finding.verdict is Verdict.FAILED:
            return


def _judge_notice(evidence: EvidenceDirectory, silences: Sequence[_Silence]) -> Iterator[Finding]:
    """Nobody notices: no silence is much longer than the longest before the first fault."""
    allowed_ms = evidence.scenario.latency_over_before_ms_max
    if allowed_ms is None:
        return
    faults_ns = evidence.fault_times_ns()
    before = [one for one in silences if faults_ns and one.end_ns < faults_ns[0]]
    if not before:
        yield Finding("nothing-to-compare", "no silence ended before the first fault", Verdict.INSUFFICIENT)
        return
    usual_ns = max(one.end_ns - one.start_ns for one in before)
    for one in silences:
        excused_ms = evidence.looks.excused_ms(one.start_ns, one.end_ns)
        if one.at_least_ns > usual_ns + (allowed_ms + excused_ms) * NS_PER_MS:
            usual_ms = usual_ns / NS_PER_MS
            message = (
                f"silence for {one.milliseconds:.0f} ms, and none before the fault for more than {usual_ms:.0f} ms"
            )
            yield _too_long(evidence, "stall-noticed", one, usual_ms + allowed_ms, message)


def _too_long(evidence: EvidenceDirectory, code: str, one: _Silence, bound_ms: float, message: str) -> Finding:
    finding = Finding(code, message, at_ns=one.start_ns)
    span_ns, length_ms = (one.start_ns, one.end_ns), one.at_least_ns / NS_PER_MS
    return standstill.unless_behind_wait(evidence, finding, span_ns, length_ms=length_ms, bound_ms=bound_ms)


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
