"""What keeps a node from its pair as it starts: other terms, another arbiter, a directory no other host can see."""

from __future__ import annotations

from pathlib import Path

from tests.node.local_pair import LocalPair, file_arbiter, start


def what_the_spare_refuses_by(pair: LocalPair) -> str:
    """What a spare says that does not become the primary's backup, and halts."""
    with start(pair.spare) as spare, start(pair.primary, "--bootstrap") as primary:
        try:
            _, said = spare.communicate(timeout=60)
        finally:
            spare.kill()
            primary.kill()
    assert spare.returncode == 3
    return said


def test_a_spare_refuses_a_primary_of_another_lease_by_name(tmp_path: Path) -> None:
    said = what_the_spare_refuses_by(LocalPair(tmp_path, lease_ms=(110, 100)))
    assert "lease_ms is 110 at the peer and 100 here" in said


def test_a_spare_of_another_arbiter_refuses_the_primary_by_name(tmp_path: Path) -> None:
    arbiters = (file_arbiter(tmp_path / "one"), file_arbiter(tmp_path / "another"))
    said = what_the_spare_refuses_by(LocalPair(tmp_path, arbiters=arbiters))
    assert "both nodes need one arbiter" in said
    assert "the arbiter holds no generation of this VM here" in said


def test_no_vm_is_bootstrapped_where_no_other_host_can_see_it(tmp_path: Path) -> None:
    """A share that is not mounted is a directory like any other: generation 1 there could be had on each host."""
    arbiter = file_arbiter(tmp_path / "arbiter", local=False)
    pair = LocalPair(tmp_path, arbiters=(arbiter, arbiter))
    with start(pair.primary, "--bootstrap") as primary:
        _, said = primary.communicate(timeout=60)
    assert primary.returncode == 2
    assert "is the share mounted?" in said
    assert list((tmp_path / "arbiter").iterdir()) == []
