"""Whether the run left enough to be judged at all: a quiet run proves nothing."""

from __future__ import annotations

from collections.abc import Iterator

from harness.evidence.capture import Direction
from harness.evidence.directory import EvidenceDirectory
from harness.evidence.scenario import Scenario
from harness.evidence.trace_events import Live, NodeStarted
from harness.evidence.verdicts import Finding, Judgement, Verdict

NAME = "evidence-sufficient"
_NODE_NETWORKS = ("client", "logging", "management")
PROMISE = "evidence"
# Clock pairs are read by two calls that the scheduler can part; a step of the wall clock is far longer.
CLOCK_SPREAD_NS_MAX = 100_000_000


def applies(scenario: Scenario) -> bool:
    """Always."""
    return True


def judge(evidence: EvidenceDirectory) -> Judgement:
    """Judge traces, captures, clocks and, where there is a client, how much it did before and after the faults."""
    scenario = evidence.scenario
    counted: dict[str, object] = {
        "traces": len(evidence.traces),
        "frames": {host: len(frames) for host, frames in evidence.vm_frames.items()},
        "torn_lines": sum(trace.torn_lines for trace in evidence.traces.values()),
        "mutants": sorted({mutant for trace in evidence.traces.values() for mutant in trace.mutants}),
    }
    findings = [*_judge_nodes(evidence), *_judge_captures(evidence)]
    if scenario.client == "key-value":
        findings += _judge_operations(evidence, counted)
    if scenario.expects_failover:
        findings += _judge_failover(evidence, counted)
    return Judgement.of(NAME, findings, counted)


def _insufficient(code: str, message: str) -> Finding:
    return Finding(code, message, Verdict.INSUFFICIENT)


def _judge_nodes(evidence: EvidenceDirectory) -> Iterator[Finding]:
    started = [host for host, trace in evidence.traces.items() if trace.of(NodeStarted)]
    if len(started) < 2:
        yield _insufficient("too-few-traces", f"nodes started on {', '.join(started) or 'no host'}, two are needed")
    clocks = evidence.clocks
    if clocks is None:
        yield _insufficient("no-clock", "no pair of clocks in the evidence")
    elif clocks.spread_ns > CLOCK_SPREAD_NS_MAX:
        message = f"wall clock and boot clock drift apart by {clocks.spread_ns / 1e6:.0f} ms within the run"
        yield _insufficient("clock-stepped", message)


def _judge_captures(evidence: EvidenceDirectory) -> Iterator[Finding]:
    counts = evidence.capture_counts
    for host in evidence.traces:
        for network in _NODE_NETWORKS:
            if f"{network}.{host}" not in counts:
                yield _insufficient("no-capture", f"{host} ran a node and its port {network} was not captured")
    if not any(evidence.vm_frames.values()):
        yield _insufficient("capture-silent", "no frame of the VM was captured")
    for port, count in counts.items():
        network, _, host = port.partition(".")
        held = sum(len(evidence.frames(network, host, direction)) for direction in Direction)
        if held != count.captured:
            yield _insufficient("capture-torn", f"the capture of {port} holds {held} of {count.captured} frames")
        if count.dropped:
            yield _insufficient("capture-incomplete", f"the capture of {port} missed {count.dropped} frames")


def _judge_operations(evidence: EvidenceDirectory, counted: dict[str, object]) -> Iterator[Finding]:
    scenario = evidence.scenario
    if not evidence.history.sealed:
        yield _insufficient("history-not-sealed", "the client did not end in order")
    if evidence.clocks is None:
        return
    faults_ns = evidence.fault_times_ns()
    answers = [one for one in evidence.history.answers if one.phase == "load" and one.error is None]
    first_ns = faults_ns[0] if faults_ns else None
    before = [one for one in answers if first_ns is None or (one.return_ns or 0) + one.uncertainty_ns < first_ns]
    after = [one for one in answers if not faults_ns or one.call_ns - one.uncertainty_ns > faults_ns[-1]]
    under_way = [one for one in evidence.history.operations if _spans(one.call_ns, one.return_ns, faults_ns)]
    counted |= {"answered_before": len(before), "answered_after": len(after), "under_way": len(under_way)}
    if len(before) < scenario.operations_before_min:
        message = f"{len(before)} answers came before the first fault, {scenario.operations_before_min} wanted"
        yield _insufficient("too-few-before", message)
    if scenario.expects_service and len(after) < scenario.operations_after_min:
        message = f"{len(after)} operations were called and answered after the last fault, "
        yield _insufficient("too-few-after", message + f"{scenario.operations_after_min} wanted")


def _spans(call_ns: int, return_ns: int | None, times_ns: list[int]) -> bool:
    return any(call_ns <= time_ns and (return_ns is None or return_ns >= time_ns) for time_ns in times_ns)


def _judge_failover(evidence: EvidenceDirectory, counted: dict[str, object]) -> Iterator[Finding]:
    lives = sorted(
        ((live.wall_ns, live.generation, host) for host, trace in evidence.traces.items() for live in trace.of(Live)),
    )
    takers = [f"{host} in generation {generation}" for _, generation, host in lives if generation > 1]
    counted["took_over"] = takers
    if not takers:
        yield _insufficient("no-failover", "a failover was to be seen, and no other node went live")
