"""What a key may hold at the end: overlapping, failed and unanswered writes, appends and counters."""

from __future__ import annotations

import math

import pytest

from harness.oracles.last_values import LastValues, Write


def write(operation: str, value: str | None, at: tuple[float, float], result: str | int | None = None) -> Write:
    return Write(operation, value, result, *at)


def at(start: float, end: float = math.inf) -> tuple[float, float]:
    return start, end


@pytest.mark.parametrize(
    ("writes", "possible", "impossible"),
    [
        pytest.param([], {None}, {"", "a"}, id="nobody wrote"),
        pytest.param([write("SET", "a", at(1, 2))], {"a"}, {None, "b"}, id="one write"),
        pytest.param([write("SET", "a", at(1, 2)), write("SET", "b", at(3, 4))], {"b"}, {None, "a"}, id="in order"),
        pytest.param([write("SET", "a", at(1, 4)), write("SET", "b", at(3, 5))], {"a", "b"}, {None}, id="overlapping"),
        pytest.param([write("SET", "a", at(1)), write("SET", "b", at(3, 4))], {"a", "b"}, {None}, id="no answer"),
        pytest.param([write("SET", "a", at(1))], {"a", None}, {"b"}, id="no answer, first"),
        pytest.param([write("SET", "a", at(1, 2)), write("DEL", None, at(3))], {"a", None}, {"b"}, id="DEL, no answer"),
        pytest.param([write("SET", "a", at(1, 2)), write("DEL", None, at(3, 4), 1)], {None}, {"a"}, id="DEL"),
        pytest.param(
            [write("SET", "a", at(1, 2)), write("APPEND", "b", at(3, 4), 2)],
            {"ab"},
            {"a", "b", "bb", "ba"},
            id="APPEND",
        ),
        pytest.param([write("APPEND", "b", at(3, 4), 1)], {"b"}, {None, "bb"}, id="APPEND to nothing"),
        pytest.param(
            [write("SET", "a", at(1, 2)), write("APPEND", "b", at(3)), write("APPEND", "c", at(4, 5), 2)],
            {"ac", "acb"},
            {"a", "ab", "abc", "c"},
            id="APPEND without an answer, whose length tells",
        ),
        pytest.param(
            [write("SET", "a", at(1, 2)), write("APPEND", "b", at(3, 4), 2), write("SET", "c", at(5))],
            {"ab", "c"},
            {"a", "cb", None},
            id="SET without an answer comes after all that was acknowledged",
        ),
        pytest.param(
            [write("APPEND", "b", at(1, 2), 1), write("APPEND", "c", at(3, 4), 2), write("APPEND", "d", at(3, 4), 3)],
            {"bcd"},
            {"bdc", "cd", "bc"},
            id="lengths order what overlaps",
        ),
        pytest.param([write("INCR", None, at(1, 2), 7)], {"7"}, {None, "6", "8"}, id="INCR"),
        pytest.param(
            [write("INCR", None, at(1, 2), 7), write("INCR", None, at(3)), write("INCR", None, at(3))],
            {"7", "8", "9"},
            {None, "6", "10"},
            id="INCR without an answer",
        ),
        pytest.param(
            [write("INCR", None, at(1)), write("DEL", None, at(2, 3), 0)], {"1", None}, {"2"}, id="INCR and DEL"
        ),
        pytest.param(
            [write("SET", "a", at(1)), write("SET", "a", at(2, 3)), write("SET", "b", at(4, 5))],
            {"a", "b"},
            {None},
            id="seen by a reader, and once more",
        ),
        pytest.param([write("SET", "x", at(1)), write("SET", None, at(2, 3))], {"x", None}, {"y"}, id="read as absent"),
    ],
)
def test_values_at_the_end(writes: list[Write], possible: set[str | None], impossible: set[str | None]) -> None:
    last = LastValues(writes)
    assert {value for value in possible | impossible if last.explain(value)} == possible


def test_what_a_read_may_see_is_what_may_come_before_its_end() -> None:
    last = LastValues([write("SET", "a", at(1, 2)), write("SET", "b", at(5, 6)), write("SET", "c", at(9, 10))])
    assert [value for value in "abc" if last.explain(value, write("SET", value, at(3, 4)))] == ["a"]
    assert [value for value in "abc" if last.explain(value, write("SET", value, at(3, 5.5)))] == ["a", "b"]
