"""The output rule: nothing leaves before the backup holds what reproduces it, and nothing leaves in two versions.

Source: Scales, Nelson, Venkitachalam (2010), section 2.2, and protocol rules R5, R16.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from harness.evidence.capture import Frame
from harness.evidence.directory import EvidenceDirectory
from harness.evidence.scenario import Scenario
from harness.evidence.trace_events import Announced, Attached, Output, ReplayedOutput
from harness.evidence.verdicts import Finding, Judgement, Verdict
from harness.oracles.acknowledgements import Acknowledgements, Emission, emissions
from harness.oracles.uncertain_outputs import judge_reissues

NAME = "output-rule"
PROMISE = "output-rule"
# Emissions that never reached the port are fine (a cut link, a host that died between trace and send); if most did
# not, the capture is blind.
SEEN_PERCENT_MIN = 50


def applies(scenario: Scenario) -> bool:
    """Always: the rule binds whatever happens."""
    return True


def judge(evidence: EvidenceDirectory) -> Judgement:
    """Judge every captured frame of the VM, every traced output, and every re-issue."""
    acknowledgements = Acknowledgements(evidence.traces)
    outputs = {host: emissions(trace) for host, trace in evidence.traces.items()}
    sent = evidence.vm_frames
    findings: list[Finding] = []
    matched = announcements = 0
    for host, frames in sent.items():
        if host not in evidence.traces:
            if frames:
                findings.append(Finding("no-trace", f"{host} sent frames and left no trace", Verdict.INSUFFICIENT))
            continue
        matched_here, announced_here, found = _judge_frames(evidence, host, frames, outputs[host], acknowledgements)
        matched += matched_here
        announcements += announced_here
        findings += found
    for host, emitted in outputs.items():
        findings += _judge_traced(evidence, host, emitted, acknowledgements)
    findings += _judge_contents(evidence)
    findings += judge_reissues(evidence)
    if evidence.scenario.client == "key-value":
        findings += [
            Finding(stray.event, f"client {stray.client} got {stray.reply!r}", at_ns=stray.at_ns)
            for stray in evidence.history.stray_replies
        ]
    protected = sum(one.protected for emitted in outputs.values() for one in emitted)
    emitted_frames = sum(one.output.kind == "frame" for emitted in outputs.values() for one in emitted)
    findings += _judge_sufficiency(len(evidence.traces), matched, emitted_frames, protected, acknowledgements.count)
    counted = {
        "frames": sum(map(len, sent.values())),
        "frames_matched": matched,
        "announcements": announcements,
        "outputs_traced": sum(map(len, outputs.values())),
        "outputs_under_protection": protected,
        "acknowledgements": acknowledgements.count,
    }
    return Judgement.of(NAME, findings, counted)


def _judge_frames(
    evidence: EvidenceDirectory,
    host: str,
    frames: list[Frame],
    outputs: list[Emission],
    acknowledgements: Acknowledgements,
) -> tuple[int, int, list[Finding]]:
    """Give each captured frame the newest emission of the same bytes that was traced before it and is still free.

    One that its host's clock lets be older or younger than the frame is passed over when it would accuse.
    """
    free: dict[str, list[Emission]] = defaultdict(list)
    for emission in sorted(outputs, key=lambda one: one.output.wall_ns):
        if emission.output.kind == "frame":
            free[emission.output.digest].append(emission)
    matched = announcements = 0
    findings = []
    for frame in frames:
        candidates = free.get(frame.digest, [])
        at_ns = _monotonic(evidence, frame.wall_ns)
        chosen = _choose(candidates, frame, acknowledgements)
        if chosen is not None:
            candidates.remove(chosen)
            matched += 1
            output = chosen.output
            held = _held(chosen, acknowledgements, host, frame.wall_ns)
            if chosen.protected and held < output.depends_on:
                message = (
                    f"{frame} is output {output.index}, which depends on entry {output.depends_on}; "
                    f"the backup had acknowledged {held}"
                )
                findings.append(Finding("frame-before-acknowledgement", message, at_ns=at_ns, position=output.index))
        elif _is_announcement(evidence, host, frame):
            announcements += 1
        else:
            known = any(one.output.digest == frame.digest for one in outputs)
            code, why = (
                ("frame-too-often", "left more often, or earlier, than the trace says")
                if known
                else ("frame-not-traced", "is no output in the trace of its host")
            )
            findings.append(Finding(code, f"{frame} ({len(frame.content)} bytes) {why}", at_ns=at_ns))
    return matched, announcements, findings


def _choose(candidates: list[Emission], frame: Frame, acknowledgements: Acknowledgements) -> Emission | None:
    possible = [one for one in candidates if one.output.earliest_wall_ns <= frame.wall_ns]
    for emission in reversed(possible):
        is_held = _held(emission, acknowledgements, frame.host, frame.wall_ns) >= emission.output.depends_on
        if not emission.protected or is_held or emission.output.latest_wall_ns <= frame.wall_ns:
            return emission
    return possible[-1] if possible else None


def _held(emission: Emission, acknowledgements: Acknowledgements, host: str, wall_ns: int) -> int:
    return acknowledgements.held(generation=emission.generation, not_by=host, wall_ns=wall_ns)


def _is_announcement(evidence: EvidenceDirectory, host: str, frame: Frame) -> bool:
    """Whether the node sent this frame by itself, as it may from its go-live on."""
    events = [one for one in evidence.traces[host].events if isinstance(one, Announced | Attached)]
    started = any(event.earliest_wall_ns <= frame.wall_ns for event in events)
    return started and frame.is_announcement


def _judge_traced(
    evidence: EvidenceDirectory, host: str, outputs: list[Emission], acknowledgements: Acknowledgements
) -> Iterator[Finding]:
    """Block writes and console bytes pass no capture: here the moment of the trace line is the evidence."""
    for emission in outputs:
        output = emission.output
        held = _held(emission, acknowledgements, host, output.latest_wall_ns)
        if emission.protected and output.kind != "frame" and held < output.depends_on:
            message = (
                f"{host} let the {output.kind} output {output.index} go, which depends on entry {output.depends_on}; "
                f"the backup had acknowledged {held}"
            )
            yield Finding("output-before-acknowledgement", message, at_ns=output.monotonic_ns, position=output.index)


def _judge_contents(evidence: EvidenceDirectory) -> Iterator[Finding]:
    """One index has one content, whoever produced it."""
    first: dict[int, tuple[str, Output | ReplayedOutput]] = {}
    for host, trace in evidence.traces.items():
        for event in trace.events:
            if not isinstance(event, Output | ReplayedOutput):
                continue
            other_host, other = first.setdefault(event.index, (host, event))
            if (event.digest, event.kind, event.length) != (other.digest, other.kind, other.length):
                message = (
                    f"output {event.index} is {other.kind} {other.digest} on {other_host} "
                    f"and {event.kind} {event.digest} on {host}"
                )
                yield Finding("two-contents", message, at_ns=event.monotonic_ns, position=event.index)


def _judge_sufficiency(
    traces: int, matched: int, emitted: int, protected: int, acknowledgements: int
) -> Iterator[Finding]:
    if traces < 2:
        yield Finding("too-few-traces", f"{traces} traces, two are needed", Verdict.INSUFFICIENT)
    if not matched:
        yield Finding("no-frames", "no captured frame belongs to a traced output", Verdict.INSUFFICIENT)
    if matched * 100 < emitted * SEEN_PERCENT_MIN:
        message = f"only {matched} of {emitted} traced frames were captured"
        yield Finding("capture-blind", message, Verdict.INSUFFICIENT)
    if not protected or not acknowledgements:
        message = f"{protected} outputs under protection, {acknowledgements} acknowledgements"
        yield Finding("nothing-protected", message, Verdict.INSUFFICIENT)


def _monotonic(evidence: EvidenceDirectory, wall_ns: int) -> int | None:
    return evidence.clocks.to_monotonic_ns(wall_ns) if evidence.clocks else None
