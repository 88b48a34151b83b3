"""No split brain: one owner a generation, and one host at a time that speaks for the VM (rules R2, R5, R8 to R11, R16).

Who owns the VM when is read from the arbiter's records alone, as the storage host stamped them. The nodes' traces can
only add to it. Announcements are speech: they move the VM's address to another port of the switch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from harness.evidence.directory import EvidenceDirectory
from harness.evidence.ownership import Ask, Claim
from harness.evidence.scenario import Scenario
from harness.evidence.trace import Arbiter, Attached, Event, Live, Role
from harness.evidence.verdicts import Finding, Judgement, Verdict
from harness.evidence.wire.messages import Answer, HandOver, Marked
from harness.evidence.wire.wire import Said
from harness.lab.topology import CLIENT
from harness.oracles.emissions import Spoken, said_by
from harness.oracles.protection import Standing, protection_of
from harness.oracles.wording import after_start, records_missing

NAME = "single-speaker"
PROMISE = "no-split-brain"
# Announcements are sent by a thread of their own, which a busy machine may run late.
ANNOUNCED_MS_MAX = 500.0
# A frame may pass its port behind a message that was written after it, on another interface.
HANDED_OVER_MS_MAX = 3.0
_SPEAKING = ("WON", "ALONE", "PROTECTED")


def applies(scenario: Scenario) -> bool:
    """Always: two speakers are never right."""
    return True


@dataclass(frozen=True)
class _Speech:
    """Something that a host said for the VM."""

    host: str
    what: str
    at_ns: int
    # An output of its replay that it had not said before: what a frozen host had let go before it froze.
    is_identical: bool
    is_write: bool = False


def judge(evidence: EvidenceDirectory) -> Judgement:
    """Judge the arbiter's records, what each host said, and what the nodes say of themselves."""
    findings: list[Finding] = []
    claims = evidence.ownership.claims
    if not claims:
        findings.append(records_missing())
    else:
        findings += _judge_claims(evidence, claims)
    speeches = [one for each in said_by(evidence).values() for one in _speeches(each)]
    speeches.sort(key=lambda one: one.at_ns)
    late = 0
    if claims:
        found, late = _judge_speeches(evidence, speeches)
        findings += found
        findings += _judge_alone(evidence)
        findings += _judge_asks(evidence)
        findings += _judge_first_words(evidence)
        findings += _judge_hand_overs(evidence)
        findings += _judge_announcements(evidence)
        findings += _judge_primaries(evidence)
    for each in said_by(evidence).values():
        findings += [
            Finding(
                "foreign-frame",
                f"{frame}{after_start(evidence, frame.wall_ns)} comes from {frame.source.hex(':')}, not from the VM",
                at_ns=evidence.to_boot_ns(frame.wall_ns),
            )
            for frame in each.foreign
        ]
    findings += _judge_traces(evidence)
    if not speeches:
        findings.append(Finding("no-frames", "the VM said nothing that was captured", Verdict.INSUFFICIENT))
    counted = {
        "owners": [f"{claim.generation}: {claim.host or claim.incarnation}" for claim in claims],
        "speeches": len(speeches),
        "late_identical": late,
        "asks": len(evidence.ownership.asks),
    }
    return Judgement.of(NAME, findings, counted)


def _judge_claims(evidence: EvidenceDirectory, claims: list[Claim]) -> Iterator[Finding]:
    for wanted, claim in enumerate(claims, 1):
        if claim.generation != wanted:
            message = f"the arbiter holds generation {claim.generation} where generation {wanted} is due"
            yield Finding("generation-skipped", message)
            break
    for claim in claims:
        if claim.host is None:
            message = f"{claim} was claimed by an incarnation that nobody saw speak"
            yield Finding("unknown-owner", message, at_ns=evidence.to_boot_ns(claim.latest_ns))


def _speeches(said: Spoken) -> Iterator[_Speech]:
    for emission in said.emissions:
        if emission.left_ns is not None:
            what = f"{emission.what} (output {emission.output.index}, digest {emission.output.digest})"
            yield _Speech(said.host, what, emission.left_ns, True, emission.output.kind == "block")
    for odd in said.odd:
        if odd.at_ns is not None:
            yield _Speech(said.host, f"{odd.what} (digest {odd.digest})", odd.at_ns, False)
    for frame in said.announcements:
        yield _Speech(said.host, f"{frame} (an announcement)", frame.wall_ns, False)


