"""Which way between two hosts a fault strikes."""

from __future__ import annotations

import enum


class Direction(enum.StrEnum):
    """Seen from the first host of a pair, or from the one host that a fault has."""

    BOTH = "both"
    OUTGOING = "outgoing"
    INCOMING = "incoming"
