"""The clocks of all hosts of a run: which boot a stamp belongs to, and where it lies on this machine's clocks."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from harness.evidence.clock_samples import ClockRecord, ClockSample
from harness.evidence.clocks import Clocks, Pair
from harness.evidence.host_clock import HostClock, Instant
from harness.evidence.json_lines import EvidenceError

# Within a boot, CLOCK_REALTIME and CLOCK_BOOTTIME keep their distance to the nanosecond; the scheduler can part the two
# readings of a pair, and two boots lie further apart than this, for a boot takes longer.
FIT_NS_MAX = 1_000_000_000


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
