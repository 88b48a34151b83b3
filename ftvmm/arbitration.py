"""Carries the node's questions to its arbiter, each in a thread of its own and bounded in time.

A share that hangs hangs the calling thread with it: the node must go on answering heartbeats meanwhile, and takes the
missing answer for what it is (R11, R12).
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import click

from ftvmm.arbiters import Arbiter, ArbiterUnreachableError, Record

_CALLS_AT_ONCE_MAX = 8


class Arbitration:
    """Asks an arbiter on the node's behalf.

    Args:
        arbiter: whom to ask.
        node: this node's name, for the record.
        incarnation: this process's incarnation.
        timeout_seconds: how long one call may take.
        answer: called once for each question with its number and the record, or `None` when there was no answer.
    """

    def __init__(
        self,
        arbiter: Arbiter,
        *,
        node: str,
        incarnation: int,
        timeout_seconds: float,
        answer: Callable[[int, Record | None], None],
    ) -> None:
        self._arbiter, self._node, self._incarnation = arbiter, node, incarnation
        self._timeout_seconds, self._answer = timeout_seconds, answer
        self._under_way = threading.BoundedSemaphore(_CALLS_AT_ONCE_MAX)
        self._check_under_way = threading.BoundedSemaphore(1)

    def read(self, request: int) -> None:
        """Reads the newest generation; the answer comes by the callback."""
        self._carry(request, self._arbiter.read, self._under_way)

    def check(self, request: int) -> None:
        """The same for a look that decides nothing: one at a time, so that what hangs leaves room for a takeover."""
        self._carry(request, self._arbiter.read, self._check_under_way)

    def ask(self, request: int, generation: int) -> None:
        """Claims a generation; the answer comes by the callback."""
        self._carry(
            request,
            lambda: self._arbiter.ask(generation=generation, incarnation=self._incarnation, node=self._node),
            self._under_way,
        )

    def _carry(self, request: int, call: Callable[[], Record], places: threading.BoundedSemaphore) -> None:
        once = threading.Lock()

        def settle(record: Record | None) -> None:
            if once.acquire(blocking=False):
                timer.cancel()
                self._answer(request, record)

        def work() -> None:
            record: Record | None
            try:
                record = call()
            except ArbiterUnreachableError:
                record = None
            except Exception as error:
                # Whatever went wrong, the node must hear that no answer came.
                click.echo(f"ftvmm node: the arbiter's client failed: {error!r}", err=True)
                record = None
            finally:
                places.release()
            settle(record)

        timer = threading.Timer(self._timeout_seconds, settle, (None,))
        timer.daemon = True
        if not places.acquire(blocking=False):
            # As many calls hang as may: one more would only add to them.
            settle(None)
            return
        timer.start()
        threading.Thread(target=work, name=f"arbiter-{request}", daemon=True).start()
