"""The pytest plugin: the options that choose a lab, and the fixtures that hand it out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from harness.lab.interface import Host, Lab
from harness.lab.registry import LABS


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of every scenario run."""
    group = parser.getgroup("ftvmm")
    group.addoption("--lab", choices=sorted(LABS), default="netns", help="the lab that the scenarios run in")
    group.addoption(
        "--keep-lab", action="store_true", help="stop at the first scenario that fails, and leave the lab as it is then"
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


@pytest.fixture
def lab(request: pytest.FixtureRequest, chosen_lab: Lab) -> Iterator[Lab]:
    """A fresh lab, up, for every scenario: none inherits another's faults."""
    known_pace = chosen_lab.pace
    chosen_lab.start()
    if chosen_lab.pace != known_pace:
        _tell(request.config, f"calibration of the lab {chosen_lab.name}: {chosen_lab.pace_in_words}")
    try:
        yield chosen_lab
        if request.config.getoption("--keep-lab") and has_failed(request.node):
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
