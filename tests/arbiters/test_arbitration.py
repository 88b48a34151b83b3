"""The node's questions to its arbiter: each is answered exactly once, and none can hold the node up."""

from __future__ import annotations

import queue
import threading

from ftvmm.arbiters import ArbiterUnreachableError, Record
from ftvmm.arbitration import Arbitration


class SlowArbiter:
    """Answers when it is let go, as a share does that hangs and comes back."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def read(self) -> Record:
        self.let_go.wait()
        return Record(3, 9, "late")

    def ask(self, *, generation: int, incarnation: int, node: str) -> Record:
        return Record(generation, incarnation, node)


class DeadArbiter(SlowArbiter):
    def read(self) -> Record:
        raise ArbiterUnreachableError("nobody there")


def arbitration(
    arbiter: SlowArbiter, answers: queue.Queue[tuple[int, Record | None]], *, timeout: float
) -> Arbitration:
    return Arbitration(
        arbiter, node="a", incarnation=5, timeout_seconds=timeout, answer=lambda *answer: answers.put(answer)
    )


def test_an_answer_comes_back_with_its_question() -> None:
    answers: queue.Queue[tuple[int, Record | None]] = queue.Queue()
    arbitration(SlowArbiter(), answers, timeout=60).ask(41, 2)
    assert answers.get(timeout=10) == (41, Record(2, 5, "a"))


def test_an_unreachable_arbiter_is_no_answer() -> None:
    answers: queue.Queue[tuple[int, Record | None]] = queue.Queue()
    arbitration(DeadArbiter(), answers, timeout=60).read(1)
    assert answers.get(timeout=10) == (1, None)


def test_a_late_answer_does_not_come_twice() -> None:
    answers: queue.Queue[tuple[int, Record | None]] = queue.Queue()
    slow = SlowArbiter()
    asked = arbitration(slow, answers, timeout=0.01)
    asked.read(1)
    assert answers.get(timeout=10) == (1, None)
    slow.let_go.set()
    asked.ask(2, 7)
    assert answers.get(timeout=10) == (2, Record(7, 5, "a"))
    assert answers.empty()


def test_hanging_calls_are_bounded_in_number() -> None:
    answers: queue.Queue[tuple[int, Record | None]] = queue.Queue()
    slow = SlowArbiter()
    asked = arbitration(slow, answers, timeout=3600)
    for request in range(9):
        asked.read(request)
    assert answers.get(timeout=10) == (8, None), "the ninth is refused at once"
    slow.let_go.set()
    assert sorted(answers.get(timeout=10)[0] for _ in range(8)) == list(range(8))


def test_a_check_that_hangs_takes_no_call_from_a_takeover() -> None:
    answers: queue.Queue[tuple[int, Record | None]] = queue.Queue()
    slow = SlowArbiter()
    asked = arbitration(slow, answers, timeout=3600)
    for request in range(20):
        asked.check(request)
    assert [answers.get(timeout=10) for _ in range(19)] == [(request, None) for request in range(1, 20)]
    for request in range(100, 108):
        asked.ask(request, 2)
    assert sorted(answers.get(timeout=10)[0] for _ in range(8)) == list(range(100, 108))
    slow.let_go.set()
    assert answers.get(timeout=10) == (0, Record(3, 9, "late"))
