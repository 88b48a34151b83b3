"""A pair whose arbiter is an etcd cluster, or a logical unit: it forms, and the survivor claims the VM there."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from ftvmm import configuration
from ftvmm.arbiters import Arbiter
from ftvmm.arbiters.etcd import EtcdArbiter
from ftvmm.arbiters.iscsi import ReservationConflictError, Session
from ftvmm.arbiters.logical_unit import LogicalUnit
from ftvmm.arbiters.scsi import LunAddress, ScsiArbiter
from ftvmm.examination import Finding, examine_node
from harness.lab.waiting import wait_until
from tests.arbiters.cluster import ETCD, Cluster
from tests.arbiters.target import MISSING, Target
from tests.node.local_pair import VM, LocalPair, start, status_of


def role_of(config: Path) -> str:
    status = status_of(config)
    return str(status["role"]) if status else ""


def fail_over(
    directory: Path, table: str, held: Arbiter, *, meanwhile: Callable[[], None], await_answers: Callable[[], None]
) -> None:
    """A pair with an arbiter's table forms, its primary is killed, and its survivor ends the VM that it has claimed.

    `meanwhile` happens right before the primary's death.
    """
    # It asks for nothing: the survivor replays it to its end, which it may say when the VM is its own.
    pair = LocalPair(directory, arbiters=(table, table), arguments=["--rounds=20000"])
    with ExitStack() as ends:
        spare = ends.enter_context(start(pair.spare))
        ends.callback(spare.kill)
        assert wait_until(lambda: role_of(pair.spare) == "SPARE", timeout_seconds=30)
        primary = ends.enter_context(start(pair.primary, "--bootstrap"))
        ends.callback(primary.kill)
        assert wait_until(lambda: role_of(pair.spare) == "BACKUP", timeout_seconds=30), role_of(pair.primary)
        status = status_of(pair.spare)
        assert status is not None
        assert status["arbiter"]["kind"] == held.kind
        assert (held.read().generation, held.read().node) == (1, "primary")
        meanwhile()
        primary.kill()
        _, said = spare.communicate(timeout=120)
        assert spare.returncode == 0, said
        await_answers()
        assert (held.read().generation, held.read().node) == (2, "spare")
        assert f"{held.read().incarnation:016x}" == status["incarnation"]
        assert "20000 rounds, digest" in (pair.spare.parent / "console.log").read_text()


@pytest.mark.skipif(ETCD is None, reason="needs Debian's etcd-server")
def test_the_survivor_claims_the_vm_in_a_cluster_that_has_lost_a_member(three: Cluster, tmp_path: Path) -> None:
    members = ", ".join(f'"{address}"' for address in three.addresses)
    held = EtcdArbiter(three.addresses, VM, timeout_seconds=3)
    fail_over(
        tmp_path,
        f'kind = "etcd"\nmembers = [{members}]\nlocal = true\ntimeout_ms = 1500',
        held,
        meanwhile=lambda: three.signal(0, signal.SIGKILL),
        await_answers=lambda: three.await_answers(held),
    )


@pytest.mark.skipif(MISSING is not None, reason=MISSING or "")
@pytest.mark.parametrize("is_restarted", [False, True], ids=["", "restarted"])
def test_the_survivor_claims_the_vm_at_a_logical_unit(
    own_target: Target, tmp_path: Path, *, is_restarted: bool
) -> None:
    """A target that was restarted has forgotten who held it, and not who owns the VM."""
    url = own_target.url(VM)
    address = LunAddress.parse(url)
    fail_over(
        tmp_path,
        f'kind = "scsi-pr"\nurl = "{url}"\nlocal = true\ntimeout_ms = 1500',
        ScsiArbiter(address, VM, timeout_seconds=3),
        meanwhile=own_target.restart if is_restarted else lambda: None,
        await_answers=lambda: None,
    )
    deadline = time.monotonic() + 3
    session = Session(address.portal, address.target, 1, initiator="iqn.2026-11.invalid.test:other", deadline=deadline)
    stranger = LogicalUnit(session, deadline=deadline)
    # Its first command is told of the login.
    stranger.reservation()
    with pytest.raises(ReservationConflictError):
        stranger.write(stranger.blocks - 1, bytes(stranger.block_bytes))
    stranger.close()


@pytest.mark.skipif(MISSING is not None, reason=MISSING or "")
def test_doctor_tries_a_logical_unit_out(own_target: Target, tmp_path: Path) -> None:
    url = own_target.url(VM)
    table = f'kind = "scsi-pr"\nurl = "{url}"\nlocal = true\ntimeout_ms = 1500'
    config = configuration.load(LocalPair(tmp_path, arbiters=(table, table)).primary)

    def found() -> Finding:
        return next(finding for finding in examine_node(config, None) if finding.what == f"arbiter scsi-pr {url}")

    finding = found()
    assert "the VM never ran; the target forgets its reservation when it is restarted" in finding.found
    assert finding.needed_for == frozenset(), "it can be done, and less well"
    own_target.signal(signal.SIGSTOP)
    assert "no answer in time" in found().found
    own_target.signal(signal.SIGKILL)
    finding = found()
    assert "no connection could be made" in finding.found
    assert finding.needed_for
