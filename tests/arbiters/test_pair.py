"""A pair whose arbiter is an etcd cluster: it forms, and the survivor claims the VM there."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from ftvmm.arbiters.etcd import EtcdArbiter
from harness.lab.waiting import wait_until
from tests.arbiters.cluster import ETCD, Cluster
from tests.node.local_pair import VM, LocalPair, start, status_of

pytestmark = pytest.mark.skipif(ETCD is None, reason="needs Debian's etcd-server")


def role_of(config: Path) -> str:
    status = status_of(config)
    return str(status["role"]) if status else ""


def test_the_survivor_claims_the_vm_in_a_cluster_that_has_lost_a_member(three: Cluster, tmp_path: Path) -> None:
    members = ", ".join(f'"{address}"' for address in three.addresses)
    arbiter = f'kind = "etcd"\nmembers = [{members}]\nlocal = true\ntimeout_ms = 1500'
    # It asks for nothing: the survivor replays it to its end, which it may say when the VM is its own.
    pair = LocalPair(tmp_path, arbiters=(arbiter, arbiter), arguments=["--rounds=20000"])
    with ExitStack() as ends:
        spare = ends.enter_context(start(pair.spare))
        ends.callback(spare.kill)
        assert wait_until(lambda: role_of(pair.spare) == "SPARE", timeout_seconds=30)
        primary = ends.enter_context(start(pair.primary, "--bootstrap"))
        ends.callback(primary.kill)
        assert wait_until(lambda: role_of(pair.spare) == "BACKUP", timeout_seconds=30), role_of(pair.primary)
        status = status_of(pair.spare)
        assert status is not None
        assert status["arbiter"]["kind"] == "etcd"
        held = EtcdArbiter(three.addresses, VM, timeout_seconds=3)
        assert (held.read().generation, held.read().node) == (1, "primary")
        three.signal(0, signal.SIGKILL)
        primary.kill()
        _, said = spare.communicate(timeout=120)
        assert spare.returncode == 0, said
        three.await_answers(held)
        assert (held.read().generation, held.read().node) == (2, "spare")
        assert f"{held.read().incarnation:016x}" == status["incarnation"]
        assert "20000 rounds, digest" in (pair.spare.parent / "console.log").read_text()
