"""The bounds of a mapped stamp hold whatever a host's clock does: the true time always lies within them."""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.evidence.clocks import ClockPair, ClockRecord, ClockSample, Pause
from harness.evidence.host_clocks import DRIFT_PPM, HostClock, HostClocks, Instant, drift_ns
from harness.evidence.json_lines import EvidenceError

MILLISECOND_NS = 1_000_000
SECOND_NS = 1_000_000_000
HOUR_NS = 3600 * SECOND_NS
START_NS = 100 * HOUR_NS


@dataclass(frozen=True)
class Stretch:
    """A time for which the host's clock runs at one rate, and how far it then leaps while the host stands still."""

    duration_ns: int
    drift_ppm: int
    standstill_ns: int
    leap_ns: int


class TrueClock:
    """What the host's clock really does: the knots of a line from this machine's time to the host's."""

    def __init__(self, start_ns: int, stretches: list[Stretch]) -> None:
        self.knots = [(START_NS, start_ns)]
        self.pauses: list[Pause] = []
        # From when to when a host is there to be asked and to stamp.
        self.awake: list[tuple[int, int]] = []
        for stretch in stretches:
            machine_ns, host_ns = self.knots[-1]
            self.awake.append((machine_ns, machine_ns + stretch.duration_ns))
            machine_ns += stretch.duration_ns
            host_ns += stretch.duration_ns + stretch.duration_ns * stretch.drift_ppm // 1_000_000
            self.knots.append((machine_ns, host_ns))
            stop_ns = machine_ns
            machine_ns += stretch.standstill_ns
            self.knots.append((machine_ns, host_ns + stretch.leap_ns))
            slack_ns = 5 * MILLISECOND_NS
            self.pauses.append(
                Pause("host-a", stop_ns - slack_ns, stop_ns + slack_ns, machine_ns - slack_ns, machine_ns + slack_ns)
            )

    def host_ns(self, machine_ns: int) -> int:
        at = max(1, bisect.bisect_right([knot[0] for knot in self.knots], machine_ns))
        at = min(at, len(self.knots) - 1)
        (machine_from, host_from), (machine_to, host_to) = self.knots[at - 1], self.knots[at]
        return host_from + (machine_ns - machine_from) * (host_to - host_from) // max(1, machine_to - machine_from)


