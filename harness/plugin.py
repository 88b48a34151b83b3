"""The pytest plugin: the options that choose a lab, and the fixtures that hand it out."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.begin_anew_plugin import is_begun_anew_next
from harness.lab.interface import Host, Lab, LabError
from harness.lab.registry import LABS
from harness.lab.waiting import wait_until

# Longer than any scenario: who waits in vain for so long is told so.
_TURN_SECONDS_MAX = 1800.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of every scenario run."""
    group = parser.getgroup("ftvmm")
    group.addoption("--lab", choices=sorted(LABS), default="netns", help="the lab that the scenarios run in")
    group.addoption(
        "--keep-lab", action="store_true", help="stop at the first scenario that fails, and leave the lab as it is then"
    )
    group.addoption(
        "--labs-at-once",
        type=int,
        default=0,
        metavar="N",
        help="with --numprocesses: how many labs have a VM under load at a time; others start or judge meanwhile",
    )


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Keep each phase's report on the item, so that fixtures know how the test ended."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    item.stash.setdefault(_reports, {})[report.when] = report


_reports = pytest.StashKey[dict[str, pytest.TestReport]]()


def has_failed(item: pytest.Item) -> bool:
    """Whether any phase of this test has failed so far."""
    return any(report.failed for report in item.stash.get(_reports, {}).values())


@pytest.fixture(scope="session")
def chosen_lab(request: pytest.FixtureRequest) -> Lab:
    """The lab of this run, not up yet: what it has measured of itself is kept from one scenario to the next."""
    return LABS[request.config.getoption("--lab")]()


class Turn:
    """One of the places for a lab with a VM that runs. Processes of one pytest share them, by locks on files."""

    def __init__(self, places: int, directory: Path) -> None:
        self._files = [directory / f"ftvmm-lab-{number}.lock" for number in range(places)]
        self._held: int | None = None

    def take(self) -> None:
        """Wait for a place. Raises `LabError` when none gets free."""
        if self._files and not wait_until(self._try, timeout_seconds=_TURN_SECONDS_MAX):
            raise LabError(f"none of the {len(self._files)} places for a lab got free in {_TURN_SECONDS_MAX:.0f} s")

    def _try(self) -> bool:
        for file in self._files:
            descriptor = os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._held = descriptor
                return True
            os.close(descriptor)
        return False

    def give_back(self) -> None:
        """Let another lab run. May be called again."""
        if self._held is not None:
            os.close(self._held)
            self._held = None


@pytest.fixture
def turn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Turn]:
    """When this scenario's VM may come up; taken with the lab."""
    # The parent is one for all processes of a run.
    turn = Turn(request.config.getoption("--labs-at-once"), tmp_path_factory.getbasetemp().parent)
    yield turn
    turn.give_back()


@pytest.fixture
def lab(request: pytest.FixtureRequest, chosen_lab: Lab, turn: Turn) -> Iterator[Lab]:
    """A fresh lab, up and with its turn, for every scenario: none inherits another's faults."""
    known_pace = chosen_lab.pace
    chosen_lab.start()
    if chosen_lab.pace != known_pace:
        _tell(request.config, f"calibration of the lab {chosen_lab.name}: {chosen_lab.pace_in_words}")
    try:
        turn.take()
        yield chosen_lab
        failed_for_good = has_failed(request.node) and not is_begun_anew_next(request.node)
        if request.config.getoption("--keep-lab") and failed_for_good:
            how = chosen_lab.keep()
            request.node.add_report_section("teardown", "lab", f"kept as the scenario left it: {how}")
            _tell(request.config, f"{request.node.name} has failed, its lab is kept: {how}")
            # Where there is only one lab, the next scenario would begin by making it fresh.
            request.session.shouldstop = "the lab is kept as the failed scenario left it"
    finally:
        chosen_lab.stop()


def _tell(config: pytest.Config, line: str) -> None:
    """Say something at once, between the dots."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    capture = config.pluginmanager.get_plugin("capturemanager")
    if reporter is not None:
        # What is written in a fixture would otherwise be the test's own output, shown to nobody unless it fails.
        with capture.global_and_fixture_disabled() if capture is not None else contextlib.nullcontext():
            reporter.ensure_newline()
            reporter.write_line(line)


@pytest.fixture
def host_a(lab: Lab) -> Host:
    """The first FT host."""
    return lab.hosts["host-a"]


@pytest.fixture
def host_b(lab: Lab) -> Host:
    """The second FT host."""
    return lab.hosts["host-b"]


@pytest.fixture
def host_c(lab: Lab) -> Host:
    """The spare FT host."""
    return lab.hosts["host-c"]


@pytest.fixture
def client_host(lab: Lab) -> Host:
    """The host that the VM's clients run on."""
    return lab.client_host


@pytest.fixture
def storage_host(lab: Lab) -> Host:
    """The host that serves disk and arbiter."""
    return lab.storage_host
