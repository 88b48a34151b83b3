"""What is missing on the machine is said before the build starts, with the package that brings it."""

from pathlib import Path

import pytest

from lab.box import tools
from lab.box.commands import BoxFailed


@pytest.fixture
def complete(tmp_path: Path) -> Path:
    """Directory with every program that the build needs, and GRUB's parts in ``grub``."""
    for name in [*tools.PROGRAMS, "apt-get"]:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "grub").mkdir()
    (tmp_path / "grub" / "boot.img").touch()
    return tmp_path


def _check(machine: Path, *, user_id: int = 0) -> None:
    tools.check(path=str(machine), grub_parts=machine / "grub", user_id=user_id)


def test_a_complete_machine_passes(complete: Path) -> None:
    _check(complete)


@pytest.mark.parametrize(("program", "package"), tools.PROGRAMS.items())
def test_a_missing_program_is_told_with_its_package(complete: Path, program: str, package: str) -> None:
    (complete / program).unlink()
    with pytest.raises(BoxFailed, match=f"^{program} is not here: apt-get install {package}$"):
        _check(complete)


def test_all_that_is_missing_is_told_at_once(complete: Path) -> None:
    (complete / "mke2fs").unlink()
    (complete / "debugfs").unlink()
    (complete / "grub" / "boot.img").unlink()
    with pytest.raises(BoxFailed, match=r"mke2fs, debugfs, .*boot.img are not here: .* e2fsprogs grub-pc-bin$"):
        _check(complete)


def test_without_apt_no_package_is_recommended(complete: Path) -> None:
    (complete / "apt-get").unlink()
    with pytest.raises(BoxFailed, match="use Debian"):
        _check(complete)


def test_only_root_can_build(complete: Path) -> None:
    with pytest.raises(BoxFailed, match="sudo"):
        _check(complete, user_id=1000)


def test_every_program_comes_from_a_package_of_the_list() -> None:
    assert set(tools.PROGRAMS.values()) <= set(tools.PACKAGES)


@pytest.mark.parametrize(
    "directory",
    [
        "usr/share/rubygems-integration/all/gems/vagrant-2.3.4/keys",
        "opt/vagrant/embedded/gems/gems/vagrant-2.4.1/keys",
        "opt/vagrant/embedded/gems/2.4.1/gems/vagrant-2.4.1/keys",
    ],
)
def test_vagrants_keys_are_found_wherever_it_is_installed(tmp_path: Path, directory: str) -> None:
    keys = tmp_path / directory
    keys.mkdir(parents=True)
    (keys / "vagrant.pub").write_text("ssh-rsa AAAA vagrant")
    (keys / "vagrant.pub.ed25519").write_text("ssh-ed25519 BBBB vagrant\n")
    assert tools.vagrant_keys(root=tmp_path) == "ssh-ed25519 BBBB vagrant\nssh-rsa AAAA vagrant\n"


def test_without_vagrant_it_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(BoxFailed, match="apt-get install vagrant"):
        tools.vagrant_keys(root=tmp_path)
