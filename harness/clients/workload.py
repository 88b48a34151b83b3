"""What a key-value client asks: a seeded mix of operations in which nearly every written value is unique.

Unique values are what makes a history judgeable: a read names the very write that it saw. Only values of a few bytes,
which have no room for a name, may come twice; the oracles then judge exactly and see a little less.
"""

from __future__ import annotations

import math
import random
from collections.abc import Set
from dataclasses import dataclass

import hiredis
from blake3 import blake3

Reply = str | int | None | hiredis.ReplyError
"""What a server answers, as Redis does: text, a number, no value, an error."""

OPERATIONS = frozenset({"GET", "SET", "APPEND", "INCR", "DEL"})
# Weights in percent. Text keys are mostly rewritten, so that APPEND does not let them grow without bound.
TEXT_MIX = {"GET": 45, "SET": 30, "APPEND": 17, "DEL": 8}
COUNTER_MIX = {"GET": 35, "INCR": 62, "DEL": 3}
BLOB_MIX = {"GET": 45, "SET": 50, "DEL": 5}
# A blob's value is from 1 byte to 64 KiB long; of so many in a row one is the shortest and one the longest.
BLOB_BYTES_MAX = 64 * 1024
_DECK = 8
# A blob key is asked for so much more seldom than another: it is there for the long values, not for the load.
_BLOB_WEIGHT = 0.4
# After so many APPENDs to a key comes a SET, so that what is appended to stays shorter than `SPELLED_BYTES_MAX`.
_APPENDS_MAX = 32
# A longer value stands in the history as its length and digest; nobody appends to such a one.
SPELLED_BYTES_MAX = 1024


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


def spell(value: str) -> str:
    """A value as evidence has it: itself, or `#LENGTH:DIGEST` (BLAKE3, 16 bytes) where it is long."""
    content = value.encode()
    if len(content) <= SPELLED_BYTES_MAX:
        return value
    return f"#{len(content)}:{blake3(content).hexdigest(length=16)}"


class Workload:
    """Draws operations. Of eight keys four are counters (INCR), three hold text (SET, APPEND), one a blob (SET).

    What a server has no operation for is left out: without INCR there is text in place of counters.
    """

    def __init__(self, *, keys: int, prefix: str, seed: int, operations: Set[str] = OPERATIONS) -> None:
        if keys < 2:
            raise ValueError(f"a workload needs at least 2 keys (one text, one counter), not {keys}")
        self._kinds = [_kind(number, operations) for number in range(keys)]
        mixes = {"text": TEXT_MIX, "counter": COUNTER_MIX, "blob": BLOB_MIX}
        self._mixes = {
            kind: {name: weight for name, weight in mix.items() if name in operations} for kind, mix in mixes.items()
        }
        self.keys = [f"{prefix}:{kind}:{number}" for number, kind in enumerate(self._kinds)]
        self._weights = [_BLOB_WEIGHT if kind == "blob" else 1.0 for kind in self._kinds]
        self._random = random.Random(seed)
        self._written = 0
        self._appended = [0] * keys
        self._lengths: list[int] = []

    def draw(self, client: int, *, long_lived: bool = True) -> Operation:
        """The next operation of a client, whether it is there to stay or not."""
        (number,) = self._random.choices(range(len(self.keys)), weights=self._weights)
        kind, key = self._kinds[number], self.keys[number]
        mix = self._mixes[kind]
        name = self._random.choices(list(mix), weights=list(mix.values()))[0]
        if name not in ("SET", "APPEND"):
            return Operation(name, key)
        if name == "APPEND" and self._appended[number] == _APPENDS_MAX:
            name = "SET"
        self._appended[number] = self._appended[number] + 1 if name == "APPEND" else 0
        self._written += 1
        mark = f"<{client}.{self._written}>"
        return Operation(name, key, _lengthened(mark, self._draw_length()) if kind == "blob" else mark)

    def _draw_length(self) -> int:
        """Each order of magnitude is as likely as another."""
        if not self._lengths:
            between = [math.exp(self._random.uniform(0, math.log(BLOB_BYTES_MAX))) for _ in range(_DECK - 2)]
            self._lengths = [1, BLOB_BYTES_MAX, *map(round, between)]
            self._random.shuffle(self._lengths)
        return self._lengths.pop()

    def jitter(self, spread: float) -> float:
        """A factor around 1 that keeps the connections from marching in step."""
        return 1 + self._random.uniform(-spread, spread)


class Topics:
    """The same for subscribers: each long-lived connection counts on a key of its own, and everybody reads all keys."""

    def __init__(self, *, prefix: str, seed: int) -> None:
        self.keys: list[str] = []
        self._prefix = prefix
        self._random = random.Random(seed)

    def draw(self, client: int, *, long_lived: bool = True) -> Operation:
        """The next operation of a client; visitors only read."""
        own = key_of(self._prefix, client)
        counts = long_lived and self._random.random() < COUNTER_MIX["INCR"] / sum(COUNTER_MIX.values())
        key = own if counts or not self.keys else self._random.choice(self.keys)
        if key not in self.keys:
            self.keys.append(key)
        return Operation("INCR" if counts else "GET", key)

    def jitter(self, spread: float) -> float:
        """As that of `Workload`."""
        return 1 + self._random.uniform(-spread, spread)


def key_of(prefix: str, client: int) -> str:
    """The key that is a connection's own."""
    return f"{prefix}:{client}"


def _kind(number: int, operations: Set[str]) -> str:
    if number % 2 and "INCR" in operations:
        return "counter"
    return "blob" if number % 8 == 6 else "text"


def _lengthened(mark: str, length: int) -> str:
    """A value of this many bytes that begins with the mark where it fits, and in which no part looks like another."""
    filler = blake3(mark.encode()).hexdigest(length=length // 2 + 1)
    return (mark + filler)[:length] if length > len(mark) else filler[:length]
