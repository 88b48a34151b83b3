"""What the benchmark says of its samples is true of them."""

import io

import pytest
from rich.console import Console

from bench.distribution import Distribution
from bench.figure import Figure, print_table
from bench.key_value_speed import parse

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
