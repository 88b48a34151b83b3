"""A box is built again exactly when something that makes it has changed, or it is no longer whole."""

import hashlib
import io
import shutil
from pathlib import Path

import pytest

from lab.box import catalogue, commands
from lab.box.build import DISK_GIBIBYTES, SOURCES, Paths, build, fingerprint, present
from lab.provision.step import Stamps

KEYS = "ssh-ed25519 AAAA nobody\n"


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SOURCES, tmp_path / "sources", ignore=shutil.ignore_patterns("__pycache__")))


def _fingerprint(sources: Path, *, keys: str = KEYS, disk_gibibytes: int = DISK_GIBIBYTES) -> str:
    return fingerprint(keys=keys, disk_gibibytes=disk_gibibytes, sources=sources)


def test_a_copy_of_the_sources_has_the_same_fingerprint(sources: Path) -> None:
    assert _fingerprint(sources) == _fingerprint(SOURCES)


def test_what_python_compiled_does_not_count(sources: Path) -> None:
    before = _fingerprint(sources)
    (sources / "__pycache__").mkdir()
    (sources / "__pycache__" / "build.cpython-311.pyc").write_bytes(b"compiled")
    assert _fingerprint(sources) == before


@pytest.mark.parametrize("name", ["contents.py", "disk_image.py", "root/boot/grub/grub.cfg", "root/etc/hosts"])
def test_a_changed_source_changes_it(sources: Path, name: str) -> None:
    before = _fingerprint(sources)
    (sources / name).write_text((sources / name).read_text() + "\n")
    assert _fingerprint(sources) != before


def test_a_renamed_file_of_the_overlay_changes_it(sources: Path) -> None:
    before = _fingerprint(sources)
    (sources / "root/etc/hosts").rename(sources / "root/etc/hosts.new")
    assert _fingerprint(sources) != before


def test_keys_and_options_change_it(sources: Path) -> None:
    first = _fingerprint(sources)
    assert len({first, _fingerprint(sources, keys=""), _fingerprint(sources, disk_gibibytes=9)}) == 3


def test_documentation_does_not_change_it(sources: Path) -> None:
    before = _fingerprint(sources)
    (sources / "README.md").write_text("other words\n")
    assert _fingerprint(sources) == before


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Directory with a finished build, whose box is three bytes."""
    paths = Paths(tmp_path / "box")
    paths.directory.mkdir()
    paths.box.write_bytes(b"box")
    paths.packages.write_text("dpkg=1.21.22\n")
    sha256 = hashlib.sha256(b"box").hexdigest()
    catalogue.write(paths.catalogue, catalogue.Entry(version="0.20260304.506", sha256=sha256, box=paths.box))
    Stamps(paths.directory).put("box", _fingerprint(SOURCES))
    return paths.directory


def test_a_finished_box_is_not_built_again(output: Path) -> None:
    box = build(output=output, keys=KEYS, progress=io.StringIO())
    assert not box.built
    assert (box.path.read_bytes(), box.version, box.name) == (b"box", "0.20260304.506", "ftvmm/bookworm")


def test_what_a_killed_build_left_is_removed(output: Path) -> None:
    (output / "work" / "root").mkdir(parents=True)
    build(output=output, keys=KEYS, progress=io.StringIO())
    assert not (output / "work").exists()


@pytest.mark.parametrize("damage", ["box-changed", "box-gone", "packages-gone", "catalogue-gone", "moved"])
def test_a_box_that_is_not_whole_does_not_count(output: Path, damage: str) -> None:
    paths = Paths(output)
    assert present(output=output) is not None
    match damage:
        case "box-changed":
            paths.box.write_bytes(b"bax")
        case "box-gone":
            paths.box.unlink()
        case "packages-gone":
            paths.packages.unlink()
        case "catalogue-gone":
            paths.catalogue.unlink()
        case "moved":
            output = output.rename(output.with_name("elsewhere"))
    assert present(output=output) is None


def test_mounts_in_a_directory_are_told_from_its_neighbours(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    mounts = [f"{tmp_path}/tree", f"{tmp_path}/tree/root/a\\040b", f"{tmp_path}/treetop/dev", "/"]
    table.write_text("".join(f"36 35 98:0 / {mount} rw - tmpfs none rw\n" for mount in mounts))
    found = commands.mounts_below(tmp_path / "tree", table=table)
    assert found == [tmp_path / "tree", tmp_path / "tree/root/a b"]
