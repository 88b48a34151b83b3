"""Nothing of a command outlives the build, and what made results differ from day to day is fixed."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.box.commands import BoxFailed, Commands, build_environment


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    with (tmp_path / "log").open("w") as log:
        yield Commands(directory=tmp_path, log=log, environment=build_environment(os.environ["PATH"]))


def test_a_failed_command_ends_in_the_callers_sentence(commands: Commands, tmp_path: Path) -> None:
    with pytest.raises(BoxFailed, match=r"^It did not work\.$"):
        commands.run(["sh", "-c", "echo the reason >&2; exit 3"], failure="It did not work.")
    assert "the reason" in (tmp_path / "log").read_text()


def test_an_interrupted_command_cleans_up_and_nothing_of_it_is_left(commands: Commands, tmp_path: Path) -> None:
    """The command starts a child that hears no request to end, and then interrupts us as Ctrl-C would."""
    script = """
        trap 'echo cleaned up; exit 1' TERM
        (trap '' TERM; echo $$ >group; exec sleep 600) &
        until [ -s group ]; do :; done
        kill -INT "$PPID"
        wait
    """
    # Whoever started these tests in the background has left SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            commands.run(["sh", "-c", script], failure="unused")
    finally:
        signal.signal(signal.SIGINT, before)
    assert "cleaned up" in (tmp_path / "log").read_text()
    group = int((tmp_path / "group").read_text())
    while _living(group):
        os.sched_yield()  # the kernel takes a moment to bury whom SIGKILL has reached


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
