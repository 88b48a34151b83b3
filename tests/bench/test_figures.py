"""What the benchmark says of its samples is true of them."""

import io

import pytest
from rich.console import Console

from bench.distribution import Distribution
from bench.failover_parts import failover_parts
from bench.failover_stall import silence
from bench.figure import Figure, print_table
from bench.key_value_speed import parse
from harness.evidence.history import History, Operation

REDIS_BENCHMARK_7 = """WARNING: Could not fetch server CONFIG
"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"
"SET","8123.45","5.901","0.512","5.815","9.023","12.111","31.007"
"GET","9001.20","5.301","0.432","5.215","8.023","11.111","30.007"
"""


def test_percentiles_are_samples() -> None:
    distribution = Distribution.of(range(1, 21))
    assert distribution.percentile(95) == 19
    assert distribution.percentile(100) == 20
    assert distribution.percentile(1) == 1
    assert distribution.median == 10.5
    assert distribution.summary(unit="ms") == "10 (1 to 20) ms"


def test_no_samples_are_no_distribution() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        Distribution.of([])


def test_redis_benchmark_is_read_by_its_header() -> None:
    readings = {reading.operation: reading for reading in parse(REDIS_BENCHMARK_7)}
    assert readings["SET"].requests_per_second == 8123.45
    assert readings["GET"].median_latency_ms == 5.215


def test_output_that_is_no_benchmark_is_refused() -> None:
    with pytest.raises(ValueError, match="substring not found"):
        parse("Could not connect to Redis at 10.0.0.2:6379: Connection refused\n")


def _answer(return_ns: int, phase: str = "load") -> Operation:
    return Operation(0, "GET", "key", None, "value", return_ns - 1, return_ns, None, phase)


def test_the_silence_is_the_longest_one_that_ends_after_the_fault() -> None:
    answers = [10, 500, 510, 520, 900, 910]
    history = History([_answer(at) for at in answers], [], [], sealed=True)
    assert silence(history, around_ns=515) == (520, 900)
    assert silence(history, around_ns=600) == (520, 900)
    assert silence(history, around_ns=100) == (10, 500)


def test_final_reads_are_no_load() -> None:
    history = History([_answer(10), _answer(20), _answer(900, "final")], [], [], sealed=True)
    assert silence(history, around_ns=5) == (10, 20)
    with pytest.raises(ValueError, match="no answer after the fault"):
        silence(history, around_ns=30)


def _event(event: str, at_ms: int, **fields: object) -> dict[str, object]:
    return {"event": event, "monotonic_ns": at_ms * 1_000_000, **fields}


def test_the_parts_of_a_failover_add_up_to_the_whole() -> None:
    trace = [
        _event("suspect", 50, reason="an earlier one that came to nothing"),
        _event("suspect", 260, reason="silence"),
        _event("drained", 263, position=7),
        _event("arbiter", 300, operation="read", outcome=1),
        _event("arbiter", 340, operation="ask", outcome="won", wanted=2),
        _event("announced", 344),
        _event("live", 345),
    ]
    parts = failover_parts(trace, fault_ns=100_000_000, first_answer_ns=370_000_000)
    assert parts is not None
    assert parts.values() == (160.0, 3.0, 77.0, 4.0, 26.0)
    assert sum(parts.values()) == 270.0


def test_who_did_not_go_live_has_no_failover_time() -> None:
    trace = [_event("suspect", 260), _event("drained", 263), _event("arbiter", 340, operation="ask", outcome="lost")]
    assert failover_parts(trace, fault_ns=100_000_000, first_answer_ns=None) is None


def test_the_table_marks_what_was_missed() -> None:
    output = io.StringIO()
    figures = [
        Figure(title="fast", result="0.99 x", goal="at least 0.97 x", reached=True),
        Figure(title="slow", result="900 ms", goal="under 300 ms", reached=False),
    ]
    print_table(figures, Console(file=output, width=120))
    lines = output.getvalue().splitlines()
    assert any("fast" in line and "reached" in line for line in lines)
    assert any("slow" in line and "missed" in line for line in lines)
