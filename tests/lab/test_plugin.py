"""What the pytest plugin says while it runs: on the terminal at once, not in a test's captured output."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness.plugin import Turn

PROJECT = Path(__file__).resolve().parents[2]

FAKE_LAB = """
from harness.lab.interface import Pace
from harness.lab.registry import LABS

class FakeLab:
    name, pace, pace_in_words = "fake", Pace(), "not measured yet"
    def start(self):
        self.pace, self.pace_in_words = Pace(work=7.0), "seven times as slow"
    def keep(self):
        return "look at it"
    def stop(self):
        pass

LABS["fake"] = FakeLab
"""

SCENARIOS = """
def test_well(lab):
    pass
def test_broken(lab):
    assert not lab.pace
def test_after_that(lab):
    pass
"""


def test_a_line_tells_how_far_a_run_is(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_well():\n    pass\n"
        "def test_broken():\n    assert False\n"
        "@pytest.mark.skip\ndef test_skipped():\n    pass\n"
    )
    for side_by_side in ([], ["-n", "2"]):
        plugins = ["-p", "no:cacheprovider", "-p", "harness.progress_plugin", "--progress", *side_by_side]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *plugins, "--tb=no", "test_it.py"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            check=False,
        )
        told = [line for line in done.stdout.splitlines() if " of 3 done, " in line]
        assert sorted(line.split()[:2] for line in told) == [["failed", "test_broken"], ["passed", "test_well"]]
        assert all(line.endswith(" s left") for line in told)
        assert "1 failed, 1 passed, 1 skipped" in done.stdout


def test_calibration_and_a_kept_lab_are_told_on_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "fake_lab.py").write_text(FAKE_LAB)
    (tmp_path / "test_it.py").write_text(SCENARIOS)
    plugins = ["-p", "no:cacheprovider", "-p", "fake_lab", "-p", "harness.plugin"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, "--lab=fake", "--keep-lab", "--tb=no", "test_it.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{PROJECT}:{tmp_path}"},
        check=False,
    )
    assert done.returncode == 2, done.stdout
    assert done.stdout.count("calibration of the lab fake: seven times as slow\n") == 1
    assert "test_broken has failed, its lab is kept: look at it\n" in done.stdout
    assert "1 failed, 1 passed" in done.stdout


def test_labs_wait_for_their_turn(tmp_path: Path) -> None:
    first, second, third = (Turn(2, tmp_path) for _ in range(3))
    first.take()
    second.take()
    with ThreadPoolExecutor() as executor:
        waiting = executor.submit(third.take)
        assert not waiting.done()
        second.give_back()
        waiting.result(timeout=10)
    fourth = Turn(2, tmp_path)
    assert not fourth._try()
    for turn in (first, second, third):
        turn.give_back()
    assert fourth._try()
    fourth.give_back()
