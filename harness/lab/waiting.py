"""Waiting for a state outside of this process that tells nobody when it changes: asked again, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(look: Callable[[], T], *, timeout_seconds: float, interval_seconds: float = 0.02) -> T:
    """Ask `look` until its answer is true in Python's sense, or the time is over; gives the last answer."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        answer = look()
        if answer or time.monotonic() >= deadline:
            return answer
        time.sleep(interval_seconds)
