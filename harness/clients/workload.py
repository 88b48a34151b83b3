"""What a key-value client asks: a seeded mix of operations in which every written value is unique.

Unique values are what makes a history judgeable: a read names the very write that it saw.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

# Weights in percent. Text keys are mostly rewritten, so that APPEND does not let them grow without bound.
TEXT_MIX = {"GET": 45, "SET": 30, "APPEND": 17, "DEL": 8}
COUNTER_MIX = {"GET": 35, "INCR": 62, "DEL": 3}


@dataclass(frozen=True)
class Operation:
    """One command. `value` is what SET and APPEND write, None for the others."""

    name: str
    key: str
    value: str | None = None

    @property
    def arguments(self) -> tuple[str, ...]:
        """The words of the command as they go over the wire."""
        return (self.name, self.key) if self.value is None else (self.name, self.key, self.value)


class Workload:
    """Draws operations; every second key is a counter (INCR), the others hold text (SET, APPEND)."""

    def __init__(self, *, keys: int, prefix: str, seed: int) -> None:
        if keys < 2:
            raise ValueError(f"a workload needs at least 2 keys (one text, one counter), not {keys}")
        self.keys = [f"{prefix}:{'counter' if number % 2 else 'text'}:{number}" for number in range(keys)]
        self._random = random.Random(seed)
        self._written = 0

    def draw(self, client: int) -> Operation:
        """The next operation of a client."""
        number = self._random.randrange(len(self.keys))
        mix = COUNTER_MIX if number % 2 else TEXT_MIX
        name = self._random.choices(list(mix), weights=list(mix.values()))[0]
        if name not in ("SET", "APPEND"):
            return Operation(name, self.keys[number])
        self._written += 1
        return Operation(name, self.keys[number], f"<{client}.{self._written}>")

    def jitter(self, spread: float) -> float:
        """A factor around 1 that keeps the connections from marching in step."""
        return 1 + self._random.uniform(-spread, spread)
