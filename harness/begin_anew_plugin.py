"""The pytest plugin that begins a scenario anew, once, where the machine stood still and kept it from being judged.

Nothing else ever leads to a second attempt: not a failure, not any other want of evidence, and not a standstill beside
a finding against the VMM (`harness.oracles.standstill.reason_to_begin_anew`). The second attempt is judged by itself,
and what it says counts. The first one's evidence stays beside the second's, and so does its result in the report; what
was the reason is a property of the test, and stands on the terminal.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

from harness.scenario import plan_of

# As a property of the test, which comes from one process of pytest to another.
PROPERTY = "begun anew"

_reason = pytest.StashKey[str]()


def begin_anew(item: pytest.Item, reason: str) -> None:
    """Asks for a second attempt when the one that is under way has been taken down. The second one asks in vain."""
    item.stash.setdefault(_reason, reason)


def begun_anew(item: pytest.Item) -> str | None:
    """Why this attempt is the second one; None: it is not."""
    return next((str(reason) for name, reason in item.user_properties if name == PROPERTY), None)


def is_begun_anew_next(item: pytest.Item) -> bool:
    """Whether this attempt is the first one and asked for a second."""
    return _reason in item.stash and begun_anew(item) is None


def first_attempt(directory: Path) -> Path:
    """Where the evidence of a first attempt stays that was followed by a second one in `directory`."""
    return directory.with_name(f"{directory.name}.first")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Runs a scenario, and again where its first attempt asks for that; what is reported is the last attempt."""
    if plan_of(item) is None:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, log=False, nextitem=nextitem)
    # What could not be taken down is a failure of the lab's, and stays one.
    if is_begun_anew_next(item) and reports[-1].passed:
        # Whoever writes a report for each attempt closes the first one's here, and opens another.
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        item.user_properties.append((PROPERTY, item.stash[_reason]))
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


class Teller:
    """Says on the terminal what was begun anew, and why.

    Args:
        config: whose terminal it writes to.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Before the line that says how it ended."""
        reason = dict(report.user_properties).get(PROPERTY)
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.when == "setup" and reason is not None and reporter is not None:
            reporter.ensure_newline()
            reporter.write_line(f"{report.nodeid.split('::')[-1]} was begun anew: {reason}")


def pytest_configure(config: pytest.Config) -> None:
    """Not in the processes that scenarios are handed out to: they have no terminal."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Teller(config), "ftvmm-begin-anew")
