"""The clocks of all hosts of a run: from a stamp of a host's to this machine's clocks, as bounds.

The model, of one boot of one host: between two jumps the host's clock gains or loses at most `DRIFT_PPM`, so a sample
bounds the offset of the two clocks at its own time by the width of its exchange, and at any other time by that and the
drift since. A jump lies where a pause was seen, or where no such drift explains two neighbouring samples; an event near
it may lie on either side, and its bounds then span both.
"""

from __future__ import annotations

import bisect
import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from harness.evidence.client import ConnectionEvent, History, Ticks
from harness.evidence.clocks import ClockPair, ClockRecord, Clocks, ClockSample, Pair, Pause
from harness.evidence.json_lines import EvidenceError
from harness.evidence.trace import Event, Trace

# The kernel disciplines a clock by at most 500 ppm (`adjtimex`), and crystals are ten times better. A clock that is
# worse looks like one that jumps between any two samples, which costs certainty and not truth.
DRIFT_PPM = 500
# Within a boot, CLOCK_REALTIME and CLOCK_BOOTTIME keep their distance to the nanosecond; the scheduler can part the two
# readings of a pair, and two boots lie further apart than this, for a boot takes longer.
FIT_NS_MAX = 1_000_000_000
CLIENT_HOST = "client"


def drift_ns(duration_ns: int) -> int:
    """How far two clocks can drift apart in a time."""
    return -(-abs(duration_ns) * DRIFT_PPM // 1_000_000)


@dataclass(frozen=True)
class Instant:
    """A stamp of a host on this machine's CLOCK_BOOTTIME: the truth lies within `uncertainty_ns` on either side."""

    monotonic_ns: int
    uncertainty_ns: int


@dataclass(frozen=True)
class _Anchor:
    """Bounds of the offset (this machine's clock less the host's) at one time of the host."""

    host_ns: int
    low_ns: int
    high_ns: int

    def at(self, host_ns: int) -> _Anchor:
        """What this anchor says of another time of the same segment."""
        drift = drift_ns(host_ns - self.host_ns)
        return _Anchor(host_ns, self.low_ns - drift, self.high_ns + drift)

    def within(self, other: _Anchor) -> _Anchor:
        """What both say."""
        return _Anchor(self.host_ns, max(self.low_ns, other.low_ns), min(self.high_ns, other.high_ns))

    @property
    def is_possible(self) -> bool:
        return self.low_ns <= self.high_ns


class _Segment:
    """A stretch without a jump, and its samples in order of time."""

    def __init__(self, anchors: Sequence[_Anchor]) -> None:
        # Each sample has its say on all others, so that a wide one between two tight ones does no harm.
        forward = itertools.accumulate(anchors, lambda before, one: one.within(before.at(one.host_ns)))
        backward = itertools.accumulate(reversed(list(forward)), lambda after, one: one.within(after.at(one.host_ns)))
        self.anchors = list(backward)[::-1]
        self._times_ns = [anchor.host_ns for anchor in self.anchors]

    def bounds(self, host_ns: int) -> tuple[int, int]:
        """The earliest and the latest time of this machine."""
        at = bisect.bisect_right(self._times_ns, host_ns)
        neighbours = [anchor.at(host_ns) for anchor in self.anchors[max(0, at - 1) : at + 1]]
        return host_ns + max(one.low_ns for one in neighbours), host_ns + min(one.high_ns for one in neighbours)


class _Jump:
    """The time around a jump, from which on the host may be past it, until which it may be before it (host's time).

    Args:
        before: what was sampled before it.
        after: what was sampled after it, None for nothing.
        stop: between which times of this machine the host's clock stopped.
        resume: between which it ran on.
        is_one: False when it ran on and stopped again within this time, so that stamps may lie in between.
    """

    def __init__(
        self, before: _Segment, after: _Segment | None, stop: tuple[int, int], resume: tuple[int, int], *, is_one: bool
    ) -> None:
        self._sides: list[_Segment] = [before] if after is None else [before, after]
        # Where the host may have been awake in between, of which no sample tells anything.
        self._between: list[tuple[int, int]] = [] if is_one else [(stop[0], resume[1])]
        left = before.anchors[-1]
        slack = drift_ns(resume[1] - (left.host_ns + left.low_ns))
        stop_low_ns, stop_high_ns = stop[0] - left.high_ns - slack, stop[1] - left.low_ns + slack
        if after is None:
            # Nothing was sampled behind it, so nobody knows when it is over.
            self.start_ns = self.end_ns = max(stop_low_ns, left.host_ns + 1)
            return
        right = after.anchors[0]
        resume_high_ns = resume[1] - right.low_ns + slack
        start_ns, end_ns = stop_low_ns, resume_high_ns
        if is_one:
            # It stopped before it ran on, by its own clock too: each bound on the one is a bound on the other.
            past_ns = max(stop_low_ns, resume[0] - right.high_ns - slack)
            until_ns = min(stop_high_ns, resume_high_ns)
            # Past before until: both may be. Until before past: the clock went ahead, and no event has such a time.
            start_ns, end_ns = sorted((past_ns, until_ns))
            if until_ns < past_ns:
                self._sides, self._between = [], [(stop[0], resume[1])]
        self.start_ns = min(max(start_ns, left.host_ns + 1), right.host_ns)
        self.end_ns = min(max(end_ns, left.host_ns + 1), right.host_ns)

    def bounds(self, host_ns: int) -> tuple[int, int]:
        """The earliest and the latest time of this machine, on whichever side of the jump."""
        possible = [side.bounds(host_ns) for side in self._sides] + self._between
        return min(earliest_ns for earliest_ns, _ in possible), max(latest_ns for _, latest_ns in possible)


class HostClock:
    """Maps the stamps of one boot of one host.

    Args:
        samples: all samples of this boot, at least one.
        pauses: all pauses of this host.
        end_ns: this machine's CLOCK_BOOTTIME when nothing was recorded any more.
    """

    def __init__(self, samples: Sequence[ClockSample], pauses: Sequence[Pause], *, end_ns: int) -> None:
        samples = sorted(samples, key=lambda sample: (sample.boottime_ns, sample.before_ns))
        segments, jumps = _split(samples, [pause for pause in pauses if pause.resume_after_ns is not None], end_ns)
        self._pieces: list[_Segment | _Jump] = [segments[0]]
        self._starts_ns: list[int] = []
        for jump, after in itertools.zip_longest(jumps, segments[1:]):
            self._pieces.append(jump)
            self._starts_ns.append(jump.start_ns)
            if after is not None:
                self._pieces.append(after)
                self._starts_ns.append(jump.end_ns)

    def bounds(self, host_ns: int) -> tuple[int, int]:
        """The earliest and the latest time of this machine at which the host can have stamped this."""
        return self._pieces[bisect.bisect_right(self._starts_ns, host_ns)].bounds(host_ns)

    def locate(self, stamps_ns: Iterable[int]) -> dict[int, Instant]:
        """Where each stamp lies. A later stamp is never put before an earlier one, at whatever cost of certainty."""
        instants = {}
        reached_ns = 0
        for host_ns in sorted(set(stamps_ns)):
            earliest_ns, latest_ns = self.bounds(host_ns)
            reached_ns = max(reached_ns, (earliest_ns + latest_ns) // 2)
            instants[host_ns] = Instant(reached_ns, max(latest_ns - reached_ns, reached_ns - earliest_ns))
        return instants


def _split(samples: Sequence[ClockSample], pauses: Sequence[Pause], end_ns: int) -> tuple[list[_Segment], list[_Jump]]:
    """The stretches without a jump, and the jump after each; the last stretch may have one too."""
    groups: list[list[_Anchor]] = []
    gaps: list[tuple[ClockSample, ClockSample, list[Pause]]] = []
    reached: _Anchor | None = None
    for number, sample in enumerate(samples):
        offsets = sample.before_ns - sample.boottime_ns, sample.after_ns - sample.boottime_ns
        anchor = _Anchor(sample.boottime_ns, *offsets)
        if reached is not None:
            previous = samples[number - 1]
            within = [one for one in pauses if _lies_between(one, previous, sample)]
            reached = anchor.within(reached.at(anchor.host_ns))
            if within or not reached.is_possible:
                gaps.append((previous, sample, within))
                reached = None
        if reached is None:
            groups.append([])
            reached = anchor
        groups[-1].append(anchor)
    segments = [_Segment(group) for group in groups]
    jumps = [
        _Jump(before, after, *_windows(within, previous.before_ns, sample.after_ns), is_one=len(within) < 2)
        for before, after, (previous, sample, within) in zip(segments, segments[1:], gaps, strict=False)
    ]
    last = samples[-1]
    rest = [pause for pause in pauses if pause.stop_after_ns >= last.before_ns]
    if rest:
        (stop, resume) = _windows(rest, last.before_ns, end_ns)
        jumps.append(_Jump(segments[-1], None, stop, (resume[0], end_ns), is_one=False))
    return segments, jumps


def _lies_between(pause: Pause, before: ClockSample, after: ClockSample) -> bool:
    resumed_ns = pause.resume_before_ns or pause.stop_before_ns
    return before.before_ns <= pause.stop_after_ns and resumed_ns <= after.after_ns


def _windows(pauses: Sequence[Pause], from_ns: int, to_ns: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """When the clock stopped first and when it ran on last; anywhere within the gap when nobody saw it."""
    if not pauses:
        return (from_ns, to_ns), (from_ns, to_ns)
    first, last = min(pauses, key=lambda one: one.stop_after_ns), max(pauses, key=lambda one: one.stop_after_ns)
    return (first.stop_after_ns, first.stop_before_ns), (
        last.resume_after_ns or from_ns,
        last.resume_before_ns or to_ns,
    )


@dataclass(frozen=True)
class _Boot:
    clock: HostClock
    pairs_ns: list[int]

    def misfit_ns(self, pairs: Iterable[Pair]) -> int:
        """How far the best of some pairs is from what was sampled; the clock may have been stepped for the others."""
        return min(map(self._distance_ns, {pair.wall_ns - pair.monotonic_ns for pair in pairs}))

    def _distance_ns(self, pair_ns: int) -> int:
        at = bisect.bisect_left(self.pairs_ns, pair_ns)
        return min(abs(pair_ns - sampled_ns) for sampled_ns in self.pairs_ns[max(0, at - 1) : at + 1])


class HostClocks:
    """All that `clocks.json` tells.

    Args:
        record: the file.
        uncertainty_ns_max: makes every stamp out to be at least so certain, for those who ask what hangs on the doubt.
    """

    def __init__(self, record: ClockRecord, *, uncertainty_ns_max: int | None = None) -> None:
        machine = Clocks.learn(record.machine)
        if machine is None:
            raise EvidenceError("clocks.json has no pair of this machine's clocks")
        self.machine = machine
        self._uncertainty_ns_max = uncertainty_ns_max
        samples: dict[str, dict[str, list[ClockSample]]] = defaultdict(lambda: defaultdict(list))
        for sample in record.samples:
            samples[sample.host][sample.boot_id].append(sample)
        end_ns = max(pair.monotonic_ns for pair in record.machine)
        self._boots: dict[str, list[_Boot]] = {}
        for host, boots in samples.items():
            pauses = [pause for pause in record.pauses if pause.host == host]
            self._boots[host] = [
                _Boot(HostClock(of_boot, pauses, end_ns=end_ns), sorted({one.pair_ns for one in of_boot}))
                for of_boot in boots.values()
            ]

    def of(self, host: str, pairs: Iterable[Pair]) -> HostClock:
        """The clock of the boot that some stamps of one process belong to. Raises `EvidenceError` when none fits."""
        pairs = list(pairs)
        fits = [(boot.misfit_ns(pairs), boot.clock) for boot in self._boots.get(host, []) if pairs]
        misfit_ns, clock = min(fits, key=lambda fit: fit[0], default=(FIT_NS_MAX, None))
        if clock is None:
            raise EvidenceError(f"clocks.json has no sample of {host}")
        if misfit_ns >= FIT_NS_MAX:
            raise EvidenceError(f"stamps of {host} are {misfit_ns / 1e9:.1f} s from every boot that was sampled")
        return clock

    def locate(self, clock: HostClock, stamps_ns: Iterable[int]) -> dict[int, Instant]:
        """Where stamps of a boot lie on this machine's CLOCK_BOOTTIME, by stamp."""
        instants = clock.locate(stamps_ns)
        most_ns = self._uncertainty_ns_max
        if most_ns is None:
            return instants
        return {at: Instant(one.monotonic_ns, min(one.uncertainty_ns, most_ns)) for at, one in instants.items()}


def map_trace(trace: Trace, clocks: HostClocks) -> Trace:
    """A trace on this machine's clocks. Raises `EvidenceError` when a process fits no boot that was sampled."""
    # A process lives within one boot, so all that it wrote tells which.
    processes: dict[str, list[Event]] = defaultdict(list)
    for event in trace.events:
        processes[event.incarnation].append(event)
    boots = {incarnation: clocks.of(trace.host, events) for incarnation, events in processes.items()}
    stamps_ns: dict[HostClock, list[int]] = defaultdict(list)
    for incarnation, events in processes.items():
        stamps_ns[boots[incarnation]] += [event.monotonic_ns for event in events]
    instants = {clock: clocks.locate(clock, stamps) for clock, stamps in stamps_ns.items()}
    mapped = []
    for event in trace.events:
        at = instants[boots[event.incarnation]][event.monotonic_ns]
        wall_ns = clocks.machine.to_wall_ns(at.monotonic_ns)
        mapped.append(replace(event, monotonic_ns=at.monotonic_ns, wall_ns=wall_ns, uncertainty_ns=at.uncertainty_ns))
    return replace(trace, events=mapped)


class ClientMapping:
    """Maps what the client wrote.

    Args:
        clocks: all hosts' clocks.
        pairs: the pairs of clocks that the client's process wrote, which tell its boot.
    """

    def __init__(self, clocks: HostClocks, pairs: Iterable[Pair]) -> None:
        self._clocks = clocks
        self._clock: HostClock = clocks.of(CLIENT_HOST, pairs)

    def locate(self, stamps_ns: Iterable[int]) -> dict[int, Instant]:
        """Where the client's stamps lie on this machine's CLOCK_BOOTTIME, by stamp."""
        return self._clocks.locate(self._clock, stamps_ns)

    def _pairs(self, pairs: Sequence[ClockPair]) -> list[ClockPair]:
        """The pairs of clocks with which the client's files begin and end, as this machine's."""
        at = self.locate(pair.monotonic_ns for pair in pairs)
        stamps_ns = [at[pair.monotonic_ns].monotonic_ns for pair in pairs]
        return [ClockPair(stamp_ns, self._clocks.machine.to_wall_ns(stamp_ns)) for stamp_ns in stamps_ns]

    def history(self, history: History) -> History:
        """The history, in its order."""
        stamps_ns = [one.call_ns for one in history.operations] + [stray.at_ns for stray in history.stray_replies]
        at = self.locate(stamps_ns + [one.return_ns for one in history.operations if one.return_ns is not None])
        operations = []
        for one in history.operations:
            called = at[one.call_ns]
            returned = None if one.return_ns is None else at[one.return_ns]
            operations.append(
                replace(
                    one,
                    call_ns=called.monotonic_ns,
                    return_ns=None if returned is None else returned.monotonic_ns,
                    uncertainty_ns=max(called.uncertainty_ns, returned.uncertainty_ns if returned else 0),
                )
            )
        strays = [replace(stray, at_ns=at[stray.at_ns].monotonic_ns) for stray in history.stray_replies]
        return replace(history, operations=operations, stray_replies=strays, clocks=self._pairs(history.clocks))

    def connections(self, events: Sequence[ConnectionEvent]) -> list[ConnectionEvent]:
        """What happened to the connections."""
        at = self.locate(stamp_ns for event in events for stamp_ns in (event.asked_ns, event.at_ns))
        return [
            replace(
                event,
                at_ns=at[event.at_ns].monotonic_ns,
                asked_ns=at[event.asked_ns].monotonic_ns,
                uncertainty_ns=at[event.at_ns].uncertainty_ns,
            )
            for event in events
        ]

    def ticks(self, ticks: Ticks) -> Ticks:
        """The ticker's datagrams; the guest's own stamps stay the guest's."""
        at = self.locate(tick.arrived_ns for tick in ticks.ticks)
        mapped = [
            replace(
                tick, arrived_ns=at[tick.arrived_ns].monotonic_ns, uncertainty_ns=at[tick.arrived_ns].uncertainty_ns
            )
            for tick in ticks.ticks
        ]
        return replace(ticks, ticks=mapped, clocks=self._pairs(ticks.clocks))