def _judge_speeches(evidence: EvidenceDirectory, speeches: list[_Speech]) -> tuple[list[Finding], int]:
    """Each by the claims at its time. What was past its look when its host froze may come late, so far as allowed."""
    ownership = evidence.ownership
    findings = []
    late = 0
    for one in speeches:
        at_ns = evidence.to_boot_ns(one.at_ns)
        owned = ownership.owned(one.host, one.at_ns)
        if owned is None:
            message = f"{one.what}{after_start(evidence, one.at_ns)}: {one.host} had claimed no generation by then"
            findings.append(Finding("spoke-without-claim", message, at_ns=at_ns))
            continue
        newer = ownership.superseded(one.host, one.at_ns)
        if newer is None or (one.is_write and _within_bound(evidence, one)):
            continue
        if one.is_identical and late < evidence.scenario.late_frames_max:
            late += 1
            continue
        late_ms = (one.at_ns - newer.latest_ns) / 1e6
        message = (
            f"{one.what}, under generation {owned.generation}, left {late_ms:.1f} ms after {newer} was claimed"
            f"{after_start(evidence, newer.latest_ns)}"
        )
        findings.append(Finding("two-speakers", message, at_ns=at_ns))
    return findings, late


def _within_bound(evidence: EvidenceDirectory, one: _Speech) -> bool:
    """R19: a write takes up to W from its look to its end, and a survivor waits for that before its first write."""
    protection = protection_of(evidence, one.host)
    term = protection.term(one.at_ns)
    if term is None or term.standing is not Standing.PROTECTED:
        return False
    newest = protection.lease_from(term, one.at_ns)
    bound_ms = evidence.scenario.lease_ms + evidence.scenario.write_bound_ms
    return newest is not None and one.at_ns - newest[0] <= bound_ms * 1e6


def _judge_alone(evidence: EvidenceDirectory) -> Iterator[Finding]:
    """A primary whose backup is silent for longer than DETECT has lost its lease long ago. To go on it has to ask."""
    silence_ns = int(evidence.scenario.detect_ms * 1e6)
    for host, said in said_by(evidence).items():
        protection = protection_of(evidence, host)
        guilty = []
        for one in said.emissions:
            term = protection.term(one.left_ns) if one.left_ns is not None else None
            if term is None or one.left_ns is None or term.standing is not Standing.PROTECTED:
                continue
            heard = protection.last_answer_ns(term, one.left_ns)
            if one.left_ns - (heard if heard is not None else term.since_ns) > silence_ns:
                guilty.append((one, term, heard))
        # What was past its look when the host froze is no going on.
        if len(guilty) > evidence.scenario.late_frames_max:
            one, term, heard = guilty[0]
            assert one.left_ns is not None
            silent_ms = (one.left_ns - (heard if heard is not None else term.since_ns)) / 1e6
            message = (
                f"{host} goes on in generation {term.claim.generation} without having asked: {len(guilty)} outputs, "
                f"first {one.what} (output {one.output.index}){after_start(evidence, one.left_ns)}, "
                f"{silent_ms:.0f} ms after its backup's last answer arrived"
            )
            at_ns = evidence.to_boot_ns(one.left_ns)
            yield Finding("alone-without-asking", message, at_ns=at_ns, position=one.output.index)


def _judge_asks(evidence: EvidenceDirectory) -> Iterator[Finding]:
    """R10: a candidate that was not handed the VM (R21) asks when the lease of everything that it ever echoed is over.

    R8: for the next generation.
    """
    wait_ns = int(evidence.scenario.lease_ms * 1e6)
    claims = {claim.generation: claim for claim in evidence.ownership.claims}
    for ask in evidence.ownership.asks:
        before = claims.get(ask.generation - 1)
        if before is None or before.incarnation == ask.incarnation:
            continue
        heard = _newest_echoed(evidence, ask)
        if heard is None:
            continue
        arrived_ns, host = heard
        if ask.seen_ns < arrived_ns + wait_ns and not _was_handed_over(evidence, before, host, ask.seen_ns):
            early_ms = (arrived_ns + wait_ns - ask.seen_ns) / 1e6
            message = (
                f"{host} asked the arbiter for generation {ask.generation}{after_start(evidence, ask.seen_ns)}, "
                f"{early_ms:.1f} ms before the lease was over that it had given the primary by its last answer: "
                f"what that answer echoed had arrived{after_start(evidence, arrived_ns)}"
            )
            yield Finding("asked-within-lease", message, at_ns=evidence.to_boot_ns(ask.seen_ns))


