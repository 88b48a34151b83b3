"""The clock probe against real hosts: those of this lab share this machine's clocks, so the true offset is 0."""

from __future__ import annotations

import pytest

from harness.evidence.host_clocks import HostClock
from harness.lab.clock_probe import KEPT, ClockProbe, machine_clocks
from harness.lab.interface import HostUnreachableError
from harness.lab.netns.lab import NetnsLab

MILLISECOND_NS = 1_000_000


def test_the_bounds_hold_the_true_offset(shared_lab: NetnsLab) -> None:
    start, probe = machine_clocks(), ClockProbe()
    for host in shared_lab.hosts.values():
        samples = probe.probe(host)
        assert len(samples) == KEPT
        assert len({sample.boot_id for sample in samples}) == 1
        for sample in samples:
            assert start.monotonic_ns < sample.before_ns < sample.boottime_ns < sample.after_ns
            # This machine's own pair of clocks, but for the time between two calls.
            assert abs(sample.pair_ns - (start.wall_ns - start.monotonic_ns)) < 100 * MILLISECOND_NS
        end = machine_clocks()
        clock = HostClock(samples, [], end_ns=end.monotonic_ns)
        here = machine_clocks().monotonic_ns
        at = clock.locate([here])[here]
        assert abs(at.monotonic_ns - here) <= at.uncertainty_ns
        # One round trip of SSH on this machine, however busy it is.
        assert at.uncertainty_ns < 50 * MILLISECOND_NS


def test_a_host_that_does_not_answer_is_named(shared_lab: NetnsLab) -> None:
    host = shared_lab.hosts["host-c"]
    host.freeze()
    try:
        with pytest.raises(HostUnreachableError, match="host-c"):
            ClockProbe(timeout_seconds=0.3).probe(host)
    finally:
        host.thaw()
    assert ClockProbe(exchanges=1).probe(host)


def test_a_probe_finds_a_host_again_that_was_started_again(shared_lab: NetnsLab) -> None:
    host, probe = shared_lab.hosts["host-b"], ClockProbe(exchanges=1)
    assert probe.probe(host)
    host.power_off()
    assert {sample.host for sample in probe.probe_all(shared_lab)} == set(shared_lab.hosts) - {"host-b"}
    host.power_on()
    assert {sample.host for sample in probe.probe_all(shared_lab)} == set(shared_lab.hosts)


def test_a_conversation_is_of_lines_and_ends_with_its_block(shared_lab: NetnsLab) -> None:
    host = shared_lab.hosts["host-a"]
    with host.converse('while read -r line; do echo "heard $line"; done') as conversation:
        assert [conversation.ask("one"), conversation.ask("two words")] == ["heard one", "heard two words"]
    with host.converse("true") as conversation, pytest.raises(HostUnreachableError, match="host-a"):
        conversation.ask("anybody")
