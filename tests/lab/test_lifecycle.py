"""A lab leaves nothing behind, however its owner ends, and two labs do not meet."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.lab.netns import control_group, run_directory
from harness.lab.netns.host import PROJECT
from harness.lab.netns.lab import NetnsLab
from harness.lab.netns.run_directory import RunDirectory
from harness.lab.process_identity import ProcessIdentity
from harness.lab.waiting import wait_until

HOLD_A_LAB = """
import sys, signal
from harness.lab.netns.lab import NetnsLab
lab = NetnsLab()
lab.start()
if "freeze" in sys.argv:
    lab.hosts["host-a"].freeze()
print(lab.run_id, flush=True)
signal.pause()
"""


def links() -> str:
    return subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout


def mounts() -> str:
    return Path("/proc/self/mounts").read_text()


def processes_of(run_id: str) -> list[ProcessIdentity]:
    root = control_group.hierarchy() / control_group.PARENT / run_id
    pids = [int(pid) for group in root.rglob("cgroup.procs") for pid in group.read_text().split()]
    state = RunDirectory(run_directory.ROOT / run_id).read_state()
    kept = [state.keeper, state.rack]
    processes = [one for one in kept if one is not None]
    for pid in pids:
        # A host always has short-lived ones: what ended between the listing and this look is not left behind.
        with contextlib.suppress(ProcessLookupError):
            processes.append(ProcessIdentity.of(pid))
    return processes


def what_is_left(run_id: str, processes: list[ProcessIdentity]) -> list[str]:
    left = [f"process {process.pid}" for process in processes if process.is_alive()]
    places = (run_directory.ROOT / run_id, control_group.hierarchy() / control_group.PARENT / run_id)
    return left + [str(place) for place in places if place.exists()]


@pytest.fixture
def outside() -> Iterator[None]:
    """Links and mounts of the root namespaces are the same before and after."""
    before = links(), mounts()
    yield
    assert (links(), mounts()) == before


def hold_a_lab(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD_A_LAB, *arguments], stdout=subprocess.PIPE, text=True, cwd=PROJECT
    )
    assert child.stdout is not None
    return child, child.stdout.readline().strip()


@pytest.mark.usefixtures("outside")
def test_stop_leaves_nothing() -> None:
    lab = NetnsLab()
    lab.start()
    run_id, processes = lab.run_id, processes_of(lab.run_id)
    assert len(processes) > 20
    lab.stop()
    assert what_is_left(run_id, processes) == []
    lab.stop()


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize("arguments", [(), ("freeze",)], ids=["running", "with a frozen host"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_killed_owner_leaves_nothing(number: signal.Signals, arguments: tuple[str, ...]) -> None:
    child, run_id = hold_a_lab(*arguments)
    with child:
        processes = processes_of(run_id)
        child.send_signal(number)
        child.wait(20)
    assert wait_until(lambda: not what_is_left(run_id, processes), timeout_seconds=20), what_is_left(run_id, processes)


@pytest.mark.usefixtures("outside")
def test_the_next_start_removes_what_owner_and_keeper_left() -> None:
    child, run_id = hold_a_lab("freeze")
    with child:
        processes = processes_of(run_id)
        keeper = RunDirectory(run_directory.ROOT / run_id).read_state().keeper
        assert keeper is not None
        keeper.kill()
        child.kill()
        child.wait(20)
    assert what_is_left(run_id, processes) != []
    lab = NetnsLab()
    lab.start()
    try:
        assert wait_until(lambda: not what_is_left(run_id, processes), timeout_seconds=20)
    finally:
        lab.stop()


def test_a_kept_lab_outlives_its_owner_until_it_is_taken_down() -> None:
    def command(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "harness.lab", *arguments], capture_output=True, text=True, cwd=PROJECT, check=True
        )
        return done.stdout

    run_id = command("up", "--keep").split()[1]
    try:
        run_directory.sweep()
        assert command("ssh", run_id, "host-b", "hostname").strip() == "host-b"
        processes = processes_of(run_id)
    finally:
        command("down", run_id)
    assert wait_until(lambda: not what_is_left(run_id, processes), timeout_seconds=20)


def test_two_labs_do_not_meet() -> None:
    first, second = NetnsLab(), NetnsLab()
    try:
        first.start()
        second.start()
        first.hosts["host-a"].write_file("/var/lib/ftvmm/mine", b"first")
        with pytest.raises(FileNotFoundError):
            second.hosts["host-a"].read_file("/var/lib/ftvmm/mine")
        first.hosts["host-b"].power_off()
        first.hosts["host-a"].freeze()
        reach = "ping -q -c 1 -W 1 10.1.0.12 && ping -q -c 1 -W 1 10.2.0.20"
        assert second.hosts["host-a"].run(reach).succeeded
        first.stop()
        assert second.hosts["host-a"].run(reach).succeeded
    finally:
        first.stop()
        second.stop()


def test_a_recycled_pid_is_not_taken_for_the_owner() -> None:
    own = ProcessIdentity.own()
    assert own.is_alive()
    assert not ProcessIdentity(os.getpid(), own.start_ticks - 1).is_alive()


def test_autogroups_are_off_from_the_first_run_to_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = tmp_path / "sched_autogroup_enabled"
    setting.write_text("1\n")
    monkeypatch.setattr(run_directory, "AUTOGROUPS", setting)
    monkeypatch.setattr(run_directory, "ROOT", tmp_path / "runs")
    first, second = RunDirectory.create(), RunDirectory.create()
    for run, after in ((first, "0\n"), (second, "1\n")):
        assert setting.read_text() == "0\n"
        run.remove()
        assert setting.read_text() == after
    assert not run_directory.ROOT.exists()
