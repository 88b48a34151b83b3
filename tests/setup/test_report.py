"""The report is always that of the newest run."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

from reports import scenarios


def leave_result(directory: Path, name: str) -> None:
    """One result as allure-pytest leaves it, alone in its directory."""
    directory.mkdir(exist_ok=True)
    for old in directory.iterdir():
        old.unlink()
    identity = str(uuid.uuid4())
    result = {"uuid": identity, "name": name, "fullName": name, "status": "passed", "start": 1, "stop": 2}
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