STRETCHES = st.lists(
    st.builds(
        Stretch,
        duration_ns=st.integers(2 * SECOND_NS, 60 * SECOND_NS),
        drift_ppm=st.integers(-DRIFT_PPM + 5, DRIFT_PPM - 5),
        standstill_ns=st.integers(SECOND_NS, 20 * SECOND_NS),
        # It stood still with the host, went on without it, or went ahead of it.
        leap_ns=st.sampled_from([0, SECOND_NS // 2, 5 * SECOND_NS, HOUR_NS, 30 * HOUR_NS]),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=200, deadline=None)
@given(
    start_ns=st.integers(0, 1000 * HOUR_NS),
    stretches=STRETCHES,
    data=st.data(),
)
def test_the_true_time_lies_within_the_bounds(start_ns: int, stretches: list[Stretch], data: st.DataObject) -> None:
    true = TrueClock(start_ns, stretches)
    samples = []
    sampled: list[bool] = []
    for number, (begin_ns, end_ns) in enumerate(true.awake):
        # A run has one right before and right after each pause, but a host need not answer.
        around = data.draw(st.booleans()) or number == 0
        shares = [*([0, 1000] if around else []), *data.draw(st.lists(st.integers(0, 1000), max_size=4))]
        sampled.append(around)
        for share in shares:
            width = data.draw(st.tuples(*[st.integers(0, 10 * MILLISECOND_NS)] * 2))
            at_ns = begin_ns + 20 * MILLISECOND_NS + (end_ns - begin_ns - 40 * MILLISECOND_NS) * share // 1000
            samples.append(ClockSample("host-a", "boot", at_ns - width[0], at_ns + width[1], true.host_ns(at_ns), 0))
    end_ns = true.knots[-1][0] + SECOND_NS
    clock = HostClock(data.draw(st.permutations(samples)), true.pauses, end_ns=end_ns)
    asked = []
    for around, (begin_ns, until_ns) in zip(sampled, true.awake, strict=True):
        for share in sorted(data.draw(st.lists(st.integers(0, 1000), min_size=1, max_size=8))):
            at_ns = begin_ns + (until_ns - begin_ns) * share // 1000
            instant = one(clock, true.host_ns(at_ns))
            asked.append(true.host_ns(at_ns))
            # The clock of this test counts whole nanoseconds, so two of this machine's may be one of the host's.
            assert abs(instant.monotonic_ns - at_ns) <= instant.uncertainty_ns + 2
            # Between two samples the bounds are those of the exchanges and the drift, and no wider.
            if around and min(at_ns - begin_ns, until_ns - at_ns) > 60 * MILLISECOND_NS:
                assert instant.uncertainty_ns <= 20 * MILLISECOND_NS + drift_ns(60 * SECOND_NS)
    told = [at.monotonic_ns for _, at in sorted(clock.locate(asked).items())]
    assert told == sorted(told)


@given(st.lists(st.integers(0, 300 * SECOND_NS), min_size=2, max_size=50), STRETCHES)
def test_no_stamp_overtakes_another(stamps_ns: list[int], stretches: list[Stretch]) -> None:
    true = TrueClock(0, stretches)
    samples = [
        ClockSample("host-a", "boot", at_ns - 1000, at_ns + 1000, true.host_ns(at_ns), 0)
        for at_ns in itertools.chain.from_iterable(true.awake)
    ]
    clock = HostClock(samples, [], end_ns=true.knots[-1][0])
    told = [at.monotonic_ns for _, at in sorted(clock.locate(stamps_ns).items())]
    assert told == sorted(told)


def one(clock: HostClock, host_ns: int) -> Instant:
    """Where one stamp lies."""
    return clock.locate([host_ns])[host_ns]


def sample(boot: str, machine_ns: int, boottime_ns: int, pair_ns: int, *, width_ns: int = 1000) -> ClockSample:
    """A reading in the middle of its exchange."""
    before_ns, after_ns = machine_ns - width_ns // 2, machine_ns + width_ns // 2
    return ClockSample("host-a", boot, before_ns, after_ns, boottime_ns, boottime_ns + pair_ns)


def test_beyond_the_last_sample_the_doubt_grows_by_the_drift() -> None:
    clock = HostClock([sample("one", START_NS, HOUR_NS, 0)], [], end_ns=START_NS)
    assert one(clock, HOUR_NS).uncertainty_ns == 500
    assert one(clock, HOUR_NS + 10 * SECOND_NS).uncertainty_ns == 500 + 10 * SECOND_NS * DRIFT_PPM // 1_000_000


def test_a_pause_behind_the_last_sample_leaves_everything_open() -> None:
    pause = Pause(
        "host-a", START_NS + SECOND_NS, START_NS + SECOND_NS, START_NS + 9 * SECOND_NS, START_NS + 9 * SECOND_NS
    )
    clock = HostClock([sample("one", START_NS, HOUR_NS, 0)], [pause], end_ns=START_NS + 20 * SECOND_NS)
    assert one(clock, HOUR_NS + SECOND_NS // 2).uncertainty_ns < MILLISECOND_NS
    assert one(clock, HOUR_NS + 3 * SECOND_NS).uncertainty_ns > 8 * SECOND_NS


def test_a_clock_that_leapt_unseen_is_exact_on_both_sides_and_one_that_stood_still_is_not() -> None:
    samples = [sample("one", START_NS, HOUR_NS, 0), sample("one", START_NS + SECOND_NS, 9 * HOUR_NS, 0)]
    leapt = HostClock(samples, [], end_ns=START_NS + SECOND_NS)
    for host_ns in (HOUR_NS + SECOND_NS // 2, 9 * HOUR_NS - SECOND_NS // 2):
        assert one(leapt, host_ns).uncertainty_ns < MILLISECOND_NS
    stood = HostClock(
        [samples[0], sample("one", START_NS + 5 * SECOND_NS, HOUR_NS + SECOND_NS, 0)], [], end_ns=START_NS
    )
    assert one(stood, HOUR_NS + SECOND_NS // 2).uncertainty_ns >= 2 * SECOND_NS


def clocks(*samples: ClockSample) -> HostClocks:
    return HostClocks(ClockRecord(list(samples), [ClockPair(START_NS, START_NS)]))


def test_a_process_belongs_to_the_boot_whose_pair_of_clocks_it_has() -> None:
    both = clocks(sample("one", START_NS, HOUR_NS, 7 * HOUR_NS), sample("two", START_NS + HOUR_NS, 0, 9 * HOUR_NS))
    first = both.of("host-a", [ClockPair(HOUR_NS, 8 * HOUR_NS)])
    second = both.of("host-a", [ClockPair(1, 9 * HOUR_NS + 1), ClockPair(2, 99 * HOUR_NS)])
    assert one(first, HOUR_NS).monotonic_ns == START_NS
    assert one(second, 0).monotonic_ns == START_NS + HOUR_NS


def test_a_boot_that_nobody_sampled_is_named() -> None:
    sampled = clocks(sample("one", START_NS, HOUR_NS, 7 * HOUR_NS))
    with pytest.raises(EvidenceError, match=r"host-a are 3600\.0 s from every boot that was sampled"):
        sampled.of("host-a", [ClockPair(0, 8 * HOUR_NS)])
    with pytest.raises(EvidenceError, match="no sample of host-b"):
        sampled.of("host-b", [ClockPair(0, 0)])
