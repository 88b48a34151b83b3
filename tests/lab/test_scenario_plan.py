"""A scenario that is written wrong is refused before anything runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fault_injectors.host import PowerOff, SilencedHost
from harness.lab.registry import LABS
from harness.promise import ArbiterKind, Expect, Guarantee, Promise, unnoticed
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
        pytest.param("scenario(unnoticed(), workloads=('etcd',))", "etcd", id="server"),
        pytest.param("scenario(unnoticed(), arbiter='zookeeper')", "zookeeper", id="arbiter"),
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


def test_a_lab_whose_hosts_have_no_etcd_runs_no_scenario_with_it() -> None:
    plan = Plan(promise=unnoticed(), arbiter=ArbiterKind.ETCD)
    assert plan.why_not_in(LABS["netns"]()) == ""
    assert plan.why_not_in(LABS["vagrant"]()) == "the hosts of the lab vagrant have no etcd"


def run_pytest(file: Path, *options: str) -> list[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    plugins = ["-p", "harness.plugin", "-p", "harness.scenario_plugin"] if file.parent.name != "scenarios" else []
    done = subprocess.run(
        [*command, *plugins, str(file), *options], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_a_scenario_runs_under_each_of_its_servers_or_under_the_one_that_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "test_it.py"
    scenario = "@scenario(unnoticed(), workloads=(Workload.REDIS, Workload.NGINX))\ndef test_it(run):\n    pass\n"
    file.write_text(f"{HEAD}{scenario}@scenario(unnoticed())\ndef test_that(run):\n    pass\n")

    def cases(*options: str) -> list[str]:
        return [line.split("::")[1] for line in run_pytest(file, "--collect-only", *options) if "::" in line]

    assert cases() == ["test_it[redis]", "test_it[nginx]", "test_that"]
    assert cases("--workload=mosquitto") == ["test_it", "test_that"]


def test_what_needs_our_own_server_is_skipped_under_another_with_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "test_it.py"
    scenarios = [
        "@scenario(unnoticed(), only_kv='it keeps no checksums')\ndef test_all(run):\n",
        "@scenario(unnoticed(), client=ClientKind.TICKER)\ndef test_other(run):\n",
    ]
    file.write_text(HEAD + "".join(f"{scenario}    raise SystemExit\n" for scenario in scenarios))
    told = "\n".join(run_pytest(file, "--workload=redis", "-rs"))
    assert "redis does not take part in it: it keeps no checksums" in told
    assert "it has another guest than redis" in told
    assert "2 skipped" in told


def test_what_needs_a_disk_is_skipped_under_a_server_without_one(tmp_path: Path) -> None:
    file = tmp_path / "test_it.py"
    case = "@pytest.mark.parametrize('n', [1, pytest.param(2, marks=pytest.mark.needs_disk)])"
    scenarios = [
        "@scenario(unnoticed(), needs_disk=True)\ndef test_all(run):\n    pass\n",
        f"@scenario(unnoticed())\n{case}\ndef test_one(run, n):\n    pass\n",
    ]
    file.write_text(HEAD + "".join(scenarios))

    def skipped(workload: str) -> set[str]:
        # The fixture that brings a lab up is not to be reached.
        told = run_pytest(file, f"--workload={workload}", "-rs", "--setup-plan")
        return {line.split(": ", 1)[1] for line in told if line.startswith("SKIPPED")}

    assert skipped("nginx") == {"nginx does not take part in it: its data is on no disk"}
    assert skipped("redis") == skipped("kv") == set()
