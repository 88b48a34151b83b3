"""The output rule: nothing leaves before the backup holds what reproduces it, and nothing leaves in two versions.

Judged from outside: what left by the captures and the storage's answers, what it depends on by an offline replay, what
the backup held by the answers that had arrived. The node's traces can only add to it (`traced_outputs`).

Source: Scales, Nelson, Venkitachalam (2010), section 2.2, and protocol rules R5, R6, R16, R17.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from harness.evidence.directory import EvidenceDirectory
from harness.evidence.scenario import Scenario
from harness.evidence.verdicts import Finding, Judgement, Verdict
from harness.evidence.wire.messages import Answer, Commit, Entries
from harness.oracles.emissions import Emission, Oddity, Spoken, said_by
from harness.oracles.protection import Inheritance, Protection, Standing, Term, inheritance, protection_of
from harness.oracles.released_marks import judge_marks
from harness.oracles.traced_outputs import judge_traces
from harness.oracles.wording import after_start, by_message, name_output

NAME = "output-rule"
PROMISE = "output-rule"
# Between the look that lets an output go and the port lie a system call and the host's own bridge. On a busy machine
# the scheduler can put milliseconds between; an output that left later than this had no lease.
SEND_MS_MAX = 10.0
# A look that is a little too generous shows in many outputs, none of them much too late: so many may be late at all.
LATE_MS_MIN = 1.0
LATE_OUTPUTS_MAX = 5


def applies(scenario: Scenario) -> bool:
    """Always: the rule binds whatever happens."""
    return True


@dataclass
class _Counts:
    """How much the judgement rests on."""

    matched: Counter[str] = field(default_factory=Counter)
    protected: int = 0
    alone: int = 0
    acknowledgements: int = 0
    announcements: int = 0
    oldest_lease_ms: float = 0.0
    late: int = 0


def judge(evidence: EvidenceDirectory) -> Judgement:
    """Judge every frame, block write and console chunk of every host that ever owned the VM."""
    counts = _Counts()
    findings: list[Finding] = []
    said = said_by(evidence)
    for host in said:
        inherited = inheritance(evidence, host)
        protection = protection_of(evidence, host)
        counts.acknowledgements += protection.acknowledgements
        counts.announcements += len(said[host].announcements)
        findings += _judge_odd(evidence, said[host], inherited)
        findings += _judge_emissions(evidence, said[host], protection, counts)
        findings += _judge_order(evidence, said[host])
        replay = evidence.replays.get(host)
        if replay is not None and replay.divergence is not None:
            message = f"the offline replay of {host}'s log leaves what {host} said: {replay.divergence}"
            findings.append(Finding("replay-diverged", message, position=replay.position))
        if replay is not None and replay.disagreement is not None:
            findings.append(Finding("log-disagrees", replay.disagreement))
    findings += _judge_contents(evidence, said)
    findings += _judge_histories(evidence, said)
    findings += _judge_backups(evidence)
    findings += judge_marks(evidence, said)
    findings += judge_traces(evidence, said)
    if evidence.scenario.client == "key-value":
        findings += [
            Finding(stray.event, f"client {stray.client} got {stray.reply!r}", at_ns=stray.at_ns)
            for stray in evidence.history.stray_replies
        ]
    findings += _judge_sufficiency(evidence, said, counts)
    counted = {
        **{f"{kind}_matched": counts.matched[kind] for kind in ("frame", "block", "console")},
        "under_protection": counts.protected,
        "alone": counts.alone,
        "acknowledgements": counts.acknowledgements,
        "announcements": counts.announcements,
        "oldest_lease_ms": round(counts.oldest_lease_ms, 2),
        "late": counts.late,
    }
    return Judgement.of(NAME, findings, counted)


_ODD = {
    Oddity.REPEATED: ("repeated", "says output {index} again, which {host} had emitted before"),
    Oddity.DISORDERED: ("out-of-order", "says output {index}, and {host} had emitted a later one before"),
    Oddity.ALTERED: ("two-contents", "says {digest} where the replay's output {index} is {expected}"),
    Oddity.UNKNOWN: ("not-replayed", "is no output of the replay; output {index} was due"),
}


def _judge_odd(evidence: EvidenceDirectory, said: Spoken, inherited: Inheritance | None) -> Iterator[Finding]:
    for odd in said.odd:
        if odd.kind == "console":
            continue  # the console has an oracle of its own
        index = odd.output.index if odd.output else None
        at_ns = evidence.to_boot_ns(odd.at_ns)
        if odd.oddity is Oddity.COMPLETED and inherited is not None:
            rests_on = by_message(evidence, inherited.source)
            message = (
                f"{odd.what} re-issues output {index} (digest {odd.digest}), which {odd.host} knew to be completed: "
                f"it had answered R = {inherited.certain}{rests_on}"
            )
            yield Finding("completed-output-repeated", message, at_ns=at_ns, position=index)
            continue
        suffix, words = _ODD.get(odd.oddity, _ODD[Oddity.REPEATED])
        code = suffix if suffix == "two-contents" else f"{odd.kind}-{suffix}"
        expected = odd.output.digest if odd.output else None
        said_so = words.format(index=index, host=odd.host, digest=odd.digest, expected=expected)
        message = f"{odd.what}{after_start(evidence, odd.at_ns)} (digest {odd.digest}) {said_so}"
        yield Finding(code, message, at_ns=at_ns, position=index)


def _judge_emissions(
    evidence: EvidenceDirectory, said: Spoken, protection: Protection, counts: _Counts
) -> Iterator[Finding]:
    """Each one by what had arrived at its host before it left."""
    late: list[tuple[float, Finding]] = []
    for one in said.emissions:
        counts.matched[one.output.kind] += 1
        if one.latest_ns is None:
            continue
        term = protection.term(one.latest_ns)
        if term is None:
            continue  # single-speaker says so
        if term.standing is Standing.ALONE:
            counts.alone += 1
            continue
        counts.protected += 1
        yield from _judge_acknowledged(evidence, one, one.latest_ns, term, protection)
        if one.left_ns is None:
            continue  # what was seen late may have left in time
        late_ms, finding = _lateness(evidence, one, term, protection)
        counts.oldest_lease_ms = max(counts.oldest_lease_ms, late_ms + evidence.scenario.lease_ms)
        if finding is not None:
            late.append((late_ms, finding))
    yield from _judge_late(evidence, late, counts)


def _judge_acknowledged(
    evidence: EvidenceDirectory, one: Emission, latest_ns: int, term: Term, protection: Protection
) -> Iterator[Finding]:
    """What had left by a moment was acknowledged by then."""
    wanted = one.output.depends_on
    held = protection.acknowledged(term, latest_ns)
    if wanted <= term.position or (held is not None and held[0] >= wanted):
        return
    came = protection.acknowledgement_of(term, wanted)
    later = (
        "no answer ever acknowledged it"
        if came is None
        else f"the answer that did arrived {(came[0] - latest_ns) / 1e6:.3f} ms later{by_message(evidence, came[1])}"
    )
    message = (
        f"{name_output(evidence, one)} depends on entry {wanted}; "
        f"{held[0] if held else 0} was the last acknowledged; {later}"
    )
    code = f"{one.output.kind}-before-acknowledgement"
    yield Finding(code, message, at_ns=evidence.to_boot_ns(latest_ns), position=one.output.index)


def _lateness(
    evidence: EvidenceDirectory, one: Emission, term: Term, protection: Protection
) -> tuple[float, Finding | None]:
    """By how many milliseconds an output left after its lease, and what to say of it when it did."""
    assert one.left_ns is not None
    lease_ms = evidence.scenario.lease_ms
    if one.output.kind == "block":
        # R19: a write takes so long from its look to its end.
        lease_ms += evidence.scenario.write_bound_ms
    newest = protection.lease_from(term, one.left_ns)
    at_ns = evidence.to_boot_ns(one.left_ns)
    code = f"{one.output.kind}-after-lease"
    if newest is None:
        message = f"{name_output(evidence, one)}: the backup had not answered anything yet"
        return float("inf"), Finding(code, message, at_ns=at_ns, position=one.output.index)
    late_ms = (one.left_ns - newest[0]) / 1e6 - lease_ms
    if late_ms <= 0:
        return late_ms, None
    message = (
        f"{name_output(evidence, one)} left {late_ms + lease_ms:.1f} ms after the newest message that an answer had "
        f"echoed, the lease is {lease_ms:g} ms{by_message(evidence, newest[1])}"
    )
    return late_ms, Finding(code, message, at_ns=at_ns, position=one.output.index)


def _judge_late(evidence: EvidenceDirectory, late: list[tuple[float, Finding]], counts: _Counts) -> Iterator[Finding]:
    slack_ms = SEND_MS_MAX * evidence.scenario.time_scale
    far = [finding for late_ms, finding in late if late_ms > slack_ms]
    little = [finding for late_ms, finding in late if LATE_MS_MIN <= late_ms <= slack_ms]
    counts.late += len(far) + len(little)
    # protocol.md, "What remains": what was past its look when the host froze leaves when it wakes.
    allowed = evidence.scenario.late_frames_max
    yield from far[allowed:]
    if len(little) > LATE_OUTPUTS_MAX * evidence.scenario.time_scale:
        yield from little


def _judge_order(evidence: EvidenceDirectory, said: Spoken) -> Iterator[Finding]:
    """Outputs leave in the order of the program, each when the one before has completed (R5): no answer to a client
    overtakes the block write that it speaks of, and after a write that failed nothing leaves (R17)."""
    pending: Emission | None = None
    for one in said.emissions:
        if pending is not None and one.latest_ns is not None:
            if pending.done_ns is None:
                how = "was never answered well"
            elif one.latest_ns < pending.done_ns:
                how = f"was answered {(pending.done_ns - one.latest_ns) / 1e6:.3f} ms later"
            else:
                how = ""
            if how:
                message = f"{name_output(evidence, one)} left, and {pending.what}, output {pending.output.index}, {how}"
                at_ns = evidence.to_boot_ns(one.latest_ns)
                yield Finding("output-before-write-completed", message, at_ns=at_ns, position=one.output.index)
        if one.output.kind == "block" and one.left_ns is not None:
            pending = one


def _judge_contents(evidence: EvidenceDirectory, said: dict[str, Spoken]) -> Iterator[Finding]:
    """One index has one content, whoever emitted it."""
    first: dict[int, Emission] = {}
    for one in (emission for each in said.values() for emission in each.emissions):
        other = first.setdefault(one.output.index, one)
        alike = (one.output.digest, one.output.kind, one.output.offset) == (
            other.output.digest,
            other.output.kind,
            other.output.offset,
        )
        if not alike:
            message = (
                f"output {one.output.index} is {other.output.kind} {other.output.digest} in {other.what} "
                f"and {one.output.kind} {one.output.digest} in {one.what}"
            )
            at_ns = evidence.to_boot_ns(one.left_ns)
            yield Finding("two-contents", message, at_ns=at_ns, position=one.output.index)


def _judge_histories(evidence: EvidenceDirectory, said: dict[str, Spoken]) -> Iterator[Finding]:
    """A survivor goes on from the end of the log that it acknowledged, with all that was emitted in its own history."""
    owners = evidence.ownership.hosts
    for before, host in pairwise(owners):
        replay = evidence.replays.get(host)
        if replay is None:
            continue
        acknowledged = [
            (one.body.stored, one)
            for one in evidence.wire.messages
            if isinstance(one.body, Answer) and one.incarnation == replay.incarnation and one.sender == host
        ]
        stored, message = max(acknowledged, key=lambda each: each[0], default=(0, None))
        if replay.first_recorded is not None and replay.first_recorded <= stored:
            words = (
                f"{host} answered its guest by itself from entry {replay.first_recorded} on, "
                f"and had acknowledged the log up to entry {stored}{by_message(evidence, message)}"
            )
            yield Finding("acknowledged-log-lost", words, position=replay.first_recorded)
        history = {one.index: one for one in replay.outputs}
        for one in said[before].emissions if before in said else []:
            own = history.get(one.output.index)
            if own is None or (own.kind, own.digest) != (one.output.kind, one.output.digest):
                other = "which its history does not come to" if own is None else f"which it has as {own.digest}"
                words = f"{name_output(evidence, one)}, and {host} took the VM over with a log by {other}"
                at_ns = evidence.to_boot_ns(one.left_ns)
                yield Finding("emitted-output-forgotten", words, at_ns=at_ns, position=one.output.index)
                break


def _judge_backups(evidence: EvidenceDirectory) -> Iterator[Finding]:
    """R6: a backup acknowledges what it holds, and it holds what has arrived at it."""
    arrivals: dict[tuple[str, int], list[tuple[int, int, int]]] = defaultdict(list)
    for one in evidence.wire.messages:
        if isinstance(one.body, Entries) and one.arrived_ns is not None:
            arrivals[one.receiver, one.generation].append((one.arrived_ns, one.body.first, one.body.through))
        elif isinstance(one.body, Commit) and one.arrived_ns is not None:
            arrivals[one.receiver, one.generation].append((one.arrived_ns, 0, one.body.position))
    contiguous = {}
    for key, messages in arrivals.items():
        steps, reached = [], 0
        for at_ns, first, through in sorted(messages):
            if first <= reached + 1:
                reached = max(reached, through)
            steps.append((at_ns, reached))
        contiguous[key] = steps
    for key, steps in contiguous.items():
        yield from _judge_backup(evidence, key, steps)


def _judge_backup(evidence: EvidenceDirectory, key: tuple[str, int], steps: list[tuple[int, int]]) -> Iterator[Finding]:
    host, generation = key
    place = reached = 0
    answers = [
        one
        for one in evidence.wire.messages
        if one.sender == host and one.generation == generation and isinstance(one.body, Answer) and one.left_ns
    ]
    for one in sorted(answers, key=lambda answer: answer.left_ns or 0):
        assert isinstance(one.body, Answer)
        assert one.left_ns is not None
        while place < len(steps) and steps[place][0] <= one.left_ns:
            reached = steps[place][1]
            place += 1
        if one.body.stored > reached:
            later_ns = next((at_ns for at_ns, through in steps if through >= one.body.stored), None)
            came = f"came{after_start(evidence, later_ns)}" if later_ns else "was never seen to come"
            message = (
                f"{host} acknowledged entry {one.body.stored}{by_message(evidence, one)}, "
                f"and {reached} was the last that had arrived at it; {one.body.stored} {came}"
            )
            at_ns = evidence.to_boot_ns(one.left_ns)
            yield Finding("acknowledged-unheld", message, at_ns=at_ns, position=one.body.stored)
            return  # one says it; what follows is the same


def _judge_sufficiency(evidence: EvidenceDirectory, said: dict[str, Spoken], counts: _Counts) -> Iterator[Finding]:
    for host, each in said.items():
        if host not in evidence.replays and (each.odd or each.announcements or evidence.ownership.of(host)):
            message = f"{host} owned the VM, and its log could not be replayed"
            yield Finding("no-replay", message, Verdict.INSUFFICIENT)
    if not counts.matched["frame"]:
        yield Finding("no-frames", "no captured frame is an output of a replay", Verdict.INSUFFICIENT)
    # A fault that strikes before there is anything to protect leaves a VM that was alone all the time.
    was_to_be = evidence.scenario.operations_before_min or not counts.alone
    if was_to_be and not (counts.protected and counts.acknowledgements):
        message = f"{counts.protected} outputs under protection, {counts.acknowledgements} acknowledgements"
        yield Finding("nothing-protected", message, Verdict.INSUFFICIENT)
