"""When a newcomer was ignored, and when it only asked at the wrong moments."""

from __future__ import annotations

from harness.evidence.client import ConnectionEvent, closed_doors


def attempt(client: int, asked_ms: int, at_ms: int, event: str = "opened") -> ConnectionEvent:
    error = None if event == "opened" else "no answer"
    return ConnectionEvent(client, event, at_ms * 1_000_000, 0, error, asked_ms * 1_000_000, long_lived=False)


def ignored(*attempts: ConnectionEvent) -> list[int]:
    return [one.client for door in closed_doors([attempt(0, 0, 1), *attempts]) for one in door.ignored]


def test_one_that_asked_again_when_others_were_let_in_was_ignored() -> None:
    lost, other = attempt(1, 1000, 4200, "timed-out"), attempt(2, 1500, 1501)
    assert ignored(lost, other) == [1]


def test_one_that_asked_only_while_nobody_was_let_in_was_not() -> None:
    """It gives up before its kernel asks a third time."""
    lost, other = attempt(1, 1000, 3900, "timed-out"), attempt(2, 2500, 2501)
    assert ignored(lost, other) == []


def test_one_that_gave_up_sooner_than_others_had_their_answers_was_not() -> None:
    """Asked at 4000 ms for the last time; another that asked at 3900 ms had its answer 400 ms later."""
    lost, other = attempt(1, 1000, 4250, "timed-out"), attempt(2, 2900, 4000)
    slow = attempt(3, 2900, 4300)
    assert ignored(lost, other, slow) == []


def test_nobody_is_ignored_when_nobody_is_let_in() -> None:
    assert ignored(attempt(1, 1000, 9000, "timed-out")) == []
