"""Every kind of arbiter, for the tests that all of them pass; each test has a VM of its own."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ftvmm.arbiters import Arbiter
from ftvmm.arbiters.etcd import EtcdArbiter
from tests.arbiters.cluster import ETCD, VM, Cluster
from tests.arbiters.contender import TIMEOUT_SECONDS, Address, open_arbiter
from tests.arbiters.target import MISSING, Target


@contextmanager
def running(directory: Path, members: int) -> Iterator[Cluster]:
    """A cluster that answers."""
    if ETCD is None:
        pytest.skip("needs Debian's etcd-server")
    cluster = Cluster(directory, members)
    try:
        cluster.await_answers(EtcdArbiter(cluster.addresses, VM, timeout_seconds=TIMEOUT_SECONDS))
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of one member that nobody hurts."""
    with running(tmp_path_factory.mktemp("etcd"), 1) as cluster:
        yield cluster


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of three members, to be hurt."""
    with running(tmp_path / "etcd", 3) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """An iSCSI target that nobody hurts."""
    yield from _target(tmp_path_factory.mktemp("target"))


@pytest.fixture
def own_target(tmp_path: Path) -> Iterator[Target]:
    """An iSCSI target, to be hurt."""
    yield from _target(tmp_path / "target")


def _target(directory: Path) -> Iterator[Target]:
    if MISSING is not None:
        pytest.skip(MISSING)
    target = Target(directory)
    try:
        yield target
    finally:
        target.stop()


@pytest.fixture(params=["file", "etcd", "scsi-pr"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Address:
    """Where an arbiter is, for whoever opens it."""
    if request.param == "file":
        return Address("file", [str(tmp_path)])
    if request.param == "scsi-pr":
        return Address("scsi-pr", request.getfixturevalue("target").places)
    return Address("etcd", request.getfixturevalue("cluster").addresses)


@pytest.fixture
def vm() -> str:
    """A VM that never ran."""
    return uuid.uuid4().hex


@pytest.fixture
def opened(address: Address, vm: str) -> Callable[[], Arbiter]:
    """Opens the arbiter anew, as each node does."""
    return lambda: open_arbiter(address, vm)
