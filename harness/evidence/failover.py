"""The failover time in its parts: detect, drain, arbitrate, announce, first byte; and what the client saw of it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import pairwise

from harness.evidence.client import longest_wait_ms
from harness.evidence.directory import EvidenceDirectory
from harness.evidence.trace import Announced, Arbiter, Attached, ClosedLog, Drained, Event, Live, Suspect, Trace

PARTS = ("detect", "drain", "arbitrate", "announce", "first_byte")


@dataclass(frozen=True)
class Failover:
    """One go-live by a node that was not live before. Instants are CLOCK_BOOTTIME; None where no evidence tells.

    `longest_wait_ms` is what one connection waited for one answer at the most, one that never came included: it asks
    again when its kernel does, and that may be long after the silence is over.
    """

    generation: int
    survivor: str
    fault: str | None
    fault_ns: int | None
    suspected_ns: int | None
    log_closed_ns: int | None
    drained_ns: int | None
    won_ns: int | None
    attached_ns: int | None
    announced_ns: int | None
    live_ns: int
    first_frame_ns: int | None
    first_answer_ns: int | None
    silence_start_ns: int | None
    silence_end_ns: int | None
    longest_wait_ms: float | None

    def parts_ms(self) -> dict[str, float | None]:
        """The parts that follow each other from the fault to the first byte that the client gets."""
        instants = {
            "detect": (self.fault_ns, self.suspected_ns),
            # From suspicion to the end of the replay; the log is closed within it.
            "drain": (self.suspected_ns, self.drained_ns),
            # The lease is waited out within this part (R10).
            "arbitrate": (self.drained_ns, self.won_ns),
            "announce": (self.won_ns, self.announced_ns),
            # The uncertain outputs are re-issued before `live`, so a first byte may come before it.
            "first_byte": (self.announced_ns, self.first_frame_ns),
        }
        return {name: _milliseconds(start, end) for name, (start, end) in instants.items()}

    @property
    def total_ms(self) -> float | None:
        """From the fault to the first frame on the survivor's port."""
        return _milliseconds(self.fault_ns, self.first_frame_ns)

    @property
    def silence_ms(self) -> float | None:
        """The longest time around this failover in which nobody got an answer, on whichever connection."""
        return _milliseconds(self.silence_start_ns, self.silence_end_ns)


def find_failovers(evidence: EvidenceDirectory) -> list[Failover]:
    """Every failover of a run in order. Raises `EvidenceError` when the evidence is malformed."""
    lives = sorted(
        ((live, trace) for trace in evidence.traces.values() for live in trace.of(Live) if live.generation > 1),
        key=lambda pair: pair[0].monotonic_ns,
    )
    return [_failover(evidence, trace, live) for live, trace in lives]


def write_failovers(evidence: EvidenceDirectory) -> list[Failover]:
    """Find the failovers and write `failover.json`."""
    failovers = find_failovers(evidence)
    content = [
        {"parts_ms": one.parts_ms(), "total_ms": one.total_ms, "silence_ms": one.silence_ms, **asdict(one)}
        for one in failovers
    ]
    (evidence.path / "failover.json").write_text(json.dumps(content, indent=2) + "\n")
    return failovers


def _failover(evidence: EvidenceDirectory, trace: Trace, live: Live) -> Failover:
    own = [one for one in trace.events if one.incarnation == live.incarnation and one.monotonic_ns <= live.monotonic_ns]
    suspected_ns = _last(own, Suspect)
    suspected = [one for one in own if isinstance(one, Suspect)]
    cause = suspected[-1] if suspected else live
    fault, fault_ns = _cause(evidence, cause.monotonic_ns + cause.uncertainty_ns)
    won = [one for one in own if isinstance(one, Arbiter) and one.outcome == "won" and one.wanted == live.generation]
    attached = [one for one in own if isinstance(one, Attached) and one.generation == live.generation]
    first_frame_ns = _first_frame(evidence, trace.host, attached[0] if attached else live)
    since_ns, until_ns = fault_ns or suspected_ns or live.monotonic_ns, first_frame_ns or live.monotonic_ns
    first_answer_ns, silence_start_ns, silence_end_ns = _client_view(evidence, since_ns, until_ns)
    return Failover(
        generation=live.generation,
        survivor=trace.host,
        fault=fault,
        fault_ns=fault_ns,
        suspected_ns=suspected_ns,
        log_closed_ns=_last(own, ClosedLog),
        drained_ns=_last(own, Drained),
        won_ns=won[-1].monotonic_ns if won else None,
        attached_ns=_last(own, Attached),
        announced_ns=_last(own, Announced),
        live_ns=live.monotonic_ns,
        first_frame_ns=first_frame_ns,
        first_answer_ns=first_answer_ns,
        silence_start_ns=silence_start_ns,
        silence_end_ns=silence_end_ns,
        longest_wait_ms=_longest_wait(evidence, since_ns, until_ns),
    )


def _last(events: Iterable[Event], kind: type[Event]) -> int | None:
    times_ns = [event.monotonic_ns for event in events if isinstance(event, kind)]
    return times_ns[-1] if times_ns else None


def _cause(evidence: EvidenceDirectory, before_ns: int) -> tuple[str | None, int | None]:
    """The newest fault that was injected before the suspicion."""
    clocks = evidence.clocks
    if clocks is None:
        return None, None
    faults = [
        (clocks.to_monotonic_ns(fault.injected_ns), f"{fault.fault} at {fault.target}")
        for fault in evidence.faults
        if fault.injected_ns is not None and clocks.to_monotonic_ns(fault.injected_ns) <= before_ns
    ]
    if not faults:
        return None, None
    at_ns, fault = max(faults)
    return fault, at_ns


def _first_frame(evidence: EvidenceDirectory, host: str, since: Event) -> int | None:
    """The first frame of the VM itself on the survivor's port, its announcements left out."""
    clocks = evidence.clocks
    if clocks is None:
        return None
    # Compared by the wall clock, which both files have at first hand; before its go-live no frame is its own.
    frames = [
        frame.wall_ns
        for frame in evidence.vm_frames.get(host, [])
        if frame.wall_ns >= since.earliest_wall_ns and not frame.is_announcement
    ]
    return clocks.to_monotonic_ns(min(frames)) if frames else None


def _client_view(evidence: EvidenceDirectory, from_ns: int, to_ns: int) -> tuple[int | None, int | None, int | None]:
    """The first answer after `to_ns`, and the longest gap between answers that touches the time between the two."""
    if evidence.scenario.client == "key-value":
        answers_ns = [one.return_ns for one in evidence.history.answers if one.return_ns is not None]
    elif evidence.scenario.client == "ticker":
        answers_ns = [tick.arrived_ns for tick in evidence.ticks.ticks]
    else:
        return None, None, None
    answers_ns.sort()
    first_ns = next((time_ns for time_ns in answers_ns if time_ns >= to_ns), None)
    gaps = [(start, end) for start, end in pairwise(answers_ns) if end >= from_ns and start <= to_ns]
    start_ns, end_ns = max(gaps, key=lambda gap: gap[1] - gap[0], default=(None, None))
    return first_ns, start_ns, end_ns


def _longest_wait(evidence: EvidenceDirectory, from_ns: int, to_ns: int) -> float | None:
    """Of the waits for an answer that touch the time between the two."""
    if evidence.scenario.client != "key-value":
        return None
    return longest_wait_ms(evidence.history, from_ns, to_ns)


def _milliseconds(start_ns: int | None, end_ns: int | None) -> float | None:
    return None if start_ns is None or end_ns is None else round((end_ns - start_ns) / 1e6, 3)
