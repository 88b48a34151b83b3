"""Which output of the replay each frame, block write and console chunk was: in order, and each once.

What a host says is laid beside what the offline replay of its log produced. Whatever was not the next output of its
device is told apart: said again, said too early, something else, or nothing that the VM ever said.
"""

from __future__ import annotations

import bisect
import enum
import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from harness.evidence.capture import Direction, Frame
from harness.evidence.digest import digest
from harness.evidence.directory import EvidenceDirectory
from harness.evidence.replay import Replay, ReplayedOutput
from harness.evidence.wire.storage import StorageWrite
from harness.lab.topology import CLIENT
from harness.oracles.protection import inheritance

REORDERING = "packet-reordering"
_ANY_CONTENT = ":"
# Utterances that tell which of two outputs with the same content one is.
_LOOKAHEAD = 8


@dataclass(frozen=True)
class Emission:
    """An output that a host let go. Times are CLOCK_REALTIME.

    Attributes:
        what: names it for a person: network, host, number.
        left_ns: when it left the host; None for the console, which nobody stamps.
        seen_ns: when it was seen to have left, where it is known no better: the console at a look.
        done_ns: when it had happened for good: a block write, when the storage answered; None: it never did.
    """

    host: str
    output: ReplayedOutput
    what: str
    left_ns: int | None
    done_ns: int | None
    seen_ns: int | None = None

    @property
    def latest_ns(self) -> int | None:
        """It had left by then."""
        return self.left_ns if self.left_ns is not None else self.seen_ns


class Oddity(enum.StrEnum):
    """What is wrong with something that a host said."""

    # The same bytes as an output that this host had emitted before.
    REPEATED = "repeated"
    # The same bytes as an output that the host knew to be completed by the other.
    COMPLETED = "completed"
    # It was due before something that this host emitted already.
    DISORDERED = "disordered"
    # Other bytes where the next output was due, and everything else goes on as it should.
    ALTERED = "altered"
    # No output of the replay.
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Odd:
    """Something that a host said and that is not the next output of its device. `output` is the one it stands for."""

    host: str
    oddity: Oddity
    kind: str
    what: str
    at_ns: int | None
    digest: str
    output: ReplayedOutput | None


@dataclass
class Spoken:
    """All that a host's VM said."""

    host: str
    emissions: list[Emission] = field(default_factory=list)
    odd: list[Odd] = field(default_factory=list)
    announcements: list[Frame] = field(default_factory=list)
    foreign: list[Frame] = field(default_factory=list)

    def of(self, kind: str) -> list[Emission]:
        """The emissions of one kind."""
        return [one for one in self.emissions if one.output.kind == kind]


@dataclass(frozen=True)
class _Utterance:
    """One thing said on one device. `key` is what it is told by."""

    key: str
    what: str
    left_ns: int | None
    done_ns: int | None
    digest: str


@lru_cache(maxsize=4)
def said_by(evidence: EvidenceDirectory) -> dict[str, Spoken]:
    """What each host that could speak for the VM said, worked out once a run."""
    said = {}
    for host in evidence.speakers:
        inherited = inheritance(evidence, host)
        said[host] = find_emissions(evidence, host, after=inherited.certain if inherited else 0)
    return said


def find_emissions(evidence: EvidenceDirectory, host: str, *, after: int) -> Spoken:
    """Lay what a host said beside its replay.

    Args:
        evidence: the run's.
        host: whose.
        after: index of the last output that the host knew to be completed; what it says comes after that.
    """
    said = Spoken(host)
    replay = evidence.replays.get(host)
    _match_frames(evidence, said, replay, after)
    _match_writes(evidence, said, replay, after)
    if replay is not None:
        _match_console(evidence, said, replay, after)
    said.emissions.sort(key=lambda one: one.output.index)
    return said


def _match_frames(evidence: EvidenceDirectory, said: Spoken, replay: Replay | None, after: int) -> None:
    source = bytes.fromhex(evidence.scenario.mac.replace(":", ""))
    outputs = [one for one in replay.outputs if one.kind == "frame"] if replay else []
    produced = {one.digest for one in outputs}
    utterances = []
    for frame in evidence.frames(CLIENT, said.host, Direction.SENT):
        if frame.source != source:
            said.foreign.append(frame)
        elif frame.is_announcement and frame.digest not in produced:
            said.announcements.append(frame)
        else:
            utterances.append(_Utterance(frame.digest, f"{frame}", frame.wall_ns, frame.wall_ns, frame.digest))

    def overtakes(at_ns: int | None) -> bool:
        if at_ns is None:
            return False
        found = evidence.disturbances.network(said.host, CLIENT, at_ns, at_ns)
        return found is not None and found.fault == REORDERING

    def may_lose(since_ns: int | None, until_ns: int | None) -> bool:
        if since_ns is None or until_ns is None:
            return False
        return evidence.disturbances.network(said.host, CLIENT, since_ns, until_ns) is not None

    # One port carries all network devices; a device's frames keep their order, and so do all outputs.
    _align(said, "frame", utterances, [(one.digest, one) for one in outputs], after, overtakes, may_lose)


