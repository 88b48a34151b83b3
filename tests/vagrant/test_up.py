"""`make lab-up` where there is something already: what is kept, what is made anew, and what an interruption leaves."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.lab.topology import HOSTS, HostPlan
from harness.lab.vagrant.state import LabState, read_state
from lab.vagrant import up as program
from lab.vagrant.archives import STARTED_BY_SCENARIOS, Contents, digest_of, write_archives
from lab.vagrant.up import changed, ingredients
from lab.vagrant.vagrant import Vagrant

BOX = {"LAB_BOX": "ftvmm/bookworm", "LAB_BOX_VERSION": "0.1", "LAB_ACCEL": "tcg"}
CONTENTS = Contents(installed="all of it", running="some of it")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LAB_ACCEL", "LAB_MEMORY", "LAB_BOX"):
        monkeypatch.delenv(name, raising=False)


def test_nothing_has_changed_in_machines_made_of_the_same() -> None:
    before = ingredients(BOX, CONTENTS, {})
    assert changed(before, ingredients(BOX, Contents("a changed project", CONTENTS.running), before)) == []


def test_what_has_changed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ingredients(BOX, CONTENTS, {})
    monkeypatch.setenv("LAB_MEMORY", "2048")
    now = ingredients({**BOX, "LAB_BOX_VERSION": "0.2"}, Contents("all of it", "something else"), before)
    assert changed(before, now) == ["the box", "LAB_MEMORY", "what runs on the hosts from their start on"]


def test_a_variable_that_is_not_set_keeps_what_the_machines_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_MEMORY", "2048")
    monkeypatch.setenv("LAB_ACCEL", "kvm")
    before = ingredients({**BOX, "LAB_ACCEL": "kvm"}, CONTENTS, {})
    monkeypatch.delenv("LAB_MEMORY")
    monkeypatch.delenv("LAB_ACCEL")
    assert changed(before, ingredients(BOX, CONTENTS, before)) == []


def _write(directory: Path, *, package: str = "one", toxiproxy: bytes = b"ELF") -> Path:
    packages, server = directory / "packages", directory / "toxiproxy"
    packages.mkdir(parents=True, exist_ok=True)
    (packages / "node.py").write_text(package)
    server.write_bytes(toxiproxy)
    archives = directory / "hosts"
    write_archives(archives, packages=packages, toxiproxy=server, operator_key="ssh-ed25519 A", disk_mib=16)
    return archives


def test_a_program_that_runs_on_the_hosts_is_one_of_the_ingredients_and_a_package_is_not(tmp_path: Path) -> None:
    def running() -> str:
        return digest_of(tmp_path / "hosts", leave_out=STARTED_BY_SCENARIOS)

    everything = digest_of(_write(tmp_path)), running()
    assert digest_of(_write(tmp_path, package="two")) != everything[0]
    assert running() == everything[1]
    _write(tmp_path, toxiproxy=b"another")
    assert running() != everything[1]


def test_the_disc_of_a_machine_that_runs_stays_as_it_is(tmp_path: Path) -> None:
    path = _write(tmp_path) / "host-a.tar"
    with path.open("rb") as disc:
        before = path.read_bytes()
        _write(tmp_path, package="two")
        assert disc.read() == before
    assert path.read_bytes() != before
    assert sorted(each.name for each in path.parent.iterdir()) == sorted(f"{host.name}.tar" for host in HOSTS)


class _Machines:
    """Notes which snapshots there are, and what the lab's state said while they were made."""

    def __init__(self, directory: Path, snapshots: set[str]) -> None:
        self.directory = directory
        self.snapshots = snapshots
        self.said_meanwhile: set[str] = set()

    def take_snapshot(self, _: HostPlan, name: str) -> None:
        state = read_state(self.directory)
        assert state is not None
        self.said_meanwhile.add(state.snapshot)
        self.snapshots.add(name)

    def drop_snapshot(self, _: HostPlan, name: str) -> None:
        self.snapshots.discard(name)


class _Lab:
    """A lab whose hosts are given something."""

    given: int

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def on_all(self, _: Callable[..., object]) -> None:
        type(self).given += 1


@pytest.fixture
def settle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., _Machines]:
    def settled(state: LabState, *, made_before: bool) -> _Machines:
        state.write(tmp_path)
        machines = _Machines(tmp_path, {state.snapshot} - {""})
        _Lab.given = 0
        monkeypatch.setattr(program, "VagrantLab", _Lab)
        monkeypatch.setattr(program, "machines_of", lambda _: machines)
        program._settle(tmp_path, state, CONTENTS, made_before=made_before, progress=lambda _: None)
        return machines

    return settled


def test_the_state_names_the_old_snapshot_until_the_new_one_is_whole(
    tmp_path: Path, settle: Callable[..., _Machines]
) -> None:
    machines = settle(LabState("libvirt", "tcg", snapshot="fresh-old", installed="old"), made_before=True)
    state = read_state(tmp_path)
    assert state is not None
    assert machines.said_meanwhile == {"fresh-old"}
    assert machines.snapshots == {state.snapshot} != {"fresh-old"}
    assert (state.installed, _Lab.given) == (CONTENTS.installed, 1)


def test_a_lab_that_is_as_it_should_be_is_left_alone(settle: Callable[..., _Machines]) -> None:
    machines = settle(LabState("libvirt", "tcg", snapshot="fresh-x", installed=CONTENTS.installed), made_before=True)
    assert (machines.snapshots, machines.said_meanwhile, _Lab.given) == ({"fresh-x"}, set(), 0)


@pytest.mark.parametrize("made_before", [True, False])
def test_machines_of_a_call_that_broke_off_are_given_the_project_again(
    settle: Callable[..., _Machines], made_before: bool
) -> None:
    settle(LabState("libvirt", "tcg"), made_before=made_before)
    assert _Lab.given == int(made_before)


def test_vagrant_puts_its_machines_in_order_before_an_interruption_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program_on_path = tmp_path / "vagrant"
    program_on_path.write_text(f"#!/bin/sh\necho begun\nread _ <{tmp_path}/gate\ntouch {tmp_path}/in-order\n")
    program_on_path.chmod(0o755)
    os.mkfifo(tmp_path / "gate")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def interrupt(line: str) -> None:
        if line == "begun":
            raise KeyboardInterrupt
        (tmp_path / "gate").write_text("on\n")  # said while it is waited for

    with pytest.raises(KeyboardInterrupt):
        Vagrant(tmp_path, "libvirt", None, {}).run(["up"], progress=interrupt)
    assert (tmp_path / "in-order").exists()
