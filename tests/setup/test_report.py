"""The report is always that of the newest run."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from reports import scenarios


def leave_result(directory: Path, name: str) -> None:
    """One result as allure-pytest leaves it, alone in its directory."""
    directory.mkdir(exist_ok=True)
    for old in directory.iterdir():
        old.unlink()
    add_result(directory, name, "passed", "")


def add_result(directory: Path, name: str, status: str, message: str) -> None:
    """One more result, with what the scenario said."""
    identity = str(uuid.uuid4())
    result = {"uuid": identity, "name": name, "fullName": name, "status": status, "start": 1, "stop": 2}
    result["statusDetails"] = {"message": message}
    (directory / f"{identity}-result.json").write_text(json.dumps(result))


def names_in(report: Path) -> set[str]:
    return {json.loads(path.read_text())["name"] for path in (report / "data" / "test-results").glob("*.json")}


def test_a_second_report_takes_the_place_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenarios, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(scenarios, "REPORT", tmp_path / "report")
    for name in ("first", "second"):
        leave_result(tmp_path / "results", name)
        assert "index.html" in scenarios._make_report()
        assert names_in(tmp_path / "report") == {name}


def test_a_report_says_where_it_comes_from_and_which_promise_was_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, report = tmp_path / "results", tmp_path / "report"
    monkeypatch.setattr(scenarios, "RESULTS", results)
    monkeypatch.setattr(scenarios, "REPORT", report)
    leave_result(results, "passed")
    add_result(results, "spoke early", "failed", "oracle output-rule: failed\n  frame-before-acknowledgement: ...")
    add_result(results, "lost a host", "broken", "LabError: host-a does not answer")
    scenarios._write_environment()
    assert "index.html" in scenarios._make_report()
    widgets = report / "widgets"
    told = json.loads((widgets / "allure_environment.json").read_text())
    environment = {each["name"]: each["values"] for each in told}
    assert environment["commit"] == [scenarios._commit()] != ["unknown"]
    assert environment["lab"] == ["netns"]
    categories = next(widgets.rglob("categories.json")).read_text()
    assert "Output rule broken" in categories
    assert "Lab or harness" in categories
    assert "Split brain" not in categories


def test_a_skipped_scenario_has_its_title_its_family_and_the_reason(tmp_path: Path) -> None:
    file = "scenarios/test_kernel_faults.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file, f"--alluredir={tmp_path}"]
    subprocess.run(command, cwd=scenarios.ROOT, check=True, capture_output=True)
    results = [json.loads(path.read_text()) for path in tmp_path.glob("*-result.json")]
    assert {result["status"] for result in results} == {"skipped"}
    panic = next(result for result in results if result["fullName"].endswith("test_kernel_of_the_primary_panics"))
    assert panic["name"] == "Kernel of the primary panics"
    assert "it lacks kernel" in panic["statusDetails"]["message"]
    families = [label["value"] for label in panic["labels"] if label["name"] == "feature"]
    assert [family.split(",")[0] for family in families] == ["A host's kernel panics"]