def _match_writes(evidence: EvidenceDirectory, said: Spoken, replay: Replay | None, after: int) -> None:
    writes = evidence.storage_writes
    if writes is None:
        return
    outputs = [one for one in replay.outputs if one.kind == "block"] if replay else []
    own = sorted((one for one in writes if one.host == said.host), key=lambda one: one.asked_ns)
    sizes: dict[int | None, set[int]] = defaultdict(set)
    for output in outputs:
        sizes[output.offset].add(output.length)
    utterances = []
    for number, pieces in enumerate(_grouped(own, sizes), 1):
        whole = _whole(pieces)
        what = f"{said.host} block write {number} at offset {whole.offset}"
        is_well = whole.error == 0 and whole.answered_ns is not None
        is_cut_off = not _is_whole(whole, sizes) and (not is_well or pieces[-1] is own[-1])
        key = _block_key(whole.offset, "" if is_cut_off else whole.digest)
        done_ns = whole.answered_ns if is_well and not is_cut_off else None
        utterances.append(_Utterance(key, what, whole.asked_ns, done_ns, whole.digest))
    expected = [(_block_key(one.offset, one.digest), one) for one in outputs]
    _align(said, "block", utterances, expected, after, lambda _: False, lambda *_: True)


def _block_key(offset: int | None, content_digest: str) -> str:
    return f"{offset}{_ANY_CONTENT}{content_digest}"


def _is_whole(write: StorageWrite, sizes: dict[int | None, set[int]]) -> bool:
    """Whether some output has this place and length."""
    return write.length in sizes.get(write.offset, set())


def _grouped(writes: Sequence[StorageWrite], sizes: dict[int | None, set[int]]) -> list[list[StorageWrite]]:
    """The guest's writes, each as the pieces that the host's kernel made of it, in order.

    A piece begins a longer write when no output of its offset has its length and the next pieces follow without a gap.
    One that the storage refuses ends the write; the host may try the rest of it again.
    """
    groups: list[list[StorageWrite]] = []
    at = 0
    while at < len(writes):
        pieces = [writes[at]]
        wanted = sizes.get(writes[at].offset, set())
        reached = writes[at].offset + (0 if writes[at].error else writes[at].length)
        while (following := at + len(pieces)) < len(writes):
            length = reached - pieces[0].offset
            is_next = writes[following].offset == reached and not (pieces[-1].error and following == at + 1)
            if length in wanted or not any(length < size for size in wanted) or not is_next:
                break
            pieces.append(writes[following])
            reached += 0 if writes[following].error else writes[following].length
        is_cut_off = any(piece.error for piece in pieces) or pieces[-1] is writes[-1]
        if len(pieces) > 1 and reached - pieces[0].offset not in wanted and not is_cut_off:
            pieces = pieces[:1]
        groups.append(pieces)
        at += len(pieces)
    return groups


def _whole(pieces: Sequence[StorageWrite]) -> StorageWrite:
    if len(pieces) == 1:
        return pieces[0]
    # What was refused and tried again stands there once.
    parts = {piece.offset: piece.data for piece in pieces}
    data = b"".join(parts.values())
    answers = [piece.answered_ns for piece in pieces]
    answered_ns = max((one for one in answers if one is not None), default=None) if None not in answers else None
    error = next((piece.error for piece in pieces if piece.error), 0)
    first = pieces[0]
    return StorageWrite(first.host, first.offset, len(data), digest(data), data, first.asked_ns, answered_ns, error)


def _match_console(evidence: EvidenceDirectory, said: Spoken, replay: Replay, after: int) -> None:
    """The console is a file: its chunks are told by the lengths of the outputs that are due."""
    content = evidence.console_bytes.get(said.host, b"")
    at = 0
    outputs = [one for one in replay.outputs if one.kind == "console"]
    place = bisect.bisect_right([one.index for one in outputs], after)
    while at < len(content):
        due = outputs[place] if place < len(outputs) else None
        what = f"{said.host} console.log at byte {at}"
        if due is not None and digest(content[at : at + due.length]) == due.digest:
            place += 1
            at += due.length
            said.emissions.append(
                Emission(said.host, due, what, None, None, seen_ns=evidence.looks.printed_ns(said.host, at))
            )
            continue
        fit = _fitting(content, at, outputs)
        if fit is not None and fit >= place:
            place = fit  # chunks in between are missing, which completeness tells
            continue
        if fit is not None:
            known = outputs[fit]
            oddity = Oddity.COMPLETED if known.index <= after else Oddity.REPEATED
            said.odd.append(Odd(said.host, oddity, "console", what, None, known.digest, known))
            at += known.length
            continue
        # Nothing that the VM ever said: up to where the next output that is due begins again.
        end = _resume(content, at, outputs[place:])
        rest = content[at:end]
        oddity = Oddity.ALTERED if due is not None else Oddity.UNKNOWN
        said.odd.append(Odd(said.host, oddity, "console", f"{what}: {rest[:60]!r}", None, digest(rest), due))
        at = end
        place += due is not None


