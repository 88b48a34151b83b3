"""Keeps a VM protected: whoever runs it alone is given a spare for its backup, one after the other, until one joins.

What a manager decides by it asks its node each time. What it remembers beside that is whom it asked last and when: one
that is started again, and two that know nothing of each other, ask earlier than need be, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PATIENCE_SECONDS = 3.0
"""A spare that has not said welcome by then is passed over for the next one."""


@dataclass(frozen=True)
class Spare:
    """A node that may become the backup.

    Attributes:
        name: its name, for people.
        logging: its log listener, ADDRESS:PORT.
        heartbeat: its heartbeat sockets, by network.
    """

    name: str
    logging: str
    heartbeat: Mapping[str, str]

    def as_json(self) -> str:
        """As the node's operations `protect` and `let-backup-go` take it."""
        return json.dumps({"name": self.name, "logging": self.logging, "heartbeat": dict(self.heartbeat)})


class Manager:
    """Decides whom a node is to ask next.

    Args:
        spares: in the order in which they are tried.
    """

    def __init__(self, spares: Sequence[Spare]) -> None:
        self._spares = tuple(spares)
        self._asked: int | None = None
        self._asked_at: float | None = None

    def next_spare(self, status: Mapping[str, Any] | None, now: float) -> Spare | None:
        """The spare that the node is to take for its backup now; None: it needs none, or waits for the one before.

        Args:
            status: what the node says of itself; None where it says nothing.
            now: seconds on a clock that goes on.
        """
        if status is None or not self._spares:
            return None
        if status["role"] != "ALONE":
            # Whoever was asked has joined, or is lost with the VM: the next loss is another one.
            self._asked = self._asked_at = None
            return None
        joining = status["joining"]
        if joining is not None and self._asked is None and self._asked_at is None:
            # Somebody else has asked, and knows whom.
            self._asked_at = now
        is_under_way = joining is not None and joining["stage"] in ("copying", "stopped")
        if is_under_way or (self._asked_at is not None and now - self._asked_at < PATIENCE_SECONDS):
            return None
        # The first of the list is as likely to be there as any: it is this node's own in one list of all hosts.
        self._asked = 0 if self._asked is None else (self._asked + 1) % len(self._spares)
        self._asked_at = now
        return self._spares[self._asked]

    def was_refused(self) -> None:
        """The node did not take the spare that came last: it is the next one again, at once."""
        if self._asked is not None:
            self._asked, self._asked_at = self._asked - 1, None
