"""Guest time: what the guest was told of the time never goes back, and runs no further than real time does.

The answers to its looks at the counter and at the wall clock stand in the log. A look had been answered when its entry
left for the backup, or when an output left that came after it. So *real time less guest time* can be bounded for each
look; in an honest VM the bound stands still, but for delays on the way to the wire, which only raise it. A leap of the
guest's clock lowers it for good. At a go-live it may rise: the guest sees a pause, the stall included, not a leap.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass

from harness.evidence.directory import EvidenceDirectory
from harness.evidence.host_clocks import drift_ns
from harness.evidence.scenario import Scenario
from harness.evidence.verdicts import Finding, Judgement, Verdict
from harness.evidence.wire.messages import Entries, LogEntry
from harness.oracles.emissions import said_by
from harness.oracles.wording import after_start

NAME = "guest-time"
PROMISE = "transparent-failover"
# Kinds of answers (docs/wire.md).
_WALLTIME, _COUNTER, _COUNTER_WITH_AUX = 1, 6, 7
_CLOCKS = {"wall clock": (_WALLTIME,), "counter": (_COUNTER, _COUNTER_WITH_AUX)}
# The first looks may all have been slow to come to the wire: before so many the bound says too little.
_LOOKS_BEFORE_MIN = 50
# Host clocks drift by tens of ppm, and a pair of stamps on two processors differs by microseconds.
LEAP_MS_MAX = 3.0
# Among so many looks of such a stretch one came to the wire without delay; the delays of two stretches differ by less.
_STRETCH_NS, _LOOKS_MIN = 200_000_000, 20
FAST_MS_MAX = 5.0


@dataclass(frozen=True)
class Look:
    """One look at one of the guest's clocks. `by_ns`: when it had certainly been answered, CLOCK_REALTIME."""

    host: str
    position: int
    told_ns: int
    by_ns: int | None


def applies(scenario: Scenario) -> bool:
    """Always."""
    return True


def judge(evidence: EvidenceDirectory) -> Judgement:
    """Judge both of the guest's clocks over the whole history that the world saw."""
    findings: list[Finding] = []
    counted: dict[str, object] = {}
    for name, kinds in _CLOCKS.items():
        looks = _looks(evidence, kinds)
        counted[f"looks at the {name}"] = len(looks)
        findings += _judge_back(evidence, name, looks)
        if name == "wall clock" and not _shares_clock(evidence):
            continue  # the hosts' own wall clocks differ, and faults step them
        findings += _judge_leaps(evidence, name, looks)
        findings += _judge_rate(evidence, name, looks)
    if not any(counted.values()):
        findings.append(Finding("no-looks", "the guest never looked at a clock", Verdict.INSUFFICIENT))
    return Judgement.of(NAME, findings, counted)


def _shares_clock(evidence: EvidenceDirectory) -> bool:
    return evidence.host_clocks is None and not any(fault.fault == "clock-step" for fault in evidence.faults)


def _looks(evidence: EvidenceDirectory, kinds: tuple[int, ...]) -> list[Look]:
    """The looks in the order of the guest's history: each owner's up to where the next one answered by itself."""
    looks: list[Look] = []
    # A host may have had the VM several times, in a process of its own each time.
    owners = {claim.incarnation: claim.host for claim in evidence.ownership.claims if claim.host in evidence.replays}
    lives = [(host, _own_entries(evidence, host, incarnation)) for incarnation, host in owners.items()]
    for number, (host, (entries, _)) in enumerate(lives):
        end = lives[number + 1][1][1] if number + 1 < len(lives) else None
        left = _left(evidence, host)
        for entry in entries:
            if entry.kind in kinds and (end is None or entry.position < end):
                told_ns = int.from_bytes(entry.answer[:8], "little")
                looks.append(Look(host, entry.position, told_ns, left.by(entry.position)))
    return looks


def _own_entries(evidence: EvidenceDirectory, host: str, incarnation: str) -> tuple[list[LogEntry], int | None]:
    """The entries that a process answered by itself, by position; the first of those that it recorded."""
    recorded = [entry for one in evidence.recordings if one.incarnation == incarnation for entry in one.entries]
    sent = evidence.wire.entries_sent(host, incarnation)
    entries = {**sent, **{entry.position: entry for entry in recorded}}
    return [entries[position] for position in sorted(entries)], recorded[0].position if recorded else None


class _Left:
    """By when an entry had been answered: it had left the host, or something had that came after it."""

    def __init__(self, steps: list[tuple[int, int]]) -> None:
        """`steps`: position, and a time by which it was answered."""
        steps.sort()
        self._positions = [position for position, _ in steps]
        self._times: list[int] = []
        earliest: int | None = None
        for _, at_ns in reversed(steps):
            earliest = at_ns if earliest is None else min(earliest, at_ns)
            self._times.append(earliest)
        self._times.reverse()

    def by(self, position: int) -> int | None:
        place = bisect.bisect_left(self._positions, position)
        return self._times[place] if place < len(self._times) else None


