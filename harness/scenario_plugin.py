"""The pytest plugin of the scenarios: gives each a `trial`, judges it when the scenario's own lines are through."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import allure
import pytest

from fault_injectors.registry import FAULTS
from harness.lab.interface import Lab
from harness.lab.registry import LABS
from harness.vm.trial import Trial

REPORTS = Path(__file__).resolve().parents[1] / "reports"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of every scenario run."""
    group = parser.getgroup("ftvmm")
    group.addoption("--seed", type=int, default=None, help="what the clients' load is drawn from (default: the name)")


def pytest_configure(config: pytest.Config) -> None:
    """Registers what a scenario may say of itself."""
    config.addinivalue_line("markers", "promise(**bounds): fields of harness.evidence.scenario.Scenario")
    config.addinivalue_line("markers", "client(kind): key-value (the default) or ticker")
    config.addinivalue_line("markers", "mutants(*names): the VMM is broken on purpose in these ways")
    config.addinivalue_line("markers", "output_policy(policy): resend (the default) or drop")
    config.addinivalue_line("markers", "faults(*names): those of its faults that not every lab can inject")
    config.addinivalue_line("markers", "smoke: one scenario of each family of faults, for a quick look at a lab")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips what the chosen lab cannot do, before it comes up."""
    lab: Lab | None = None
    for item in items:
        for marker in item.iter_markers("faults"):
            lab = lab or LABS[config.getoption("--lab")]()
            if reason := why_not(lab, marker.args):
                item.add_marker(pytest.mark.skip(reason=reason))


def why_not(lab: Lab, names: Sequence[str]) -> str:
    """Why a lab, which need not be up, cannot inject all of these faults; empty when it can."""
    for name in names:
        kind = FAULTS[name]
        if not kind.available(lab):
            missing = ", ".join(sorted(capability.value for capability in kind.requires - lab.capabilities))
            return f"the lab {lab.name} cannot inject {name}: it lacks {missing}"
    return ""


def evidence_of(lab: Lab) -> Path:
    """Where the scenarios leave what they saw: not where another lab's leave it, which may run at the same time."""
    return REPORTS / ("evidence" if lab.name == "netns" else f"evidence-{lab.name}")


@pytest.fixture
def trial(request: pytest.FixtureRequest, lab: Lab) -> Trial:
    """A VM that runs protected and under load, and everything that is needed to break it."""
    node = request.node
    name = node.name
    _describe(node)
    seed = request.config.getoption("--seed")
    trial = Trial(
        lab,
        evidence_of(lab) / name,
        name=name,
        client=_argument(node, "client", "key-value"),
        seed=zlib.crc32(name.encode()) if seed is None else seed,
        promise=dict(marker.kwargs) if (marker := node.get_closest_marker("promise")) else {},
        mutants=marker.args if (marker := node.get_closest_marker("mutants")) else (),
        policy=_argument(node, "output_policy", "resend"),
    )
    try:
        trial.start()
    except BaseException:
        trial.abandon()
        raise
    return trial


def _describe(node: pytest.Function) -> None:
    """Says in the report what the scenario's own docstrings say."""
    allure.dynamic.description(inspect.getdoc(node.function) or "")  # type: ignore[no-untyped-call]
    family = inspect.getdoc(node.module) or node.module.__name__
    allure.dynamic.feature(family.split("\n")[0])  # type: ignore[no-untyped-call]


def _argument(node: pytest.Item, marker_name: str, default: str) -> str:
    marker = node.get_closest_marker(marker_name)
    return str(marker.args[0]) if marker else default


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """Runs the oracles after every scenario, without its asking."""
    trial = pyfuncitem.funcargs.get("trial")
    if not isinstance(trial, Trial):
        return (yield)
    # Only from within the call does the report take a title.
    title = pyfuncitem.originalname.removeprefix("test_").replace("_", " ").capitalize()
    allure.dynamic.title(title)  # type: ignore[no-untyped-call]
    try:
        outcome = yield
    except BaseException:
        trial.abandon()
        raise
    trial.conclude()
    return outcome
