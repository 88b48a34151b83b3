"""What a host's node needs before an output may leave, by the arbiter's records and the wire (R5, R10, R14, R16)."""

from __future__ import annotations

import bisect
import enum
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from harness.evidence.directory import EvidenceDirectory
from harness.evidence.ownership import Claim
from harness.evidence.wire.messages import Answer, Commit, Marked, Welcome
from harness.evidence.wire.wire import Said


class Standing(enum.Enum):
    """How a node stands to the VM at a time."""

    ALONE = "it owned the VM without a backup"
    PROTECTED = "it had a backup"


@dataclass(frozen=True)
class Term:
    """One stretch of a node's ownership. `backup` is the partner's incarnation; None where no message tells it."""

    claim: Claim
    since_ns: int
    standing: Standing
    backup: str | None = None
    # The position of the state that COMMIT gave to the backup: it holds everything up to there.
    position: int = 0


class Rising:
    """A quantity that grows as messages arrive: the highest so far at any time, and the message that brought it."""

    def __init__(self, steps: Iterable[tuple[int, int, Said]]) -> None:
        """`steps`: when, how much, by what."""
        self._times: list[int] = []
        self._values: list[int] = []
        self._said: list[Said] = []
        for at_ns, value, said in sorted(steps, key=lambda step: step[0]):
            if not self._values or value > self._values[-1]:
                self._times.append(at_ns)
                self._values.append(value)
                self._said.append(said)

    def at(self, at_ns: int) -> tuple[int, Said] | None:
        """The highest value at a time; None before the first."""
        place = bisect.bisect_right(self._times, at_ns)
        return (self._values[place - 1], self._said[place - 1]) if place else None

    def first(self, value: int) -> tuple[int, Said] | None:
        """When it reached a value, and by what; None: never."""
        place = bisect.bisect_left(self._values, value)
        return (self._times[place], self._said[place]) if place < len(self._values) else None

    @property
    def highest(self) -> int:
        """The last value; 0 when there is none."""
        return self._values[-1] if self._values else 0

    def __len__(self) -> int:
        return len(self._values)


@lru_cache(maxsize=16)
def protection_of(evidence: EvidenceDirectory, host: str) -> Protection:
    """`Protection`, worked out once a run and host."""
    return Protection(evidence, host)


class Protection:
    """What stands between one host's outputs and the world."""

    def __init__(self, evidence: EvidenceDirectory, host: str) -> None:
        self.host = host
        messages = evidence.wire.messages
        # When the message with a stamp left: the lease of an answer that echoes it runs from there.
        self._left: dict[tuple[str, int], int] = {}
        for one in messages:
            if one.sender == host and one.left_ns is not None:
                stamp = (one.incarnation, one.stamp_ns)
                self._left[stamp] = min(one.left_ns, self._left.get(stamp, one.left_ns))
        self.terms = list(_terms(evidence, host))
        self._stored: dict[tuple[int, str | None], Rising] = {}
        self._echoed: dict[tuple[int, str | None], Rising] = {}
        self._answered: dict[tuple[int, str | None], list[int]] = {}
        for term in self.terms:
            if term.standing is Standing.PROTECTED:
                answers = [one for one in messages if self._is_answer(one, term)]
                key = (term.claim.generation, term.backup)
                self._answered[key] = sorted(one.arrived_ns for one in answers if one.arrived_ns is not None)
                self._stored[key] = Rising(
                    (one.arrived_ns, one.body.stored, one)
                    for one in answers
                    if isinstance(one.body, Answer) and one.arrived_ns is not None
                )
                self._echoed[key] = Rising(
                    (one.arrived_ns, left_ns, one)
                    for one in answers
                    if one.arrived_ns is not None
                    and (left_ns := self._left.get((term.claim.incarnation, one.echo_ns))) is not None
                )

    def _is_answer(self, one: Said, term: Term) -> bool:
        from_backup = one.incarnation == term.backup if term.backup else one.sender != self.host
        return (
            isinstance(one.body, Answer)
            and one.receiver == self.host
            and one.arrived_ns is not None
            and one.generation == term.claim.generation
            and from_backup
        )

    @property
    def acknowledgements(self) -> int:
        """How many answers acknowledged something new."""
        return sum(map(len, self._stored.values()))

    def term(self, at_ns: int) -> Term | None:
        """The term that a time lies in; None: the node had not claimed the VM."""
        return next((term for term in reversed(self.terms) if term.since_ns <= at_ns), None)

    def acknowledged(self, term: Term, at_ns: int) -> tuple[int, Said] | None:
        """How far the backup held the log by what had arrived then."""
        return self._stored[term.claim.generation, term.backup].at(at_ns)

    def acknowledgement_of(self, term: Term, position: int) -> tuple[int, Said] | None:
        """When the answer arrived that first covered a position; None: never."""
        return self._stored[term.claim.generation, term.backup].first(position)

    def last_answer_ns(self, term: Term, at_ns: int) -> int | None:
        """When the last answer of any kind had arrived by then."""
        answered = self._answered[term.claim.generation, term.backup]
        place = bisect.bisect_right(answered, at_ns)
        return answered[place - 1] if place else None

    def lease_from(self, term: Term, at_ns: int) -> tuple[int, Said] | None:
        """When the newest message left that an answer, arrived by then, echoes; None: there was no answer."""
        return self._echoed[term.claim.generation, term.backup].at(at_ns)


