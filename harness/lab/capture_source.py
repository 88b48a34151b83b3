"""A capture that runs, as a lab of machines sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class CaptureSource(Protocol):
    """One capture on one port, from its start to its stop."""

    @property
    def path(self) -> Path:
        """The pcap file."""

    def counts(self) -> tuple[int, int]:
        """Frames captured and frames dropped so far, all that passed until now being written."""

    def stop(self) -> None:
        """Stop when all that passed has been written."""

    def discard(self) -> None:
        """Stop at once, whole or not."""
