"""The lists that the box is made by: every package exists, and no list contradicts another."""

import subprocess

import pytest

from lab.box import PACKAGES, contents
from lab.box.root_tree import BEFORE_THE_KERNEL, MODES, OVERLAY, UNITS


@pytest.fixture(scope="module")
def known_to_apt() -> set[str]:
    names = subprocess.run(["apt-cache", "pkgnames"], capture_output=True, text=True, check=True).stdout.split()
    assert "dpkg" in names, "apt has no package lists: run `apt-get update`"
    return set(names)


def test_every_package_in_the_box_is_known_to_apt(known_to_apt: set[str]) -> None:
    assert not set(contents.PACKAGES) - known_to_apt


def test_every_package_that_the_build_needs_is_known_to_apt(known_to_apt: set[str]) -> None:
    assert not set(PACKAGES) - known_to_apt


@pytest.mark.parametrize(
    "names", [contents.MASKED_UNITS, contents.MASKED_GENERATORS, contents.MASKED_UDEV_RULES, contents.LEFT_OUT]
)
def test_nothing_is_listed_twice(names: tuple[str, ...]) -> None:
    assert sorted(names) == sorted(set(names))


def test_no_unit_is_both_enabled_and_masked() -> None:
    assert not set(contents.ENABLED_UNITS) & set(contents.MASKED_UNITS)


def test_the_storage_host_can_start_its_export() -> None:
    """Its units may be disabled, never masked: nfs-server.service asks for mountd and the nfsd file system."""
    needed = {"nfs-server.service", "nfs-mountd.service", "proc-fs-nfsd.mount", "nfsdcld.service"}
    assert not needed & (set(contents.MASKED_UNITS) | set(contents.ENABLED_UNITS))


def test_units_of_our_own_are_in_the_overlay() -> None:
    for unit in contents.ENABLED_UNITS:
        assert not unit.startswith("ftvmm-") or (OVERLAY / UNITS / unit).is_file()


@pytest.mark.parametrize("name", [*BEFORE_THE_KERNEL, *MODES])
def test_special_files_are_in_the_overlay(name: str) -> None:
    assert (OVERLAY / name).is_file()
