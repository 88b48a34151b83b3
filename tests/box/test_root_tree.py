"""What is taken out of the root file tree, and what must be in it."""

import os
from pathlib import Path

import pytest

from lab.box import contents, root_tree
from lab.box.commands import SOURCE_DATE_EPOCH, BoxFailed
from lab.box.root_tree import scrub


def _write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("etc/machine-id", "etc/shadow-", "var/log/apt/history.log", "var/cache/ldconfig/aux-cache"):
        _write(tmp_path / name, "differs")
    _write(tmp_path / "etc/ssh/ssh_host_ed25519_key", "differs")
    _write(tmp_path / "usr/bin/tool", "stays")
    (tmp_path / "etc/resolv.conf").symlink_to("/run/elsewhere")
    return tmp_path


def test_what_differs_from_build_to_build_is_gone(root: Path) -> None:
    scrub(root)
    files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert files == {"etc/machine-id", "etc/resolv.conf", "etc/.updated", "var/.updated", "usr/bin/tool"}
    assert (root / "etc/machine-id").read_bytes() == (root / "etc/resolv.conf").read_bytes() == b""
    assert (root / "var/log/apt").is_dir()


def test_no_file_is_younger_than_the_box(root: Path) -> None:
    old = SOURCE_DATE_EPOCH - 1000
    os.utime(root / "usr/bin/tool", (old + 500, old))
    scrub(root)
    times = {path: path.lstat().st_mtime for path in [root, *root.rglob("*")]}
    assert times.pop(root / "usr/bin/tool") == old
    assert set(times.values()) == {SOURCE_DATE_EPOCH}


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    """A kernel that has every module of the list, some built in, some compressed."""
    release = tmp_path / "usr/lib/modules/6.1.0-cloud"
    names = list(contents.KERNEL_MODULES)
    for name in names[2:]:
        _write(release / "kernel/drivers" / f"{name}.ko.xz")
    built_in = "".join(f"kernel/virt/{name.replace('-', '_')}.ko\n" for name in names[:2])
    _write(release / "modules.builtin", built_in)
    return tmp_path


def test_a_complete_kernel_passes(kernel: Path) -> None:
    assert root_tree.check_modules(kernel, wanted=contents.KERNEL_MODULES) == "6.1.0-cloud"


@pytest.mark.parametrize("name", list(contents.KERNEL_MODULES)[2:])
def test_a_missing_module_is_named(kernel: Path, name: str) -> None:
    (kernel / "usr/lib/modules/6.1.0-cloud/kernel/drivers" / f"{name}.ko.xz").unlink()
    with pytest.raises(BoxFailed, match=rf"6\.1\.0-cloud in the box lacks {name}:"):
        root_tree.check_modules(kernel, wanted=contents.KERNEL_MODULES)


def test_two_kernels_or_none_are_refused(kernel: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (kernel / "usr/lib/modules/6.2.0-cloud").mkdir()
    with pytest.raises(BoxFailed, match="has 2"):
        root_tree.check_modules(kernel, wanted=())
    with pytest.raises(BoxFailed, match="none"):
        root_tree.check_modules(tmp_path_factory.mktemp("empty"), wanted=())
