"""What the nodes' own traces add to the output rule. They convict, and excuse nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from harness.evidence.directory import EvidenceDirectory
from harness.evidence.faults import LOSING_POWER
from harness.evidence.replay import ReplayedOutput as Replayed
from harness.evidence.trace import Acknowledged, Committed, FrameRefused, Output, ReplayedOutput, Trace
from harness.evidence.verdicts import Finding
from harness.lab.topology import CLIENT, STORAGE
from harness.oracles.emissions import Spoken
from harness.oracles.protection import Standing, protection_of


def judge_traces(evidence: EvidenceDirectory, said: Mapping[str, Spoken]) -> Iterator[Finding]:
    """Judge what each node says that it did, against what was seen and what the others say."""
    yield from _judge_repetition(evidence.traces)
    for host, trace in evidence.traces.items():
        yield from _judge_contents(evidence, host, trace)
        yield from _judge_acknowledged(evidence, host, trace)
        if host in said:
            yield from _judge_seen(evidence, trace, said[host])
            yield from _judge_refused(evidence, trace, said[host])


def _judge_repetition(traces: Mapping[str, Trace]) -> Iterator[Finding]:
    released: dict[int, str] = {}
    for host, trace in traces.items():
        reissued: set[tuple[str, int]] = set()
        for output in trace.emitted:
            if output.why == "release":
                if output.index in released:
                    message = f"output {output.index} was released on {released[output.index]} and again on {host}"
                    yield Finding("released-twice", message, at_ns=output.monotonic_ns, position=output.index)
                released[output.index] = host
            elif (output.incarnation, output.index) in reissued:
                message = f"{host} re-issued output {output.index} more than once"
                yield Finding("reissued-twice", message, at_ns=output.monotonic_ns, position=output.index)
            else:
                reissued.add((output.incarnation, output.index))


def _judge_contents(evidence: EvidenceDirectory, host: str, trace: Trace) -> Iterator[Finding]:
    """What a node says that an output was, against its replay: one index has one content."""
    replay = evidence.replays.get(host)
    produced: dict[int, Replayed] = {one.index: one for one in replay.outputs} if replay else {}
    for event in trace.events:
        if not isinstance(event, Output | ReplayedOutput):
            continue
        known = produced.get(event.index)
        if known is not None and (event.kind, event.digest, event.length) != (known.kind, known.digest, known.length):
            message = (
                f"output {event.index} is {known.kind} {known.digest} in the offline replay "
                f"and {event.kind} {event.digest} in the trace of {host}"
            )
            yield Finding("two-contents", message, at_ns=event.monotonic_ns, position=event.index)


def _judge_acknowledged(evidence: EvidenceDirectory, host: str, trace: Trace) -> Iterator[Finding]:
    """An output that the node says it let go before the answer had arrived, or before the backup says it gave one."""
    protection = protection_of(evidence, host)
    backups = _backup_says(evidence, host)
    for output in trace.emitted:
        term = protection.term(output.latest_wall_ns)
        if output.why != "release" or term is None or term.standing is not Standing.PROTECTED:
            continue
        if output.depends_on <= term.position:
            continue
        held = protection.acknowledged(term, output.latest_wall_ns)
        said_ns = backups.get((term.claim.generation, output.depends_on))
        reached = held[0] if held else 0
        if reached < output.depends_on:
            why = f"entry {reached} was the last acknowledged by what had arrived"
        elif said_ns is not None and said_ns > output.latest_wall_ns:
            late_ms = (said_ns - output.latest_wall_ns) / 1e6
            why = f"the backup's trace gives that acknowledgement {late_ms:.3f} ms later"
        else:
            continue
        message = (
            f"{host} says that it let the {output.kind} output {output.index} go, "
            f"which depends on entry {output.depends_on}; {why}"
        )
        yield Finding("output-before-acknowledgement", message, at_ns=output.monotonic_ns, position=output.index)


def _backup_says(evidence: EvidenceDirectory, host: str) -> dict[tuple[int, int], int]:
    """When a backup of this host, by its own word, acknowledged a position at the earliest; by generation."""
    events = [
        event
        for other, trace in evidence.traces.items()
        if other != host
        for event in trace.events
        if isinstance(event, Committed) or (isinstance(event, Acknowledged) and event.by == "backup")
    ]
    said: dict[tuple[int, int], int] = {}
    reached: dict[int, int] = {}
    for event in sorted(events, key=lambda one: one.wall_ns):
        assert isinstance(event, Committed | Acknowledged)
        for position in range(reached.get(event.generation, 0) + 1, event.position + 1):
            said[event.generation, position] = event.earliest_wall_ns
        reached[event.generation] = max(reached.get(event.generation, 0), event.position)
    return said


def _judge_seen(evidence: EvidenceDirectory, trace: Trace, said: Spoken) -> Iterator[Finding]:
    """A frame or block write that the node says it let go was seen, unless a fault at that time names the reason."""
    seen = {one.output.index for one in said.emissions}
    newest = {output.incarnation: output for output in trace.emitted}
    for output in trace.emitted:
        if output.why not in ("release", "re-issue") or output.index in seen or output.kind == "console":
            continue
        if output.kind == "block" and evidence.storage_writes is None:
            continue
        since_ns, until_ns = output.earliest_wall_ns, output.latest_wall_ns + 1_000_000_000
        network = CLIENT if output.kind == "frame" else STORAGE
        cut = evidence.disturbances.network(trace.host, network, since_ns, until_ns)
        if evidence.scenario.lab != "netns":
            cut = cut or evidence.disturbances.stopped(trace.host, since_ns, until_ns, LOSING_POWER)
        # The line is written before the send: what was written last may be all there is.
        if cut is not None or output is newest[output.incarnation]:
            continue
        message = f"{trace.host} says that it let the {output.kind} output {output.index} go, and nobody saw it"
        yield Finding("traced-not-seen", message, at_ns=output.monotonic_ns, position=output.index)


def _judge_refused(evidence: EvidenceDirectory, trace: Trace, said: Spoken) -> Iterator[Finding]:
    """A frame that the node says its interface refused was not seen, and a fault at that time names the reason."""
    seen = {one.output.index for one in said.emissions}
    emitted = {(one.incarnation, one.index) for one in trace.emitted}
    for refused in trace.of(FrameRefused):
        since_ns, until_ns = refused.earliest_wall_ns, refused.latest_wall_ns
        what = f"{trace.host} says that its interface refused output {refused.index} ({refused.reason})"
        if refused.index in seen and (refused.incarnation, refused.index) not in emitted:
            message = f"{what}, and the output was seen"
            yield Finding("refused-but-seen", message, at_ns=refused.monotonic_ns, position=refused.index)
        elif evidence.disturbances.network(trace.host, CLIENT, since_ns, until_ns) is None:
            message = f"{what}, and no fault was there"
            yield Finding("refused-without-cause", message, at_ns=refused.monotonic_ns, position=refused.index)
