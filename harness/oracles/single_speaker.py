"""No split brain: one node a generation, one host at a time whose port emits the VM's frames (R5, R8 to R11, R16)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from harness.evidence.capture import Frame
from harness.evidence.directory import EvidenceDirectory
from harness.evidence.ownership import read_arbiter_records
from harness.evidence.scenario import Scenario
from harness.evidence.trace_events import Arbiter, Attached, Event, Live, Role
from harness.evidence.verdicts import Finding, Judgement, Verdict
from harness.oracles.acknowledgements import Acknowledgements, emissions

NAME = "single-speaker"
PROMISE = "no-split-brain"
_SPEAKING = ("WON", "ALONE", "PROTECTED")


@dataclass(frozen=True)
class Claim:
    """A node that took a generation over: from when it may speak (`since`) and from when it does (`live`).

    The first excuses its frames and the second accuses the others', so by its host's clock they are the earliest and
    the latest such time.
    """

    generation: int
    host: str
    incarnation: str
    since_wall_ns: int
    live_wall_ns: int


def applies(scenario: Scenario) -> bool:
    """Always: two speakers are never right."""
    return True


def judge(evidence: EvidenceDirectory) -> Judgement:
    """Judge the traces, the arbiter's record, and every captured frame of the VM."""
    claims = list(_claims(evidence))
    findings = [*_judge_claims(claims), *_judge_lives(evidence), *_judge_arbiter(evidence, claims)]
    frames = [frame for sent in evidence.vm_frames.values() for frame in sent]
    judge_frame = FrameJudge(evidence, claims)
    for frame in sorted(frames, key=lambda one: one.wall_ns):
        findings += judge_frame(frame)
    if not frames:
        findings.append(Finding("no-frames", "the VM sent nothing that was captured", Verdict.INSUFFICIENT))
    if len(evidence.traces) < 2:
        message = f"{len(evidence.traces)} traces, two are needed"
        findings.append(Finding("too-few-traces", message, Verdict.INSUFFICIENT))
    if not claims:
        findings.append(Finding("no-claim", "no trace tells of a node that took the VM", Verdict.INSUFFICIENT))
    counted = {
        "generations": sorted({claim.generation for claim in claims}),
        "speakers": [f"{claim.generation}: {claim.host}" for claim in claims],
        "frames": len(frames),
        "late_identical_frames": judge_frame.late_identical_frames,
    }
    return Judgement.of(NAME, findings, counted)


def _claims(evidence: EvidenceDirectory) -> Iterator[Claim]:
    """One claim for each node and generation in which it took a speaking role, in order of time."""
    found: dict[tuple[int, str, str], Claim] = {}
    for host, trace in evidence.traces.items():
        # It may speak from `attached` on: the uncertain outputs are re-issued before `live`.
        lives = {
            (one.generation, one.incarnation): one.latest_wall_ns for one in [*trace.of(Live), *trace.of(Attached)]
        }
        for event in trace.events:
            generation = _claimed_generation(event)
            if generation is None:
                continue
            live_ns = lives.get((generation, event.incarnation), event.latest_wall_ns)
            claim = Claim(generation, host, event.incarnation, event.earliest_wall_ns, live_ns)
            found.setdefault((generation, host, event.incarnation), claim)
    yield from sorted(found.values(), key=lambda claim: claim.since_wall_ns)


def _claimed_generation(event: Event) -> int | None:
    if isinstance(event, Arbiter) and event.outcome == "won":
        return event.wanted if event.wanted is not None else event.generation
    if isinstance(event, Live) or (isinstance(event, Role) and event.to in _SPEAKING):
        return event.generation
    return None


def _judge_claims(claims: list[Claim]) -> Iterator[Finding]:
    first: dict[int, Claim] = {}
    for claim in claims:
        other = first.setdefault(claim.generation, claim)
        if other.incarnation != claim.incarnation:
            message = f"generation {claim.generation} was taken by {other.host} and by {claim.host}"
            yield Finding("two-owners", message)


