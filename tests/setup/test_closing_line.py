"""``make scenarios`` ends with one line that says how many scenarios passed and where the report is."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from harness.begin_anew_plugin import PROPERTY

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def scenarios(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    specification = importlib.util.spec_from_file_location("run_scenarios", ROOT / "reports" / "scenarios.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "run_scenarios", module)
    specification.loader.exec_module(module)
    return module


def _suite(body: str) -> str:
    return f'<?xml version="1.0"?><testsuites><testsuite name="pytest">{body}</testsuite></testsuites>'


@pytest.mark.parametrize(
    ("body", "status", "line"),
    [
        pytest.param(
            '<testcase classname="a" name="one"/><testcase classname="a" name="two"/>',
            0,
            "2 of 2 scenarios passed; report: x",
            id="all-passed",
        ),
        pytest.param(
            '<testcase classname="a" name="one"><failure/></testcase>'
            '<testcase classname="a" name="one"><error/></testcase>'
            '<testcase classname="a" name="two"><error/></testcase><testcase classname="a" name="three"/>',
            1,
            "1 of 3 scenarios passed, 2 failed; report: x",
            id="failed-twice-counts-once",
        ),
        pytest.param(
            '<testcase classname="a" name="one"><skipped/></testcase><testcase classname="a" name="two"/>',
            0,
            "1 of 2 scenarios passed, 1 skipped; report: x",
            id="skipped",
        ),
        pytest.param(
            '<testcase classname="a" name="one"/>',
            2,
            "1 of 1 scenarios passed, pytest's exit status 2; report: x",
            id="interrupted",
        ),
        pytest.param(
            f'<testcase classname="a" name="one"><properties><property name="{PROPERTY}" value="why"/></properties>'
            '</testcase><testcase classname="a" name="two"/>',
            0,
            "2 of 2 scenarios passed, 1 begun anew because the machine stood still; report: x",
            id="begun-anew",
        ),
        pytest.param("", 5, "No scenario was run (pytest's exit status 5); report: x", id="none-selected"),
    ],
)
def test_closing_line(
    scenarios: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, status: int, line: str
) -> None:
    junit = tmp_path / "scenarios.xml"
    junit.write_text(_suite(body))
    monkeypatch.setattr(scenarios, "JUNIT", junit)
    assert scenarios.closing_line(scenarios._count(), status=status, report="report: x") == line


def test_a_run_that_left_no_count_says_so(
    scenarios: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scenarios, "JUNIT", tmp_path / "absent.xml")
    line = scenarios.closing_line(scenarios._count(), status=4, report="no report")
    assert line == "The scenarios did not run to their end (pytest's exit status 4); no report"
