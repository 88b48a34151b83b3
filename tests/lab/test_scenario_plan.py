"""A scenario that is written wrong is refused before anything runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fault_injectors.host import PowerOff, SilencedHost
from harness.promise import Expect, Guarantee, Promise, unnoticed
from harness.scenario import Plan

ROOT = Path(__file__).resolve().parents[2]
HEAD = """
from fault_injectors.host import PowerOff
from harness.promise import *
from harness.scenario import scenario
import pytest

"""


@pytest.mark.parametrize(
    ("written", "told"),
    [
        pytest.param("scenario(Promise(expect=Expect.FAILOVER, stal_ms_max=9))", "stal_ms_max", id="bound"),
        pytest.param("scenario(Promise(expect='fail-over'))", "fail-over", id="expectation"),
        pytest.param("scenario(Promise(expect='failover', promises=('output',)))", "output", id="guarantee"),
        pytest.param("scenario(Promise(expect='failover', stall_ms_max=-1))", "nothing can be below", id="negative"),
        pytest.param("scenario(unnoticed(), faults=(PowerOf,))", "PowerOf", id="fault"),
        pytest.param("scenario(unnoticed(), faults=('power-off',))", "no kind of fault", id="fault-as-text"),
        pytest.param("scenario(unnoticed(), client='redis')", "redis", id="client"),
        pytest.param("scenario(unnoticed(), output_policy='keep')", "keep", id="policy"),
    ],
)
def test_a_misspelling_is_refused_when_it_is_read(written: str, told: str) -> None:
    with pytest.raises((TypeError, ValueError, NameError), match=told):
        exec(HEAD + written, {})


@pytest.mark.parametrize(
    ("written", "told"),
    [
        pytest.param("@scenario(unnoticed(), faults=(PowerOf,))", "PowerOf", id="misspelt"),
        pytest.param("@scenario(unnoticed())\n@pytest.mark.smok", "smok", id="mark"),
        pytest.param("", "without a promise", id="no-promise"),
    ],
)
def test_nothing_runs_of_a_scenario_that_is_written_wrong(tmp_path: Path, written: str, told: str) -> None:
    file = tmp_path / "test_it.py"
    file.write_text(f"{HEAD}{written}\ndef test_it(run):\n    raise SystemExit('it ran')\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    plugins = ["-p", "harness.plugin", "-p", "harness.scenario_plugin"]
    done = subprocess.run([*command, *plugins, str(file)], cwd=ROOT, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode in (2, 4), said
    assert told in said
    assert "it ran" not in said


def test_an_unregistered_fault_is_refused() -> None:
    with pytest.raises(ValueError, match="not registered"):
        Plan(promise=unnoticed(), faults=(SilencedHost,))


def test_bounds_on_time_are_scaled_and_counts_are_not() -> None:
    promise = Promise(expect=Expect.STAYS_TOGETHER, stall_ms_max=600, latency_over_before_ms_max=100).scaled(4)
    assert (promise.stall_ms_max, promise.latency_over_before_ms_max) == (2400, 400)
    assert (promise.operations_after_min, promise.ticks_lost_max) == (50, 0)
    assert promise.promises == tuple(Guarantee)[:3]


def test_a_plan_tells_its_faults_by_name() -> None:
    assert Plan(promise=Promise(expect=Expect.FAILOVER), faults=(PowerOff,)).fault_names == ("power-off",)
