"""A frame that the network interface refuses has not left: a backup emits it, and without one it is counted as lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fault_injectors.vmm import KillVmm
from harness.lab import topology
from harness.lab.interface import Lab
from harness.promise import Expect, Promise
from harness.scenario import Plan
from harness.vm.pair import Node
from harness.vm.run import Run


@pytest.fixture
def unjudged(lab: Lab, tmp_path: Path) -> Iterator[Run]:
    """A pair under load that no oracle judges: a frame that nobody emits is what they look for."""
    plan = Plan(promise=Promise(expect=Expect.FAILOVER), faults=(KillVmm,))
    run = Run(lab, tmp_path / "evidence", plan, name="refused-frames")
    try:
        run.start()
        yield run
    finally:
        run.abandon()


def set_interface(node: Node, state: str) -> None:
    node.host.run(f"ip link set {topology.TAP} {state}")


def frames_lost(node: Node) -> int:
    status = node.status()
    assert status
    lost: int = status["output"]["frames_lost"]
    return lost


def test_a_primary_whose_interface_is_down_leaves_the_vm_to_its_backup(unjudged: Run) -> None:
    run = unjudged
    primary, survivor = run.primary, run.backup
    set_interface(primary, "down")
    run.expect_takeover(survivor)
    trace = primary.trace()
    [refused] = [event["index"] for event in trace if event["event"] == "frame-refused"]
    assert max(event["through"] for event in trace if event["event"] == "output-done") < refused


def test_a_primary_alone_whose_interface_is_down_goes_on_and_counts(unjudged: Run) -> None:
    run = unjudged
    primary, backup = run.primary, run.backup
    run.inject(KillVmm(run.lab, backup.host, backup.process.pid))
    run.expect_takeover(primary)
    assert frames_lost(primary) == 0
    set_interface(primary, "down")
    run.pair.wait_until(
        lambda: frames_lost(primary) > 0, what=f"{primary.name} counts a frame that was refused", timeout_seconds=30
    )
    set_interface(primary, "up")
    run.expect_service()
