"""Waiting for a state outside of this process that tells nobody when it changes: asked again, with a deadline."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_result, stop_after_delay, wait_fixed

T = TypeVar("T")


def wait_until(look: Callable[[], T], *, timeout_seconds: float, interval_seconds: float = 0.02) -> T:
    """Ask `look` until its answer is true in Python's sense, or the time is over; gives the last answer."""
    retrying = Retrying(
        retry=retry_if_result(lambda answer: not answer),
        stop=stop_after_delay(timeout_seconds),
        wait=wait_fixed(interval_seconds),
        retry_error_callback=_last_answer,
    )
    return retrying(look)


def _last_answer(state: RetryCallState) -> object:
    assert state.outcome is not None
    return state.outcome.result()
