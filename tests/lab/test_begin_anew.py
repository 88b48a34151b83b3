"""A scenario is begun anew, once, where the machine stood still and kept it from being judged; and never otherwise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]

# A lab and a run that are none. Each attempt ends as the file `plan` says, one line an attempt.
FAKES = """
import pathlib
from harness.evidence.allure_report import raise_if_broken
from harness.evidence.verdicts import Finding, Judgement, Verdict
from harness.lab.interface import Pace
from harness.lab.registry import LABS

HERE = pathlib.Path(__file__).parent
REASON = "the machine stood still for 162 ms at 1.452 s"
FINDINGS = {
    "well": [],
    "failed": [Finding("two-speakers", "")],
    "insufficient": [Finding("capture-torn", "", Verdict.INSUFFICIENT)],
    "stood-still": [Finding("machine-stood-still", REASON, Verdict.INSUFFICIENT)],
}
FINDINGS["stood-still-and-failed"] = FINDINGS["stood-still"] + FINDINGS["failed"]

def note(what):
    with (HERE / "notes").open("a") as notes:
        notes.write(what + "\\n")

class FakeLab:
    name, pace, capabilities = "fake", Pace(), frozenset()
    def start(self):
        note("lab up")
    def keep(self):
        note("lab kept")
        return "look at it"
    def stop(self):
        note("lab down")

class FakeRun:
    def __init__(self, lab, directory, plan, **others):
        directory.mkdir(parents=True)
        self.directory, self.judgements = directory, []
        self.attempt = (HERE / "notes").read_text().count("lab up") - 1
    def start(self):
        (self.directory / "attempt").write_text(str(self.attempt))
        if (HERE / "broken-start").exists() and self.attempt == 0:
            raise RuntimeError("no VM came up")
    def conclude(self, error=None):
        ending = (HERE / "plan").read_text().split()[self.attempt]
        self.judgements = [Judgement.of("any", FINDINGS[ending], {})]
        raise_if_broken(self.judgements)
        if error:
            raise error
    def abandon(self):
        note("abandoned")

LABS["fake"] = FakeLab

def pytest_configure(config):
    import harness.scenario_plugin
    harness.scenario_plugin.Run = FakeRun
"""

SCENARIO = """
from harness.promise import Expect, Promise
from harness.scenario import scenario

@scenario(Promise(expect=Expect.STAYS_TOGETHER))
def test_it(run):
    assert run.directory.exists()
"""

SAID = "test_it was begun anew: the machine stood still for 162 ms at 1.452 s\n"


class Suite:
    """A suite of one scenario, whose attempts end in these ways."""

    def __init__(self, directory: Path, *endings: str) -> None:
        self.directory = directory
        (directory / "fakes.py").write_text(FAKES)
        (directory / "test_suite.py").write_text(SCENARIO)
        (directory / "plan").write_text("\n".join(endings))

    def run(self, *arguments: str) -> str:
        """What pytest said."""
        (self.directory / "notes").write_text("")
        plugins = ("begin_anew_plugin", "plugin", "scenario_plugin", "progress_plugin")
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=line", "--lab=fake", "-p", "fakes"]
        command += [part for name in plugins for part in ("-p", f"harness.{name}")]
        command += ["-c", str(PROJECT / "pyproject.toml"), "--rootdir", str(self.directory)]
        command += ["--evidence", str(self.directory / "evidence"), *arguments, "test_suite.py"]
        environment = {**os.environ, "PYTHONPATH": f"{PROJECT}:{self.directory}"}
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.directory, env=environment, check=False)
        return done.stdout + done.stderr

    @property
    def notes(self) -> list[str]:
        """What happened to the lab."""
        return (self.directory / "notes").read_text().splitlines()

    @property
    def evidence(self) -> dict[str, str]:
        """Which attempt left which directory."""
        return {path.parent.name: path.read_text() for path in (self.directory / "evidence").glob("*/attempt")}


@pytest.mark.parametrize("processes", [(), ("-n", "2")], ids=["one-process", "several"])
def test_a_second_attempt_counts(tmp_path: Path, processes: tuple[str, ...]) -> None:
    suite = Suite(tmp_path, "stood-still", "well")
    said = suite.run("--progress", "--junit-xml=junit.xml", "--alluredir=allure", *processes)
    assert "1 passed" in said, said
    assert said.count(SAID) == 1, said
    assert said.index(SAID) < said.index("1 of 1 done")
    assert suite.notes == ["lab up", "lab down", "lab up", "lab down"]
    assert suite.evidence == {"test_it": "1", "test_it.first": "0"}
    assert 'property name="begun anew"' in (tmp_path / "junit.xml").read_text()
    results = [json.loads(path.read_text()) for path in (tmp_path / "allure").glob("*-result.json")]
    assert sorted(result["status"] for result in results) == ["broken", "passed"]
    assert len({result["historyId"] for result in results}) == 1
    steps = [
        [step["name"] for before in container["befores"] for step in before.get("steps", [])]
        for container in map(json.loads, (path.read_text() for path in (tmp_path / "allure").glob("*-container.json")))
    ]
    assert ["Begun anew"] in steps


def test_a_machine_that_stands_still_twice_is_named_and_not_tried_again(tmp_path: Path) -> None:
    suite = Suite(tmp_path, "stood-still", "stood-still")
    said = suite.run()
    assert "1 failed" in said, said
    assert said.count(SAID) == 1
    assert suite.notes.count("lab up") == 2


def test_what_a_second_attempt_finds_against_the_vmm_counts(tmp_path: Path) -> None:
    suite = Suite(tmp_path, "stood-still", "failed")
    assert "1 failed" in suite.run()
    assert suite.notes.count("lab up") == 2


@pytest.mark.parametrize("ending", ["well", "failed", "insufficient", "stood-still-and-failed"])
def test_no_other_reason_leads_to_a_second_attempt(tmp_path: Path, ending: str) -> None:
    suite = Suite(tmp_path, ending, "well")
    said = suite.run("--alluredir=allure")
    assert ("1 passed" if ending == "well" else "1 failed") in said, said
    assert "begun anew" not in said
    assert suite.notes == ["lab up", "lab down"]
    assert suite.evidence == {"test_it": "0"}
    assert len(list((tmp_path / "allure").glob("*-result.json"))) == 1


def test_a_vm_that_does_not_come_up_for_a_standstill_is_begun_anew(tmp_path: Path) -> None:
    suite = Suite(tmp_path, "stood-still", "well")
    (tmp_path / "broken-start").touch()
    said = suite.run()
    assert "1 passed" in said, said
    assert said.count(SAID) == 1
    assert suite.notes.count("lab up") == 2


def test_the_lab_that_is_kept_is_that_of_the_last_attempt(tmp_path: Path) -> None:
    suite = Suite(tmp_path, "stood-still", "failed")
    suite.run("--keep-lab")
    assert suite.notes == ["lab up", "lab down", "lab up", "lab kept", "lab down"]


def test_a_later_run_removes_an_older_first_attempt(tmp_path: Path) -> None:
    suite = Suite(tmp_path, "stood-still", "well")
    suite.run()
    (tmp_path / "plan").write_text("well")
    (tmp_path / "evidence" / "test_it" / "attempt").unlink()
    (tmp_path / "evidence" / "test_it").rmdir()
    suite.run()
    assert suite.evidence == {"test_it": "0"}
