"""What every arbiter offers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Protocol


class ArbiterUnreachableError(Exception):
    """The arbiter gave no answer, or one that cannot be told from none. Whoever gets this waits."""


class NotSharedError(Exception):
    """The arbiter is this host's alone."""


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


def record_from(text: bytes, *, generation: int, where: str) -> Record:
    """The record that an arbiter holds as JSON for a generation; `where` is its place, for people.

    Raises:
        ArbiterUnreachableError: it is no such record.
    """
    try:
        fields = json.loads(text)
        record = Record(int(fields["generation"]), int(fields["incarnation"]), str(fields["node"]))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ArbiterUnreachableError(f"{where}: not a generation record: {error}") from error
    if not 0 <= record.incarnation < 1 << 64:
        raise ArbiterUnreachableError(f"{where}: holds incarnation {record.incarnation}")
    if record.generation != generation:
        raise ArbiterUnreachableError(f"{where}: holds generation {record.generation}")
    return record


class Arbiter(Protocol):
    """An atomic test-and-set over the VM's generations. Calls block; the caller bounds them in time.

    Attributes:
        kind: as `node.toml` calls it.
        place: where it is, for people.
    """

    kind: str
    place: str

    def require_shared(self) -> None:
        """Refuse an arbiter that no other host can see, unless it was said that both nodes run on this machine.

        Raises:
            NotSharedError: generation 1 there would be this host's alone.
        """
        ...

    def try_out(self) -> list[str]:
        """Do what a claim does, under a name that is no generation's, and remove it again.

        Returns what is not as it should be although a claim would be taken, a sentence each.

        Raises:
            ArbiterUnreachableError: a claim would fail here.
        """
        ...

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
