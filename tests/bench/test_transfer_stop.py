"""What the benchmark says of live transfers is true of them, and the goal is compared where it was set."""

import io

import pytest
from rich.console import Console

from bench.figure import print_details
from bench.transfer_stop import GOAL_MIB, Load, Sample, Subject, figure_of, subjects
from harness.evidence.transfer import LiveTransfer, Round
from harness.promise import Workload

MILLISECOND_NS = 1_000_000


def _kv(memory_mib: int) -> Subject:
    (subject,) = subjects([memory_mib])
    return subject


def _sample(stop_ms: int, *, wait_ms: float | None = 40.0) -> Sample:
    """The joiner takes all of the stop but 7 ms."""
    ends_ms = (100, 101, 101 + stop_ms - 7, 102 + stop_ms - 7, 106 + stop_ms - 7, 100 + stop_ms)
    stopping, stopped, there, restored, committed, resumed = (at_ms * MILLISECOND_NS for at_ms in ends_ms)
    transfer = LiveTransfer(
        owner="host-a",
        joiner="host-b",
        begun_ns=0,
        rounds=(Round(300, 50 * MILLISECOND_NS), Round(120, 90 * MILLISECOND_NS)),
        stopping_ns=stopping,
        stopped_ns=stopped,
        there_ns=there,
        restored_ns=restored,
        committed_ns=committed,
        resumed_ns=resumed,
    )
    return Sample(transfer, 48.0, wait_ms, wait_ms, wait_ms)


def test_the_median_is_compared_with_the_goal_and_the_largest_is_told() -> None:
    figure = figure_of(_kv(GOAL_MIB), Load.LIGHT, [_sample(stop_ms) for stop_ms in (16, 17, 72)])
    assert figure.protected == "17 (16 to 72) ms"
    assert figure.result == "17 ms, max 72"
    assert figure.reached is True
    assert figure.samples["stop_ms"] == [16, 17, 72]
    assert figure.samples["joiner_ms"] == [9, 10, 65]
    assert figure.samples["pages_per_second"] == pytest.approx([6000, 6000, 6000])
    assert figure_of(_kv(GOAL_MIB), Load.FULL, [_sample(51)]).reached is False


@pytest.mark.parametrize(("memory_mib", "load"), [(GOAL_MIB, Load.IDLE), (64, Load.LIGHT)])
def test_what_nobody_has_promised_has_no_goal(memory_mib: int, load: Load) -> None:
    figure = figure_of(_kv(memory_mib), load, [_sample(51)])
    assert (figure.goal, figure.reached) == ("", None)


def test_the_details_say_what_a_stop_is_made_of_and_that_nobody_waited() -> None:
    figures = [
        figure_of(_kv(512), Load.IDLE, [_sample(20, wait_ms=None)]),
        figure_of(_kv(512), Load.LIGHT, [_sample(30), _sample(40)]),
    ]
    output = io.StringIO()
    print_details(figures, Console(file=output, width=150))
    idle, light = (line.split() for line in output.getvalue().splitlines() if "kv 512" in line)
    assert idle[-3:] == ["-", "-", "-"]
    assert "35" in light
    assert "(40)" in light


def test_a_guest_is_filled_as_far_as_it_has_room() -> None:
    *of_kv, redis = subjects(None)
    assert [subject.memory_mib for subject in of_kv] == [64, 256, 512]
    assert [subject.keys for subject in of_kv] == [4096, 16384, 32768]
    assert "--disk-mib=128" in of_kv[-1].guest().arguments
    assert (redis.workload, redis.keys * redis.value_bytes) == (Workload.REDIS, 256 << 20)
    assert redis.guest().memory_mib == 512


def test_without_details_there_is_no_second_table() -> None:
    output = io.StringIO()
    print_details([], Console(file=output))
    assert output.getvalue() == ""
