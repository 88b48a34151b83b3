"""The pytest plugin: the options that choose a lab, and the fixtures that hand it out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.lab.interface import Host, Lab
from harness.lab.netns.lab import NetnsLab


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of every scenario run."""
    group = parser.getgroup("ftvmm")
    group.addoption("--lab", choices=["netns"], default="netns", help="the lab that the scenarios run in")
    group.addoption("--keep-lab", action="store_true", help="leave the lab up after a scenario that failed")


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


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A fresh lab, up. One a scenario: it takes two seconds, and no scenario inherits another's faults."""
    lab = NetnsLab()
    lab.start()
    try:
        yield lab
        if request.config.getoption("--keep-lab") and has_failed(request.node):
            run_id = lab.keep()
            request.node.add_report_section("teardown", "lab", f"kept: python -m harness.lab ssh {run_id} host-a")
    finally:
        lab.stop()


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