def _judge_first_words(evidence: EvidenceDirectory) -> Iterator[Finding]:
    """R19: a survivor says nothing before the last write that its predecessor could begin is sure to have landed."""
    scenario, claims = evidence.scenario, evidence.ownership.claims
    wait_ns = int((scenario.lease_ms + scenario.write_bound_ms) * 1e6)
    said = said_by(evidence)
    for before, claim in itertools.pairwise(claims):
        if claim.incarnation == before.incarnation or claim.host not in said:
            continue
        heard = _newest_echoed(evidence, Ask(claim.generation, claim.incarnation, claim.latest_ns))
        since_claim = [
            one for one in said[claim.host].emissions if one.left_ns is not None and one.left_ns >= claim.earliest_ns
        ]
        first = min(since_claim, key=lambda one: one.left_ns or 0, default=None)
        if heard is None or first is None or first.left_ns is None or first.left_ns >= heard[0] + wait_ns:
            continue
        if _was_handed_over(evidence, before, claim.host, claim.latest_ns):
            continue
        early_ms = (heard[0] + wait_ns - first.left_ns) / 1e6
        message = (
            f"{first.what} (output {first.output.index}){after_start(evidence, first.left_ns)} came {early_ms:.1f} ms "
            f"before a write of {before} was sure to have landed: {claim.host} had answered what had arrived"
            f"{after_start(evidence, heard[0])}"
        )
        at_ns = evidence.to_boot_ns(first.left_ns)
        yield Finding("spoke-within-write-bound", message, at_ns=at_ns, position=first.output.index)


def _was_handed_over(evidence: EvidenceDirectory, owner: Claim, host: str, by_ns: int) -> bool:
    """Whether a host had heard from the VM's owner that nothing more leaves it, and had not gone back to it since."""
    return any(
        said.receiver == host
        and said.arrived_ns is not None
        and said.arrived_ns <= by_ns < _taken_back_ns(evidence, said)
        for said, _ in evidence.wire.of(HandOver)
        if (said.generation, said.incarnation) == (owner.generation, owner.incarnation)
    )


def _taken_back_ns(evidence: EvidenceDirectory, hand_over: Said) -> float:
    """When the one who was handed the VM answered its primary on a later session (R12): it is the backup again."""
    later_ns = (
        one.seen_ns
        for one in evidence.wire.messages
        if (one.sender, one.generation) == (hand_over.receiver, hand_over.generation)
        and one.session > hand_over.session
    )
    return min(later_ns, default=math.inf)


def _judge_hand_overs(evidence: EvidenceDirectory) -> Iterator[Finding]:
    """R21: who hands the VM over says nothing behind that, and has nothing on its way: nobody waits for it any more."""
    said = said_by(evidence)
    slack_ns = int(HANDED_OVER_MS_MAX * evidence.scenario.time_scale * 1e6)
    for message, _ in evidence.wire.of(HandOver):
        handed_ns = message.left_ns if message.left_ns is not None else message.arrived_ns
        if handed_ns is None or message.sender not in said:
            continue
        each, taken_back_ns = said[message.sender], _taken_back_ns(evidence, message)
        # What it is, when it began, and until when it was under way.
        spoken: list[tuple[str, int, float]] = [
            (
                one.what,
                one.left_ns,
                (math.inf if one.done_ns is None else one.done_ns)
                if one.output.kind == "block"
                else one.left_ns - slack_ns,
            )
            for one in each.emissions
            if one.left_ns is not None
        ]
        spoken += [
            (f"{frame} (an announcement)", frame.wall_ns, frame.wall_ns - slack_ns) for frame in each.announcements
        ]
        for what, left_ns, until_ns in spoken:
            owned = evidence.ownership.owned(message.sender, left_ns)
            is_of_this_generation = owned is not None and owned.generation == message.generation
            if is_of_this_generation and until_ns > handed_ns and left_ns < taken_back_ns:
                words = (
                    f"{what}, begun{after_start(evidence, left_ns)}, was not over when {message.sender} had handed the "
                    f"VM over{after_start(evidence, handed_ns)}"
                )
                yield Finding("spoke-after-hand-over", words, at_ns=evidence.to_boot_ns(left_ns))
                break


def _newest_echoed(evidence: EvidenceDirectory, ask: Ask) -> tuple[int, str] | None:
    """When the newest message arrived that the asker had answered to by then, and the asker's host."""
    answers = [
        one
        for one in evidence.wire.messages
        if isinstance(one.body, Answer)
        and one.incarnation == ask.incarnation
        and _said_ns(evidence, one) <= ask.seen_ns
    ]
    if not answers:
        return None
    newest = max(answers, key=lambda one: one.echo_ns)
    arrivals = [
        one.arrived_ns
        for one in evidence.wire.messages
        if one.receiver == newest.sender and one.stamp_ns == newest.echo_ns and one.arrived_ns is not None
    ]
    return (min(arrivals), newest.sender) if arrivals else None


