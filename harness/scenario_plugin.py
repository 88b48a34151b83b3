"""The pytest plugin of the scenarios: gives each a `run`, judges it when the scenario's own lines are through."""

from __future__ import annotations

import dataclasses
import inspect
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.lab.interface import Lab
from harness.lab.registry import LABS
from harness.plugin import Turn
from harness.scenario import MARKER, plan_of
from harness.vm.run import Run

REPORTS = Path(__file__).resolve().parents[1] / "reports"
FIXTURE = "run"
# For the scenario's own lines and their judgement, as for this machine: none takes a quarter of it when it goes well.
SECONDS_MAX = 180


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of every scenario run."""
    group = parser.getgroup("ftvmm")
    group.addoption("--seed", type=int, default=None, help="what the clients' load is drawn from (default: the name)")
    group.addoption(
        "--mutant",
        action="append",
        default=[],
        metavar="NAME",
        help="break the VMM on purpose in this way (repeatable)",
    )
    group.addoption("--evidence", type=Path, default=None, metavar="DIRECTORY", help="where the evidence goes instead")


def pytest_configure(config: pytest.Config) -> None:
    """Registers what a scenario may say of itself."""
    config.addinivalue_line("markers", f"{MARKER}(plan): what it promises and injects, see harness.scenario")
    config.addinivalue_line("markers", "smoke: one scenario of each family of faults, for a quick look at a lab")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Gives each scenario its place in the report, and skips what the chosen lab cannot do before it comes up.

    Raises:
        UsageError: a test takes a run and does not say what it promises.
    """
    lab: Lab | None = None
    for item in items:
        plan = plan_of(item)
        if plan is None and _takes_a_run(item):
            raise pytest.UsageError(f"{item.nodeid} takes a `{FIXTURE}` without a promise: decorate it by @scenario")
        if plan is None or not isinstance(item, pytest.Function):
            continue
        _label(item)
        lab = lab or LABS[config.getoption("--lab")]()
        if reason := plan.why_not_in(lab):
            item.add_marker(pytest.mark.skip(reason=reason))
    # First, so that what takes time is left when the time that is left is told.
    items.sort(key=lambda item: item.get_closest_marker("skip") is None)


def _takes_a_run(item: pytest.Item) -> bool:
    """Whether it takes this plugin's fixture, and no other of the same name."""
    if not isinstance(item, pytest.Function):
        return False
    return any(each.func.__module__ == __name__ for each in item._fixtureinfo.name2fixturedefs.get(FIXTURE, ())[-1:])


def _label(item: pytest.Function) -> None:
    """Says in the report what the scenario's own docstrings say, also of one that is skipped: marks are read then."""
    module = item.getparent(pytest.Module)
    assert module is not None
    family = inspect.getdoc(module.obj) or module.name
    item.add_marker(pytest.mark.allure_label(family.split("\n")[0], label_type="feature"))
    item.add_marker(pytest.mark.allure_description(inspect.getdoc(item.function) or ""))
    # Allure fills the braces; all cases of a test share its function, and with it this title.
    item.obj.__allure_display_name__ = _title(item) + (" [{param_id}]" if hasattr(item, "callspec") else "")


def _title(item: pytest.Function) -> str:
    return item.originalname.removeprefix("test_").replace("_", " ").capitalize()


def evidence_of(lab: Lab) -> Path:
    """Where the scenarios leave what they saw: not where another lab's leave it, which may run at the same time."""
    return REPORTS / ("evidence" if lab.name == "netns" else f"evidence-{lab.name}")


@pytest.fixture
def run(request: pytest.FixtureRequest, lab: Lab, turn: Turn) -> Run:
    """A VM that runs protected and under load, and everything that is needed to break it."""
    item = request.node
    plan = plan_of(item)
    assert plan is not None
    if mutants := request.config.getoption("--mutant"):
        plan = dataclasses.replace(plan, mutants=(*plan.mutants, *mutants))
    seed = request.config.getoption("--seed")
    run = Run(
        lab,
        (request.config.getoption("--evidence") or evidence_of(lab)) / item.name,
        plan,
        name=item.name,
        title=_title(item),
        seed=zlib.crc32(item.name.encode()) if seed is None else seed,
        when_gathered=turn.give_back,
    )
    # Only now is it known how slow the lab is.
    item.add_marker(pytest.mark.timeout(lab.pace.stretch(SECONDS_MAX), func_only=True))
    try:
        run.start()
    except Exception as error:
        # What keeps a VM from coming up may be the very thing that an oracle has a word for.
        run.conclude(error)
        raise
    except BaseException:
        run.abandon()
        raise
    return run


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """Runs the oracles after every scenario, without its asking, and whether it went through or not."""
    run = pyfuncitem.funcargs.get(FIXTURE)
    if not isinstance(run, Run):
        return (yield)
    try:
        outcome = yield
    except (Exception, pytest.fail.Exception) as error:
        run.conclude(error)
        raise
    except BaseException:
        run.abandon()
        raise
    run.conclude()
    return outcome
