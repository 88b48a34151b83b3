"""Nothing of a command outlives the build, and what made results differ from day to day is fixed."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.lab.waiting import wait_until
from lab.box.commands import BoxFailed, Commands, build_environment


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    with (tmp_path / "log").open("w") as log:
        yield Commands(directory=tmp_path, log=log, environment=build_environment(os.environ["PATH"]))


def test_a_failed_command_ends_in_the_callers_sentence(commands: Commands, tmp_path: Path) -> None:
    with pytest.raises(BoxFailed, match=r"^It did not work\.$"):
        commands.run(["sh", "-c", "echo the reason >&2; exit 3"], failure="It did not work.")
    assert "the reason" in (tmp_path / "log").read_text()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Both signals as the build has them; whoever started these tests in the background has left SIGINT ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_command_cleans_up_and_nothing_of_it_is_left(commands: Commands, tmp_path: Path) -> None:
    """The command starts a child that hears no request to end, and then interrupts us as Ctrl-C would."""
    script = """
        trap 'touch cleaned-up; exit 1' TERM
        (trap '' TERM; echo $$ >group; exec sleep 600) &
        until [ -s group ]; do :; done
        kill -INT "$PPID"
        wait
    """
    with pytest.raises(KeyboardInterrupt):
        commands.run(["sh", "-c", script], failure="unused")
    assert (tmp_path / "cleaned-up").exists()
    _await_the_end_of(int((tmp_path / "group").read_text()))


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_interrupted_as_it_starts_is_not_left_behind(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    started: list[int] = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self.pid)
            os.kill(os.getpid(), number)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        commands.run(["sleep", "600"], failure="unused")
    [group] = started
    _await_the_end_of(group)


def _await_the_end_of(group: int) -> None:
    # The kernel takes a moment to bury whom SIGKILL has reached.
    assert wait_until(lambda: not _living(group), timeout_seconds=30), _living(group)


def _living(group: int) -> list[str]:
    """Processes of a group, as their lines in /proc, that are no zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            line = path.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        state, _, of_group = line.rpartition(")")[2].split()[:3]
        if int(of_group) == group and state not in "ZX":
            found.append(line)
    return found


def test_the_environment_is_the_same_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.setenv("DPKG_ROOT", "/elsewhere")
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    environment = build_environment("/bin")
    assert "LANG" not in environment
    assert "DPKG_ROOT" not in environment
    assert environment["http_proxy"] == "http://proxy.example:3128"
    assert environment["SOURCE_DATE_EPOCH"] == environment["E2FSPROGS_FAKE_TIME"]
