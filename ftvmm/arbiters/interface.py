"""What every arbiter offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class ArbiterUnreachableError(Exception):
    """The arbiter gave no answer, or one that cannot be told from none. Whoever gets this waits."""


@dataclass(frozen=True)
class Record:
    """Who owns a generation.

    Attributes:
        generation: counted from 1; 0 where the VM was never bootstrapped.
        incarnation: random number of the process that won it; 0 for generation 0.
        node: the winner's name, for people.
    """

    generation: int
    incarnation: int
    node: str


class Arbiter(Protocol):
    """An atomic test-and-set over the VM's generations. Calls block; the caller bounds them in time."""

    def read(self) -> Record:
        """The newest generation and its owner, read freshly from the arbiter.

        Raises:
            ArbiterUnreachableError: no trustworthy answer could be had.
        """
        ...

    def ask(self, *, generation: int, incarnation: int, node: str) -> Record:
        """Claims `generation` if nobody has it, and returns whoever owns it now (R11: won means that it is the asker).

        Raises:
            ArbiterUnreachableError: the claim may or may not have been taken; only `read` can settle it.
        """
        ...