def _fitting(content: bytes, at: int, outputs: Sequence[ReplayedOutput]) -> int | None:
    """The place of an output whose bytes stand here: the longest one, and of those alike the last."""
    digests = {length: digest(content[at : at + length]) for length in {one.length for one in outputs}}
    fits = [(one.length, place) for place, one in enumerate(outputs) if digests[one.length] == one.digest]
    return max(fits)[1] if fits else None


def _resume(content: bytes, at: int, outputs: Sequence[ReplayedOutput]) -> int:
    wanted = {(one.length, one.digest) for one in outputs[:8]}
    for start in range(at + 1, len(content)):
        if any(digest(content[start : start + length]) == known for length, known in wanted):
            return start
    return len(content)


def _align(
    said: Spoken,
    kind: str,
    utterances: Sequence[_Utterance],
    outputs: Sequence[tuple[str, ReplayedOutput]],
    after: int,
    overtakes: Callable[[int | None], bool],
    may_lose: Callable[[int | None, int | None], bool],
) -> None:
    """Give each utterance the next output that it can be.

    Outputs may be left out: a cable may have been out, and completeness asks for them. TCP says a segment again byte
    for byte: of several outputs that an utterance can be, it is the one that is due, or else the first one that the
    next utterance goes on from. It is not the one that is due where the next utterance goes on from another and nothing
    was lost between the two. It is a later one and not an old one only if what follows goes on for longer there than
    from the output that is due.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for place, (key, _) in enumerate(outputs):
        places[key].append(place)
    first = due = bisect.bisect_right([one.index for _, one in outputs], after)
    skipped: set[int] = set()
    for number, one in enumerate(utterances):
        known = places.get(one.key, [])
        if one.key.endswith(_ANY_CONTENT):
            # A write that was cut off: its place alone tells which it was.
            known = [place for place, (key, _) in enumerate(outputs) if key.startswith(one.key)]
        behind, ahead = [place for place in known if place < due], [place for place in known if place >= due]
        rest = [each.key for each in utterances[number + 1 : number + 1 + _LOOKAHEAD]]
        found = ahead[0] if ahead else None
        until_ns = utterances[number + 1].left_ns if rest else None
        if len(ahead) > 1 and (found != due or not may_lose(one.left_ns, until_ns)):
            found = next((place for place in ahead if _agreement(outputs, place + 1, rest[:1])), found)
        if found != due:
            late = next((place for place in behind if place in skipped), None)
            if late is not None:
                skipped.discard(late)
                output = outputs[late][1]
                said.emissions.append(_emission(said, one, output))
                if not overtakes(one.left_ns):
                    said.odd.append(Odd(said.host, Oddity.DISORDERED, kind, one.what, None, one.digest, output))
                continue
            if found is not None and behind:
                goes_on = _agreement(outputs, found + 1, rest) > _agreement(outputs, due, rest)
                found = found if goes_on else None
        if found is None:
            said.odd.append(_odd(said, kind, one, outputs, due, first, behind, rest[0] if rest else None))
            if said.odd[-1].oddity is Oddity.ALTERED:
                due += 1
            continue
        skipped.update(range(due, found))
        said.emissions.append(_emission(said, one, outputs[found][1]))
        due = found + 1


def _agreement(outputs: Sequence[tuple[str, ReplayedOutput]], place: int, keys: Sequence[str]) -> int:
    """How many utterances are, one after the other, the outputs from a place on."""
    pairs = zip(keys, (key for key, _ in outputs[place : place + len(keys)]), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _emission(said: Spoken, one: _Utterance, output: ReplayedOutput) -> Emission:
    return Emission(said.host, output, one.what, one.left_ns, one.done_ns)


def _odd(
    said: Spoken,
    kind: str,
    one: _Utterance,
    outputs: Sequence[tuple[str, ReplayedOutput]],
    due: int,
    first: int,
    behind: Sequence[int],
    following: str | None,
) -> Odd:
    if behind:
        place = behind[-1]
        oddity = Oddity.COMPLETED if place < first else Oddity.REPEATED
        return Odd(said.host, oddity, kind, one.what, one.left_ns, one.digest, outputs[place][1])
    replaced = due < len(outputs) and (
        following is None or (due + 1 < len(outputs) and outputs[due + 1][0] == following)
    )
    oddity = Oddity.ALTERED if replaced else Oddity.UNKNOWN
    expected = outputs[due][1] if due < len(outputs) else None
    return Odd(said.host, oddity, kind, one.what, one.left_ns, one.digest, expected)
