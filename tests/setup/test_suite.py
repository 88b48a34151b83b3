"""The suite has no dead parts: each fault is used by a scenario, each oracle is seen to catch something real."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import scenarios
from fault_injectors.registry import FAULTS
from harness.oracles.registry import ORACLES
from harness.promise import Guarantee
from harness.scenario import MARKER, Plan
from tests.mutants.table import TABLE

ROOT = Path(__file__).resolve().parents[2]


def plans() -> dict[str, Plan]:
    """The plan of each scenario, by its name."""
    found = {}
    for module in pkgutil.iter_modules(scenarios.__path__):
        for name, test in vars(importlib.import_module(f"scenarios.{module.name}")).items():
            for mark in getattr(test, "pytestmark", []):
                if mark.name == MARKER:
                    found[f"{module.name}::{name}"] = mark.args[0]
    return found


def test_every_fault_is_used_by_a_scenario() -> None:
    used = {name for plan in plans().values() for name in plan.fault_names}
    assert set(FAULTS) == used


def test_every_scenario_states_its_promise() -> None:
    written = {
        f"{path.stem}::{line.split('(')[0].removeprefix('def ')}"
        for path in (ROOT / "scenarios").glob("test_*.py")
        for line in path.read_text().splitlines()
        if line.startswith("def test_")
    }
    assert written == plans().keys()


def test_every_oracle_catches_a_broken_vmm() -> None:
    # What guards the evidence catches no VMM: runs that prove nothing are tried in tests/mutants/test_evidence.py.
    guards = {oracle.name for oracle in ORACLES if oracle.promise == Guarantee.EVIDENCE}
    evidence = (ROOT / "tests" / "mutants" / "test_evidence.py").read_text()
    caught = {oracle for mutant in TABLE for oracle in mutant.oracles}
    assert {oracle.name for oracle in ORACLES} <= caught | guards
    assert all(f'assert_caught("{name}"' in evidence for name in guards)


def test_forty_scenarios_strike_at_an_exact_moment() -> None:
    cases = 0
    for module in pkgutil.iter_modules(scenarios.__path__):
        for test in vars(importlib.import_module(f"scenarios.{module.name}")).values():
            marks = getattr(test, "pytestmark", [])
            if any(mark.name == MARKER and mark.args[0].failpoints is not None for mark in marks):
                count = 1
                for mark in marks:
                    count *= len(mark.args[1]) if mark.name == "parametrize" else 1
                cases += count
    assert cases >= 40