def _said_ns(evidence: EvidenceDirectory, one: Said) -> int:
    """When a message was made, which may be before it left; by the port where its host's clock is its own."""
    if evidence.host_clocks is None and evidence.clocks is not None:
        return evidence.clocks.to_wall_ns(one.stamp_ns)
    return one.left_ns if one.left_ns is not None else one.arrived_ns or 0


def _judge_announcements(evidence: EvidenceDirectory) -> Iterator[Finding]:
    """R16: a winner tells the network where the VM is now, at about the time when it first speaks."""
    first = evidence.ownership.claims[0]
    late_ns = int(ANNOUNCED_MS_MAX * evidence.scenario.time_scale * 1e6)
    for host, said in said_by(evidence).items():
        frames = [one for one in said.of("frame") if one.left_ns is not None]
        if host == first.host or not frames or not evidence.ownership.of(host):
            continue
        spoke_ns = min(one.left_ns for one in frames if one.left_ns is not None)
        if any(frame.wall_ns <= spoke_ns + late_ns for frame in said.announcements):
            continue
        claimed_ns = evidence.ownership.of(host)[0].earliest_ns
        if evidence.disturbances.network(host, CLIENT, claimed_ns, spoke_ns) is None:
            message = f"{host} took the VM over and spoke{after_start(evidence, spoke_ns)} and did not announce it"
            yield Finding("not-announced", message, at_ns=evidence.to_boot_ns(spoke_ns))


def _judge_primaries(evidence: EvidenceDirectory) -> Iterator[Finding]:
    """Who leads a session in a generation is its owner, by the arbiter's record."""
    owners = {claim.generation: claim for claim in evidence.ownership.claims}
    named = set()
    for one in evidence.wire.messages:
        # What a stranger forges is no node's word: what the nodes make of it is judged by what they do.
        if not isinstance(one.body, Marked) or one.sender not in evidence.traces:
            continue
        owner = owners.get(one.generation)
        key = one.generation, one.incarnation
        if key in named or (owner is not None and owner.incarnation == one.incarnation):
            continue
        named.add(key)
        whose = f"{owner} has it" if owner else "nobody claimed it"
        message = f"{one.sender} (incarnation {one.incarnation}) leads generation {one.generation}, and {whose}"
        at_ns = evidence.to_boot_ns(one.left_ns if one.left_ns is not None else one.arrived_ns)
        yield Finding("led-without-claim", message, at_ns=at_ns)


def _judge_traces(evidence: EvidenceDirectory) -> Iterator[Finding]:
    """What the nodes say of themselves can convict: roles that the arbiter's record does not give them."""
    records = {claim.generation: claim for claim in evidence.ownership.claims}
    taken: dict[int, tuple[str, str]] = {}
    for host, trace in evidence.traces.items():
        entitled: set[tuple[str, int]] = set()
        for event in trace.events:
            if isinstance(event, Arbiter):
                wanted = event.wanted if event.wanted is not None else event.generation
                if event.outcome == "won" or (event.operation == "read" and str(event.outcome) == str(wanted)):
                    entitled.add((event.incarnation, wanted))
            elif isinstance(event, Live | Attached) and (event.incarnation, event.generation) not in entitled:
                message = f"{host} is {event.event} in generation {event.generation}, which it says it never won"
                yield Finding("live-without-winning", message, at_ns=event.monotonic_ns)
            generation = _claimed_generation(event)
            if generation is None:
                continue
            other = taken.setdefault(generation, (host, event.incarnation))
            if other[1] != event.incarnation:
                message = f"generation {generation} was taken by {other[0]} and by {host}, as they say themselves"
                yield Finding("two-owners", message, at_ns=event.monotonic_ns)
                taken[generation] = (host, event.incarnation)
    for generation, (host, incarnation) in taken.items():
        record = records.get(generation)
        if records and (record is None or int(record.incarnation, 16) != int(incarnation, 16)):
            holds = f"holds {record}" if record else "has no such generation"
            message = f"{host} says that it took generation {generation}; the arbiter {holds}"
            yield Finding("arbiter-disagrees", message)


def _claimed_generation(event: Event) -> int | None:
    if isinstance(event, Arbiter) and event.outcome == "won":
        return event.wanted if event.wanted is not None else event.generation
    if isinstance(event, Live) or (isinstance(event, Role) and event.to in _SPEAKING):
        return event.generation
    return None
