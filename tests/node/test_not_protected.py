"""A pair whose backup could not take over says so, on both nodes, and says when it could again."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from fault_injectors.disk import DiskError
from fault_injectors.networks import ArbiterUnreachable
from harness.lab import topology
from harness.lab.interface import Lab
from harness.promise import unnoticed
from harness.scenario import Plan
from harness.vm.pair import Node
from harness.vm.run import Run


@pytest.fixture
def pair_under_load(lab: Lab, tmp_path: Path) -> Iterator[Run]:
    """A healthy pair, whose evidence nobody needs."""
    plan = Plan(promise=unnoticed(), faults=(DiskError, ArbiterUnreachable))
    run = Run(lab, tmp_path / "evidence", plan, name="not-protected")
    try:
        run.start()
        yield run
    finally:
        run.abandon()


def not_protected(node: Node) -> str | None:
    status = node.status()
    assert status
    reason: str | None = status["not_protected"]
    return reason


def wait_until_both_say(run: Run, of_the_backup: str, of_the_primary: str) -> None:
    """Empty: nothing is lacking."""

    def said() -> bool:
        own, heard = not_protected(run.backup) or "", not_protected(run.primary) or ""
        return (of_the_backup in own if of_the_backup else not own) and heard == of_the_primary

    run.pair.wait_until(said, what=f"they say {of_the_primary!r}", timeout_seconds=30)


def test_both_nodes_say_for_want_of_what_the_backup_could_not_take_over(pair_under_load: Run) -> None:
    run = pair_under_load
    host = run.backup.host
    wait_until_both_say(run, "", "")
    host.run(f"ip link set {topology.TAP} down", check=True)
    wait_until_both_say(run, topology.TAP, "the backup cannot use its network interface")
    host.run(f"ip link set {topology.TAP} up", check=True)
    wait_until_both_say(run, "", "")
    with run.under(DiskError(run.lab, host)):
        wait_until_both_say(run, "failed to", "the backup cannot use its disk")
    wait_until_both_say(run, "", "")
    with run.under(ArbiterUnreachable(run.lab, [host])):
        wait_until_both_say(run, "the arbiter", "the backup cannot use the arbiter")
    wait_until_both_say(run, "", "")
    run.expect_together()
    told = [event["lacks"] for event in run.primary.trace() if event["event"] == "protection"]
    assert all(before != now for before, now in pairwise(told)), "the trace tells of changes"
