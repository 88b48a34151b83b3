"""The part of the output rule that is about saying things twice: only uncertain outputs may be re-issued, once each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from harness.evidence.directory import EvidenceDirectory
from harness.evidence.trace import Trace
from harness.evidence.trace_events import Acknowledged, Drained, Output, OutputDone
from harness.evidence.verdicts import Finding


def judge_reissues(evidence: EvidenceDirectory) -> Iterator[Finding]:
    """Every output is released by one node once; what is re-issued lay past the released mark that the node knew."""
    yield from _judge_repetition(evidence.traces)
    margin_ns = int(evidence.scenario.uncertain_ms_max * 1e6)
    for host, trace in evidence.traces.items():
        reissued = [output for output in trace.emitted if output.why == "re-issue"]
        if reissued:
            yield from _judge_uncertainty(evidence.traces, host, reissued, margin_ns)


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


def _judge_uncertainty(
    traces: Mapping[str, Trace], host: str, reissued: list[Output], margin_ns: int
) -> Iterator[Finding]:
    """Two independent looks: what the survivor says it knew, and what the other's trace says it must have known."""
    own = traces[host]
    marks = [drained.released for drained in own.of(Drained) if drained.released is not None]
    known = max(marks, default=0)
    first_ns = min(output.wall_ns for output in reissued)
    # Two hosts' clocks meet here: what accuses is that it was done before for certain, heard after for certain.
    heard_ns = max(
        (
            event.earliest_wall_ns
            for event in own.events
            if isinstance(event, Acknowledged) and event.wall_ns <= first_ns
        ),
        default=0,
    )
    done_long_ago = max(
        (
            done.through
            for other, trace in traces.items()
            if other != host
            for done in trace.of(OutputDone)
            if done.latest_wall_ns + margin_ns < heard_ns
        ),
        default=0,
    )
    for output in reissued:
        if output.index <= max(known, done_long_ago):
            source = "by its own mark" if output.index <= known else "long before by the other's trace"
            message = f"{host} re-issued output {output.index}, which was completed {source}"
            yield Finding("completed-output-repeated", message, at_ns=output.monotonic_ns, position=output.index)
