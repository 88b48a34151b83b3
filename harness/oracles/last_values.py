"""What a key may hold after its writes: the values that some order of them, true to their times, ends with.

Exact for SET, DEL, INCR and for APPEND of values of which none is the end of another, and much simpler than a
linearizability checker, of which it is independent: only the last writes count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from harness.evidence.client import Operation


@dataclass(frozen=True)
class Write:
    """A write, or a read, which writes what it read.

    Attributes:
        operation: `SET` (also a read's), `APPEND`, `INCR` or `DEL`.
        value: what it writes, None where the key does not exist.
        result: what the server said.
        call_ns: it took place after that,
        end_ns: and before that; infinity where nobody knows whether it ever took place.
    """

    operation: str
    value: str | None
    result: str | int | None
    call_ns: float
    end_ns: float

    @property
    def is_certain(self) -> bool:
        """Whether it took place."""
        return self.end_ns < math.inf

    def is_before(self, other: Write) -> bool:
        """Whether it had certainly ended when the other was called."""
        return self.end_ns < other.call_ns


_END = Write("END", None, None, math.inf, math.inf)


def as_write(operation: Operation) -> Write | None:
    """What an operation means for its key; None where it means nothing: a read without an answer.

    One that failed may have taken place all the same, now or later, as one without an answer may.
    """
    is_certain = operation.return_ns is not None and operation.error is None
    end_ns = operation.return_ns if is_certain and operation.return_ns is not None else math.inf
    if operation.operation != "GET":
        return Write(operation.operation, operation.value, operation.result, operation.call_ns, end_ns)
    if not is_certain:
        return None
    value = None if operation.result is None else str(operation.result)
    return Write("SET", value, None, operation.call_ns, end_ns)


class LastValues:
    """The writes to one key."""

    def __init__(self, writes: Iterable[Write]) -> None:
        self._writes = list(writes)

    def explain(self, value: str | None, read: Write | None = None) -> bool:
        """Whether a key may hold this at the end, or when it was read (None: when nobody wrote any more)."""
        return self._explain(value, [read or _END])

    def last_certain(self) -> Write | None:
        """The certain write that was called last, for a reader of the verdict."""
        return max((one for one in self._writes if one.is_certain), key=lambda one: one.call_ns, default=None)

    def _explain(self, value: str | None, chain: list[Write]) -> bool:
        """`chain`: what came later, the next first."""
        if value is None and self._may_be_untouched(chain):
            return True
        return any(
            _may_make(one, value)
            and not any(one is later for later in chain)
            and self._may_be_followed_by(one, chain)
            and self._is_explained_before(one, value, chain)
            for one in self._writes
        )

    def _is_explained_before(self, write: Write, value: str | None, chain: list[Write]) -> bool:
        """Whether this write finds what it needs to find to make the value."""
        if value is None or write.operation in ("SET", "DEL"):
            return True
        if write.operation == "INCR":
            return write.is_certain or self._is_counted(value, chain)
        before = value[: len(value) - len(write.value or "")]
        chain = [write, *chain]
        return self._explain(before, chain) or (not before and self._explain(None, chain))

    def _is_counted(self, value: str, chain: list[Write]) -> bool:
        """Whether increments of which nobody knows lead here, as many as there are, from what is known."""
        unknown = sum(one.operation == "INCR" and not one.is_certain for one in self._writes)
        bases = [0] if self._may_be_untouched(chain) else []
        for one in self._writes:
            if self._may_be_followed_by(one, chain):
                held = one.result if one.operation == "INCR" else one.value
                if one.operation == "DEL" or held is None:
                    bases += [0] if one.operation != "INCR" else []
                elif str(held).lstrip("-").isdecimal():
                    bases.append(int(held))
        return any(base < int(value) <= base + unknown for base in bases)

    def _may_be_untouched(self, chain: list[Write]) -> bool:
        """Whether nothing need have been written before the chain."""
        return not any(_must_be_before(one, chain) for one in self._writes)

    def _may_be_followed_by(self, write: Write, chain: list[Write]) -> bool:
        """Whether the chain may come right after it: all else that took place before the chain did so before it."""
        if any(later.is_before(write) for later in chain):
            return False
        return not any(write.is_before(one) and _must_be_before(one, chain) for one in self._writes)


def _must_be_before(write: Write, chain: list[Write]) -> bool:
    """Whether it took place, is none of the chain, and cannot have come after all of it."""
    return (
        write.is_certain
        and any(write.is_before(later) for later in chain)
        and not any(write is later for later in chain)
    )


def _may_make(write: Write, value: str | None) -> bool:
    """Whether the value may come from this write, whatever was before it."""
    if write.operation == "DEL":
        return value is None
    if write.operation == "SET":
        return value == write.value
    if value is None:
        return False
    if write.operation == "INCR":
        return value == str(write.result) if write.is_certain else value.lstrip("-").isdecimal()
    return value.endswith(write.value or "") and (not write.is_certain or len(value.encode()) == write.result)