def _terms(evidence: EvidenceDirectory, host: str) -> Iterable[Term]:
    claims = evidence.ownership.of(host)
    commits: dict[tuple[int, str], list[tuple[int, str | None, int]]] = defaultdict(list)
    partners = {
        (one.receiver, one.generation, one.session): one.incarnation
        for one in evidence.wire.messages
        if isinstance(one.body, Welcome)
    }
    for one in evidence.wire.messages:
        at_ns = one.left_ns if one.left_ns is not None else one.arrived_ns
        if isinstance(one.body, Commit) and one.sender == host and at_ns is not None:
            backup = partners.get((host, one.generation, one.session))
            commits[one.generation, one.incarnation].append((at_ns, backup, one.body.position))
    for claim in claims:
        yield Term(claim, claim.earliest_ns, Standing.ALONE)
        for at_ns, backup, position in sorted(commits[claim.generation, claim.incarnation], key=lambda each: each[0]):
            yield Term(claim, max(at_ns, claim.earliest_ns), Standing.PROTECTED, backup, position)


@dataclass(frozen=True)
class Inheritance:
    """What a survivor knew of the released mark R when it went live.

    Attributes:
        certain: R of the newest message that it answered to. What it re-issues lies past it.
        possible: the highest R that had arrived by its claim. It must not leave out anything past that.
        source: the message that `certain` rests on.
    """

    certain: int
    possible: int
    source: Said | None


def inheritance(evidence: EvidenceDirectory, host: str) -> Inheritance | None:
    """What a host inherited; None when it was the first owner, and inherited nothing."""
    claims = evidence.ownership.claims
    own = evidence.ownership.of(host)
    if not own or (claims and claims[0].host == host):
        return None
    first = own[0]
    told = [
        (one, one.body.released)
        for one in evidence.wire.messages
        if isinstance(one.body, Marked)
        and one.receiver == host
        and one.arrived_ns is not None
        and one.arrived_ns <= first.latest_ns
    ]
    # It answers each message that it takes, and echoes its stamp: what it took is what it echoed.
    echoed = {
        one.echo_ns
        for one in evidence.wire.messages
        if one.sender == host and one.incarnation == first.incarnation and isinstance(one.body, Answer)
    }
    certain, source = 0, None
    for one, released in told:
        if one.stamp_ns in echoed and released >= certain:
            certain, source = released, one
    return Inheritance(certain, max((released for _, released in told), default=0), source)
