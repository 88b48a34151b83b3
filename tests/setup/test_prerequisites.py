"""Every missing prerequisite ends in its own sentence that says what to do, and the checks change nothing."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.provision import prerequisites
from lab.provision.prerequisites import Machine, Missing


def _program(directory: Path, name: str, output: str, *, status: int = 0) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / name
    program.write_text(f"#!/bin/sh\necho '{output}'\nexit {status}\n")
    program.chmod(0o755)


@pytest.fixture
def complete(tmp_path: Path) -> Machine:
    """A machine that has everything, none of it this machine's."""
    programs = tmp_path / "bin"
    _program(programs, "cargo", "cargo 1.91.0")
    _program(programs, "rustc", "rustc 1.91.0")
    _program(programs, "apt-get", "")
    _program(programs, "dpkg-query", "")
    devices = {name: tmp_path / name for name in ("kvm", "tun", "fuse")}
    for device in devices.values():
        device.touch()
    return Machine(
        user_id=0,
        system="Linux",
        architecture="x86_64",
        kvm_device=devices["kvm"],
        tun_device=devices["tun"],
        fuse_device=devices["fuse"],
        python_version=(3, 11),
        search_path=str(programs),
        home=tmp_path / "home",
        kvm_api_version=lambda _: 12,
    )


def test_a_complete_machine_passes(complete: Machine) -> None:
    prerequisites.check(complete)


def test_rust_is_found_where_rustup_puts_it(complete: Machine) -> None:
    rustup = complete.home / ".cargo" / "bin"
    rustup.mkdir(parents=True)
    for name in ("cargo", "rustc"):
        os.rename(Path(complete.search_path, name), rustup / name)
    prerequisites.check(complete)
    assert complete.program("cargo") == rustup / "cargo"


def _no_ioctl(_: int) -> int:
    raise OSError(25, "Inappropriate ioctl for device")


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        pytest.param(lambda m: dataclasses.replace(m, user_id=1000), "sudo make", id="not-root"),
        pytest.param(lambda m: dataclasses.replace(m, architecture="aarch64"), "x86_64", id="architecture"),
        pytest.param(lambda m: dataclasses.replace(m, system="Darwin"), "use an x86_64 Linux machine", id="system"),
        pytest.param(lambda m: dataclasses.replace(m, python_version=(3, 10)), "install Python 3.11", id="python"),
        pytest.param(lambda m: _without(m, "cargo"), "install Rust 1.91 or newer with rustup", id="no-cargo"),
        pytest.param(lambda m: _without(m, "rustc"), "rustc is neither on PATH", id="no-rustc"),
        pytest.param(lambda m: _with(m, "rustc", "rustc 1.63.0"), "rustup update stable", id="old-rust"),
        pytest.param(
            lambda m: _with(m, "cargo", "error: no default", status=1), "rustup default stable", id="no-toolchain"
        ),
        pytest.param(lambda m: dataclasses.replace(m, kvm_device=m.home / "kvm"), "modprobe kvm_intel", id="no-kvm"),
        pytest.param(lambda m: dataclasses.replace(m, kvm_api_version=_no_ioctl), "is not KVM's device", id="not-kvm"),
        pytest.param(lambda m: dataclasses.replace(m, kvm_api_version=lambda _: 11), "not 12", id="kvm-version"),
        pytest.param(lambda m: dataclasses.replace(m, tun_device=m.home / "tun"), "modprobe tun", id="no-tun"),
        pytest.param(lambda m: dataclasses.replace(m, fuse_device=m.home / "fuse"), "modprobe fuse", id="no-fuse"),
        pytest.param(lambda m: _without(m, "apt-get"), "Debian 12", id="not-debian"),
    ],
)
def test_a_missing_prerequisite_is_one_sentence(
    complete: Machine, tmp_path: Path, lacking: Callable[[Machine], Machine], said: str
) -> None:
    machine = lacking(complete)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(Missing) as caught:
        prerequisites.check(machine)
    sentence = str(caught.value)
    assert said in sentence
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert sorted(tmp_path.rglob("*")) == before


def _without(machine: Machine, program: str) -> Machine:
    Path(machine.search_path, program).unlink()
    return machine


def _with(machine: Machine, program: str, output: str, *, status: int = 0) -> Machine:
    _program(Path(machine.search_path), program, output, status=status)
    return machine


def test_this_machine_runs_guests() -> None:
    """The real /dev/kvm, through the real ioctl: what the fakes above stand in for."""
    prerequisites.check(Machine())