def _left(evidence: EvidenceDirectory, host: str) -> _Left:
    steps = [
        (one.body.through, one.left_ns)
        for one in evidence.wire.messages
        if one.sender == host and one.left_ns is not None and isinstance(one.body, Entries)
    ]
    said = said_by(evidence).get(host)
    if said is not None:
        steps += [(one.output.depends_on, one.left_ns) for one in said.emissions if one.left_ns is not None]
    return _Left(steps)


def _judge_back(evidence: EvidenceDirectory, name: str, looks: list[Look]) -> Iterator[Finding]:
    newest: Look | None = None
    for look in looks:
        if newest is not None and look.told_ns < newest.told_ns:
            message = (
                f"the {name} goes back by {(newest.told_ns - look.told_ns) / 1e6:.3f} ms: "
                f"{_name(evidence, newest)}, then {_name(evidence, look)}"
            )
            yield Finding("guest-time-back", message, at_ns=evidence.to_boot_ns(look.by_ns), position=look.position)
        if newest is None or look.told_ns > newest.told_ns:
            newest = look


def _judge_leaps(evidence: EvidenceDirectory, name: str, looks: list[Look]) -> Iterator[Finding]:
    """Against the least bound so far, which is the truth but for the quickest way to the wire."""
    slack_ns = int(LEAP_MS_MAX * evidence.scenario.time_scale * 1e6)
    # Where the hosts share this machine's wall clock, the guest's own is never ahead of it.
    least: tuple[int, Look] | None = (0, looks[0]) if name == "wall clock" and looks else None
    known = _LOOKS_BEFORE_MIN if least is None else 0
    timed = [look for look in looks if look.by_ns is not None]
    for number, look in enumerate(timed):
        assert look.by_ns is not None
        behind_ns = look.by_ns - look.told_ns
        if least is not None and number >= known and behind_ns < least[0] - slack_ns:
            message = (
                f"the {name} leaps ahead of real time by {(least[0] - behind_ns) / 1e6:.3f} ms: "
                f"{_name(evidence, look)}, after {_name(evidence, least[1])}"
            )
            yield Finding("guest-time-leaps", message, at_ns=evidence.to_boot_ns(look.by_ns), position=look.position)
        if least is None or behind_ns < least[0]:
            least = behind_ns, look


@dataclass(frozen=True)
class _Stretch:
    """Looks of some time, and the one of them that came to the wire the quickest."""

    since_ns: int
    behind_ns: int
    quickest: Look


def _stretches(looks: list[Look]) -> list[_Stretch]:
    """Stretches with looks enough that one of them came to the wire without delay."""
    stretches: list[_Stretch] = []
    current: list[tuple[int, int, Look]] = []
    for look in looks:
        if look.by_ns is None:
            continue
        current.append((look.by_ns - look.told_ns, look.by_ns, look))
        if look.by_ns - current[0][1] >= _STRETCH_NS and len(current) >= _LOOKS_MIN:
            behind_ns, _, quickest = min(current, key=lambda each: each[0])
            stretches.append(_Stretch(current[0][1], behind_ns, quickest))
            current = []
    return stretches


def _judge_rate(evidence: EvidenceDirectory, name: str, looks: list[Look]) -> Iterator[Finding]:
    """Over longer times: a clock that runs too fast, and one that stands still for longer than a stall may last."""
    stretches = _stretches(looks)
    if not stretches:
        return
    first, bound_ms = stretches[0], evidence.scenario.stall_ms_max
    slack_ns = int(FAST_MS_MAX * evidence.scenario.time_scale * 1e6)
    for one in stretches[1:]:
        passed_ns = one.since_ns - first.since_ns
        at_ns, position = evidence.to_boot_ns(one.quickest.by_ns), one.quickest.position
        gained_ns = first.behind_ns - one.behind_ns
        if gained_ns > slack_ns + drift_ns(passed_ns):
            message = (
                f"the {name} gained {gained_ns / 1e6:.3f} ms on real time within {passed_ns / 1e9:.1f} s: "
                f"{_name(evidence, first.quickest)}, and {_name(evidence, one.quickest)}"
            )
            yield Finding("guest-time-fast", message, at_ns=at_ns, position=position)
            return
        if -gained_ns > bound_ms * 1e6:
            message = (
                f"the {name} lost {-gained_ns / 1e6:.0f} ms of real time, a stall may last {bound_ms:g} ms: "
                f"{_name(evidence, first.quickest)}, and {_name(evidence, one.quickest)}"
            )
            yield Finding("guest-time-stands", message, at_ns=at_ns, position=position)
            return


def _name(evidence: EvidenceDirectory, look: Look) -> str:
    return (
        f"entry {look.position} of {look.host} says {look.told_ns} ns"
        f"{after_start(evidence, look.by_ns) if look.by_ns is not None else ''}"
    )
