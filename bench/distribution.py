"""A few samples of one quantity, and what a table says of them."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Distribution:
    """Samples in the order in which they were taken, all in one unit."""

    samples: tuple[float, ...]

    @classmethod
    def of(cls, samples: Iterable[float]) -> "Distribution":
        """Keep the samples; there must be one at least."""
        kept = tuple(samples)
        if not kept:
            raise ValueError("a distribution needs at least one sample")
        return cls(kept)

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def smallest(self) -> float:
        return min(self.samples)

    @property
    def largest(self) -> float:
        return max(self.samples)

    def percentile(self, share: float) -> float:
        """The smallest sample that at least ``share`` percent of the samples do not exceed (nearest rank)."""
        ordered = sorted(self.samples)
        rank = max(1, -(-len(ordered) * share // 100))
        return ordered[int(rank) - 1]

    def summary(self, *, digits: int = 0, unit: str = "") -> str:
        """Median and range, such as ``231 (198 to 402) ms``."""
        numbers = f"{self.median:.{digits}f}"
        if len(self.samples) > 1:
            numbers += f" ({self.smallest:.{digits}f} to {self.largest:.{digits}f})"
        return f"{numbers} {unit}".rstrip()
