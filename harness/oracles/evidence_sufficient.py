"""Whether the run left enough to be judged at all: a quiet run proves nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from harness.evidence.capture import Direction
from harness.evidence.client import operation_waits
from harness.evidence.directory import EvidenceDirectory
from harness.evidence.scenario import TIME_SCALE_MAX, Scenario
from harness.evidence.trace import NodeStarted
from harness.evidence.verdicts import Finding, Judgement, Verdict
from harness.oracles import standstill
from harness.oracles.emissions import said_by
from harness.oracles.wording import after_start
from harness.promise import ClientKind

NAME = "evidence-sufficient"
_NODE_NETWORKS = ("client", "logging", "management", "storage")
# Outputs of a kind that a scenario has to see before its first fault.
OUTPUTS_BEFORE_MIN = 10
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
    findings = [*_judge_nodes(evidence), *_judge_captures(evidence), *_judge_wire(evidence)]
    findings += _judge_kinds(evidence, counted)
    findings += _judge_standstills(evidence, counted)
    if scenario.time_scale > TIME_SCALE_MAX:
        message = f"the lab is {scenario.time_scale:.0f} times slower than bounds on time can follow"
        findings.append(_insufficient("lab-too-slow", message))
    if scenario.client == ClientKind.KEY_VALUE:
        findings += _judge_operations(evidence, counted)
        findings += _judge_stall(evidence, counted)
        findings += _judge_load_after(evidence, counted)
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


def _judge_wire(evidence: EvidenceDirectory) -> Iterator[Finding]:
    """That what the nodes said could be read, and that every owner left what it told its guest when it was alone."""
    wire = evidence.wire
    if not wire.messages:
        yield _insufficient("no-wire", "no message of a node was captured")
    elif wire.refused and evidence.disturbances.damaging is None:
        one = wire.refused[0]
        message = f"{one.path} from {one.sender or 'somebody'}: {one.reason}; no fault damages what the nodes say"
        yield _insufficient("wire-unreadable", message)
    recorded = {recording.incarnation for recording in evidence.recordings}
    for claim in evidence.ownership.claims:
        if claim.incarnation not in recorded:
            yield _insufficient("no-recording", f"{claim} left no record of what it told its guest")


def _judge_standstills(evidence: EvidenceDirectory, counted: dict[str, object]) -> Iterator[Finding]:
    """That no takeover happened beside the scenario's own: what comes after it does not show what the scenario is for.

    A standstill that nothing came of is counted and no more: the pair kept its promises on a harder course.
    """
    counted["stood_still_ms"] = [round(one.stood_ns / 1e6, 1) for one in standstill.standstills(evidence)]
    for claim in evidence.ownership.until(evidence.scenario.end_ns)[1:]:
        behind = standstill.behind_claim(evidence, claim)
        if behind is not None:
            message = f"{claim} was claimed{after_start(evidence, claim.latest_ns)}, and no fault asked for it"
            yield standstill.named(evidence, _insufficient("unasked-takeover", message), behind)


def _judge_kinds(evidence: EvidenceDirectory, counted: dict[str, object]) -> Iterator[Finding]:
    """That every kind of output was seen before the first fault, so that each was there to be got wrong."""
    faults_ns = [fault.injected_ns for fault in evidence.faults if fault.injected_ns is not None]
    first_ns = min(faults_ns, default=None)
    emissions = [one for said in said_by(evidence).values() for one in said.emissions]
    before = [one for one in emissions if one.left_ns is not None and (first_ns is None or one.left_ns < first_ns)]
    # Nobody stamps the console: what came before an output that was seen before the fault did so too.
    newest = max((one.output.index for one in before), default=0)
    before += [one for one in emissions if one.left_ns is None and one.output.index < newest]
    kinds = Counter(one.output.kind for one in before)
    counted["seen_before"] = dict(kinds)
    if not evidence.scenario.operations_before_min:
        return  # its fault is to strike before there is anything to be seen
    wanted = {"frame": OUTPUTS_BEFORE_MIN, "console": 1}
    if (
        evidence.scenario.has_disk
        and evidence.scenario.client == ClientKind.KEY_VALUE
        and evidence.storage_writes is not None
    ):
        wanted["block"] = OUTPUTS_BEFORE_MIN
    for kind, least in wanted.items():
        if kinds[kind] < least:
            message = f"{kinds[kind]} outputs of the kind {kind} were seen before the first fault, {least} wanted"
            yield _insufficient(f"too-few-{kind}s-before", message)


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


def _judge_stall(evidence: EvidenceDirectory, counted: dict[str, object]) -> Iterator[Finding]:
    """Whether the fault was felt at all, where it is to be."""
    wanted_ms = evidence.scenario.stall_ms_min
    waits = operation_waits(evidence.history) if evidence.history.operations else []
    longest_ms = max((one.milliseconds for one in waits), default=0.0)
    counted["longest_wait_ms"] = round(longest_ms, 1)
    if longest_ms < wanted_ms:
        message = f"no operation waited longer than {longest_ms:.0f} ms, which is to be {wanted_ms:.0f} ms at least"
        yield _insufficient("nobody-waited", message)


def _judge_load_after(evidence: EvidenceDirectory, counted: dict[str, object]) -> Iterator[Finding]:
    """That whoever took the VM under load was served from for long enough to fall ill."""
    scenario, clocks = evidence.scenario, evidence.clocks
    # When the load has ended the nodes are stopped, one after the other.
    claims = [claim for claim in evidence.ownership.claims if claim.latest_ns <= scenario.end_ns][1:]
    answers = [one for one in evidence.history.answers if one.phase == "load"]
    if clocks is None or not claims or not answers or not scenario.expects_service:
        return
    seconds = ((answers[-1].return_ns or 0) - clocks.to_monotonic_ns(claims[-1].latest_ns)) / 1e9
    counted["load_seconds_after"] = round(seconds, 1)
    if seconds < scenario.load_seconds_after_min:
        message = f"the load was answered for {seconds:.1f} s after {claims[-1]} was claimed, "
        yield _insufficient("load-too-short", message + f"{scenario.load_seconds_after_min:g} s wanted")


def _spans(call_ns: int, return_ns: int | None, times_ns: list[int]) -> bool:
    return any(call_ns <= time_ns and (return_ns is None or return_ns >= time_ns) for time_ns in times_ns)


def _judge_failover(evidence: EvidenceDirectory, counted: dict[str, object]) -> Iterator[Finding]:
    claims = evidence.ownership.claims
    takers = [claim for claim in claims if claim.host is not None and claim.host != claims[0].host]
    counted["took_over"] = [f"{claim.host} in generation {claim.generation}" for claim in takers]
    spoke = [one for claim in takers for one in said_by(evidence)[claim.host or ""].of("frame")]
    if not takers:
        yield _insufficient("no-failover", "a failover was to be seen, and no other host claimed the VM")
    elif len(spoke) < OUTPUTS_BEFORE_MIN:
        yield _insufficient("survivor-silent", f"{takers[0]} said {len(spoke)} frames, {OUTPUTS_BEFORE_MIN} wanted")
