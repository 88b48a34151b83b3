"""The `file` arbiter: what its directory holds, and when that is no answer."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from ftvmm.arbiters import ArbiterUnreachableError, FileArbiter, NotSharedError, Record
from ftvmm.arbiters.file import file_system_of
from tests.arbiters.cluster import VM


def test_nothing_but_generations_is_left_behind(tmp_path: Path) -> None:
    arbiter = FileArbiter(tmp_path, VM)
    arbiter.ask(generation=1, incarnation=1, node="a")
    arbiter.ask(generation=1, incarnation=2, node="b")
    assert [path.name for path in (tmp_path / VM).iterdir()] == ["generation-00000001"]


def test_a_share_that_is_not_mounted_is_unreachable_and_not_empty(tmp_path: Path) -> None:
    arbiter = FileArbiter(tmp_path / "share", VM)
    with pytest.raises(ArbiterUnreachableError, match="mounted"):
        arbiter.read()
    with pytest.raises(ArbiterUnreachableError):
        arbiter.ask(generation=2, incarnation=1, node="a")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"generation": 9, "incarnation": 1, "node": "a"}'])
def test_a_damaged_record_is_no_answer(tmp_path: Path, content: str) -> None:
    arbiter = FileArbiter(tmp_path, VM)
    arbiter.ask(generation=1, incarnation=1, node="a")
    (tmp_path / VM / "generation-00000001").write_text(content)
    with pytest.raises(ArbiterUnreachableError, match="generation-00000001"):
        arbiter.read()


def test_a_record_that_the_storage_may_forget_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose it is counts when the directory was flushed: a failed flush is no win, nor is what is read after it."""
    flush = os.fsync
    failing = [True]

    def fsync(descriptor: int) -> None:
        if failing[0] and stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    arbiter = FileArbiter(tmp_path, VM)
    for call in (lambda: arbiter.ask(generation=1, incarnation=7, node="a"), arbiter.read):
        with pytest.raises(ArbiterUnreachableError, match="cannot be flushed"):
            call()
    failing[0] = False
    assert arbiter.read() == Record(1, 7, "a")


def test_a_directory_of_this_host_alone_is_no_share(tmp_path: Path) -> None:
    """As the mount point of a share looks that is not mounted."""
    with pytest.raises(NotSharedError, match="is the share mounted"):
        FileArbiter(tmp_path, VM).require_shared()
    with pytest.raises(NotSharedError, match="No such file"):
        FileArbiter(tmp_path / "nothing", VM).require_shared()
    FileArbiter(tmp_path, VM, is_local=True).require_shared()


MOUNTS = """\
21 1 8:1 / / rw - ext4 /dev/sda1 rw
22 21 0:5 / /mnt/my\\040share rw - ext4 /dev/sdb1 rw
23 22 0:40 / /mnt/my\\040share rw shared:1 - nfs4 storage:/share rw
24 21 0:41 / /mnt/my\\040sharelocal rw - xfs /dev/sdc1 rw
"""


@pytest.mark.parametrize(
    ("directory", "kind"),
    [
        ("/mnt", "ext4"),
        ("/mnt/my share", "nfs4"),
        ("/mnt/my share/vm", "nfs4"),
        ("/mnt/my sharelocal/vm", "xfs"),
        ("/mnt/my shared", "ext4"),
    ],
)
def test_the_kind_of_the_file_system_is_that_of_the_innermost_mount(directory: str, kind: str) -> None:
    assert file_system_of(Path(directory), MOUNTS) == kind