def _judge_lives(evidence: EvidenceDirectory) -> Iterator[Finding]:
    """Whoever goes live has won this generation before, or has read that it holds it (R11)."""
    for host, trace in evidence.traces.items():
        entitled: set[tuple[str, int]] = set()
        for event in trace.events:
            if isinstance(event, Arbiter):
                wanted = event.wanted if event.wanted is not None else event.generation
                if event.outcome == "won" or (event.operation == "read" and str(event.outcome) == str(wanted)):
                    entitled.add((event.incarnation, wanted))
            elif isinstance(event, Live) and (event.incarnation, event.generation) not in entitled:
                message = f"{host} went live in generation {event.generation} and had not won the arbiter"
                yield Finding("live-without-winning", message, at_ns=event.monotonic_ns)


def _judge_arbiter(evidence: EvidenceDirectory, claims: list[Claim]) -> Iterator[Finding]:
    """Compare with `arbiter.json`, the arbiter's own records as the storage host has them."""
    records = read_arbiter_records(evidence.path / "arbiter.json")
    holders = {record.generation: record.incarnation for record in records}
    for claim in claims:
        holder = holders.get(claim.generation)
        if records and holder != claim.incarnation:
            message = f"{claim.host} took generation {claim.generation}, which the arbiter gave to {holder}"
            yield Finding("arbiter-disagrees", message)


class FrameJudge:
    """Judges the VM's frames in order of time, and counts the late ones that say nothing new."""

    def __init__(self, evidence: EvidenceDirectory, claims: list[Claim]) -> None:
        self.late_identical_frames = 0
        self._evidence = evidence
        self._claims = claims
        self._acknowledgements = Acknowledgements(evidence.traces)
        self._seen: Counter[tuple[str, str]] = Counter()

    def __call__(self, frame: Frame) -> Iterator[Finding]:
        """The finding on this frame, if there is one."""
        self._seen[frame.host, frame.digest] += 1
        clocks = self._evidence.clocks
        at_ns = clocks.to_monotonic_ns(frame.wall_ns) if clocks else None
        owned = [one for one in self._claims if one.host == frame.host and one.since_wall_ns <= frame.wall_ns]
        if not owned:
            yield Finding("spoke-without-claim", f"{frame}: its host had not taken the VM", at_ns=at_ns)
            return
        newest = max(claim.generation for claim in owned)
        # The same generation on another host is no better: whoever owns it, one of the two must not speak.
        newer = [
            claim
            for claim in self._claims
            if claim.generation >= newest and claim.host != frame.host and claim.live_wall_ns <= frame.wall_ns
        ]
        if not newer:
            return
        first = min(newer, key=lambda claim: claim.live_wall_ns)
        if self._was_past_its_check(frame, first.live_wall_ns):
            self.late_identical_frames += 1
            return
        late_ms = (frame.wall_ns - first.live_wall_ns) / 1e6
        message = f"{frame} of generation {newest} left {late_ms:.1f} ms after {first.host} was live"
        yield Finding("two-speakers", message, at_ns=at_ns)

    def _was_past_its_check(self, frame: Frame, live_wall_ns: int) -> bool:
        """protocol.md, "What remains": a frozen primary may emit what it had let go before, byte for byte.

        Each such emission excuses one frame, so a repetition is not excused by its original.
        """
        let_go = 0
        for emission in emissions(self._evidence.traces[frame.host]):
            output = emission.output
            if output.kind == "frame" and output.digest == frame.digest and output.earliest_wall_ns < live_wall_ns:
                held = self._acknowledgements.held(
                    generation=emission.generation, not_by=frame.host, wall_ns=output.latest_wall_ns
                )
                let_go += not emission.protected or held >= output.depends_on
        return self._seen[frame.host, frame.digest] <= let_go
