"""Each failpoint is reached, and a node that is held at one goes on with all else: above all it answers its peer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fault_injectors.vmm import KillVmm
from harness.lab import topology
from harness.lab.interface import Lab
from harness.promise import Expect, Promise
from harness.scenario import Plan
from harness.vm.failpoints import FailpointError, Moment, NodeGoneError, Point, failpoint
from harness.vm.pair import TRACE, Node
from harness.vm.run import Run

Start = Callable[..., Run]

SAMPLES = 5
"""Of its lag, one each 50 ms: while a node writes so many, DETECT passes."""

AT_THE_PRIMARY = [
    ("input-appended", None),
    ("entry-half-sent", None),
    ("entry-sent", None),
    ("entry-acknowledged", None),
    ("output-produced", "frame"),
    ("before-second-check", "frame"),
    ("after-second-check", "frame"),
    ("before-second-check", "block"),
    ("block-write-begun", None),
    ("block-write-ended", None),
]
AT_THE_BACKUP = [("entry-received", None), ("entry-replayed", None)]
AT_A_START = ["commit-sent", "commit-received"]
AT_A_TRANSFER = ["transfer-begun", "guest-stopped", "state-restored"]
AT_A_TAKEOVER = ["suspect", "drained", "before-ask", "after-ask", "won", "attached", "announced", "first-output"]


@pytest.fixture
def start(lab: Lab, tmp_path: Path) -> Iterator[Start]:
    runs: list[Run] = []

    def start_run(*armed: str, failpoints: bool = True) -> Run:
        promise = Promise(expect=Expect.FAILOVER)
        plan = Plan(promise=promise, faults=(KillVmm,), failpoints=armed if failpoints else None)
        run = Run(lab, tmp_path / "evidence", plan, name="failpoints")
        runs.append(run)
        run.start()
        return run

    yield start_run
    for run in runs:
        run.abandon()


def samples(node: Node) -> int:
    """Counted on the host: a trace of megabytes takes its time, and what is held must not be for T_ACK."""
    return int(node.host.run(f'grep -c \'"event":"lag"\' {TRACE}').stdout)


def generations(run: Run) -> int:
    directory = f"{topology.STORAGE_ARBITER}/{run.pair.vm.replace('-', '')}"
    return len(run.lab.storage_host.run(f"ls {directory}").stdout.split())


def test_a_thread_that_is_held_holds_nothing_else(start: Start) -> None:
    run = start()
    primary, backup = run.primary, run.backup
    points = [(primary, *point) for point in AT_THE_PRIMARY] + [(backup, *point) for point in AT_THE_BACKUP]
    for node, point, kind in points:
        with run.at(point, node, kind=kind, after=2) as moment:
            assert moment.wait().number > 0
            before = samples(node)
            run.pair.wait_until(
                lambda node=node, before=before: samples(node) >= before + SAMPLES,
                what=f"{node.name}, held at {point}, goes on",
                timeout_seconds=10,
            )
        assert not [event for each in (primary, backup) for event in each.trace() if event["event"] == "suspect"], point
        run.expect_service()
    run.expect_protected()


def test_a_takeover_step_by_step(start: Start) -> None:
    run = start()
    survivor = run.backup
    with contextlib.ExitStack() as held:
        moments = [held.enter_context(run.at(point, survivor)) for point in AT_A_TAKEOVER]
        run.inject(KillVmm(run.lab, run.primary.host, run.primary.process.pid))
        hits, claimed = [], []
        for moment in moments:
            hits.append(moment.wait().monotonic_ns)
            claimed.append(generations(run))
            moment.release()
    assert hits == sorted(hits)
    before, after = (AT_A_TAKEOVER.index(point) for point in ("before-ask", "after-ask"))
    assert len(set(claimed[: before + 1])) == 1
    assert {count - claimed[before] for count in claimed[after:]} == {1}
    run.expect_takeover(survivor)


def test_a_primary_that_is_held_when_it_has_won_says_nothing(start: Start) -> None:
    run = start()
    primary = run.primary
    with run.at("won", primary) as moment:
        run.inject(KillVmm(run.lab, run.backup.host, run.backup.process.pid))
        moment.wait()
        released = primary.status()["output"]["released"]
        with pytest.raises(FailpointError, match="not hit"), run.at("after-second-check", primary) as emission:
            emission.wait(timeout_seconds=1)
        assert primary.status()["role"] == "ALONE"
        assert primary.status()["output"]["released"] == released
    run.expect_service()


def test_points_that_only_a_start_comes_to(start: Start) -> None:
    armed = {point: failpoint(point, "delay:300") for point in AT_A_START}
    run = start(*armed.values())
    for node, point in zip((run.primary, run.backup), AT_A_START, strict=True):
        assert run.pair.wait_for_event(node, "failpoint", point=point)["armed"] == armed[point]


def test_points_that_a_transfer_comes_to(start: Start) -> None:
    run = start()
    spare, owner = run.pair.start_spare(), run.primary
    run.inject(KillVmm(run.lab, run.backup.host, run.backup.process.pid))
    run.pair.wait_until_alone(owner)
    begun, stopped = run.at("transfer-begun", owner), run.at("guest-stopped", owner)
    with begun, stopped, run.at("state-restored", spare) as restored:
        run.pair.begin_protecting(owner, spare)
        begun.wait()
        begun.release()
        # The joiner's own point comes first, or behind the primary's.
        stopped.wait()
        restored.wait()
    run.pair.wait_until_protected(owner, spare)
    run.expect_service()


@pytest.mark.parametrize(("action", "ends"), [("kill", True), ("stop", False)])
def test_a_node_that_dies_or_stops_at_a_point(start: Start, action: str, ends: bool) -> None:
    run = start()
    primary, survivor = run.primary, run.backup
    primary.failpoints.arm(failpoint("block-write-ended", action, after=3))
    run.expect_takeover(survivor)
    assert primary.process.is_running() is not ends
    events = [event["event"] for event in primary.trace()]
    assert "output" not in events[events.index("failpoint") :]


def test_a_failpoint_that_does_not_exist(start: Start) -> None:
    run = start()
    with pytest.raises(ValueError, match="before-tea"):
        run.at("before-tea", run.primary)
    with pytest.raises(FailpointError, match="there is no point"):
        run.primary.failpoints.arm("before-tea block")


def test_the_shipped_build_has_no_failpoints(start: Start) -> None:
    run = start(failpoints=False)
    assert run.primary.status()["build"] == "shipped"
    with pytest.raises(ValueError, match="has no failpoints"):
        run.at("before-ask", run.primary)
    with pytest.raises(NodeGoneError, match="has no failpoints"):
        Moment(run.primary.failpoints, failpoint("before-ask", "block"))


def test_every_point_has_its_test() -> None:
    at_ease = {point for point, _ in (*AT_THE_PRIMARY, *AT_THE_BACKUP)}
    assert at_ease | {*AT_A_TAKEOVER, *AT_A_START, *AT_A_TRANSFER} == set(Point)
