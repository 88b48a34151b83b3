"""The pytest plugin that tells how far a run of scenarios is: a line for each that has ended, with the time left.

It works where reports come together: in the one process of pytest, or in the one that hands scenarios out to others.
"""

from __future__ import annotations

import time

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option that asks for it."""
    parser.getgroup("ftvmm").addoption(
        "--progress", action="store_true", help="a line for each scenario that has ended, and about how long it goes on"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Not in the processes that scenarios are handed out to: they have no terminal."""
    if config.getoption("--progress") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Progress(config), "ftvmm-progress")


class Progress:
    """Counts what has ended.

    Args:
        config: whose terminal it writes to.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._begin = time.monotonic()
        self._total = 0
        self._skipped = 0
        self._seconds: dict[str, float] = {}
        self._outcomes: dict[str, str] = {}
        self._done = 0

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """How many there are, where they run in this process."""
        self._total = max(self._total, len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        """How many there are, where they run in others."""
        self._total = len(ids)

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """No dots beside the lines."""
        if not isinstance(report, pytest.TestReport):
            return None
        if report.when == "call" or report.outcome != "passed":
            category = "error" if report.when != "call" and report.failed else report.outcome
            return category, "", ""
        return "", "", ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One phase of a scenario has ended; the last one is its teardown."""
        node = report.nodeid
        self._seconds[node] = self._seconds.get(node, 0.0) + report.duration
        if report.outcome != "passed":
            self._outcomes[node] = report.outcome
        if report.when != "teardown":
            return
        self._done += 1
        outcome = self._outcomes.get(node, "passed")
        if outcome == "skipped":
            self._skipped += 1
        else:
            self._tell(f"{outcome:<8} {node.split('::')[-1]} ({self._seconds[node]:.0f} s); {self._left()}")

    def _left(self) -> str:
        """By what those took that were not skipped; the skipped ones come first and take no time."""
        ran, rest = self._done - self._skipped, self._total - self._done
        seconds = (time.monotonic() - self._begin) / ran * rest
        return f"{self._done} of {self._total} done, {seconds // 60:.0f} min {seconds % 60:.0f} s left"

    def _tell(self, line: str) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.ensure_newline()
            reporter.write_line(line)
