"""The pytest plugin of the scenarios: gives each a `run`, judges it when the scenario's own lines are through."""

from __future__ import annotations

import dataclasses
import inspect
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.begin_anew_plugin import begin_anew, begun_anew, first_attempt
from harness.evidence.allure_report import EvidenceInsufficientError, show_second_attempt
from harness.lab.interface import Lab
from harness.lab.registry import LABS
from harness.oracles.standstill import reason_to_begin_anew
from harness.plugin import Turn
from harness.promise import Workload
from harness.scenario import MARKER, plan_of
from harness.vm.run import Run

REPORTS = Path(__file__).resolve().parents[1] / "reports"
FIXTURE = "run"


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
    group.addoption(
        "--workload",
        choices=[workload.value for workload in Workload],
        help="run every scenario under this server (default: under those that it names itself, mostly kv)",
    )
    group.addoption("--evidence", type=Path, default=None, metavar="DIRECTORY", help="where the evidence goes instead")


def pytest_configure(config: pytest.Config) -> None:
    """Registers what a scenario may say of itself."""
    config.addinivalue_line("markers", f"{MARKER}(plan): what it promises and injects, see harness.scenario")
    config.addinivalue_line("markers", "needs_disk: a case to which only a server with its data on the disk can come")
    config.addinivalue_line("markers", "smoke: one scenario of each family of faults, for a quick look at a lab")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a scenario once under each of its servers, where there are several; `--workload` takes the place of all."""
    marker = metafunc.definition.get_closest_marker(MARKER)
    if marker is None or FIXTURE not in metafunc.fixturenames or metafunc.config.getoption("--workload"):
        return
    workloads: tuple[Workload, ...] = marker.args[0].workloads
    if workloads != (Workload.KV,):
        metafunc.parametrize(FIXTURE, workloads, indirect=True)


def _workload_of(item: pytest.Function) -> Workload:
    """The server under which a collected scenario runs."""
    workload: str = item.config.getoption("--workload") or Workload.KV
    if hasattr(item, "callspec") and isinstance(own := item.callspec.params.get(FIXTURE), Workload):
        workload = own
    return Workload(workload)


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
        if item.get_closest_marker("needs_disk"):
            plan = dataclasses.replace(plan, needs_disk=True)
        if reason := plan.why_not_in(lab, _workload_of(item)):
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
    directory = (request.config.getoption("--evidence") or evidence_of(lab)) / item.name
    _keep_first_attempt(item, directory)
    run = Run(
        lab,
        directory,
        plan,
        name=item.name,
        title=_title(item),
        workload=_workload_of(item),
        seed=zlib.crc32(item.name.encode()) if seed is None else seed,
        when_ended=turn.give_back,
    )
    # Only now is it known how slow the lab is.
    item.add_marker(pytest.mark.timeout(lab.pace.stretch(plan.seconds_max), func_only=True))
    try:
        run.start()
    except Exception as error:
        # What keeps a VM from coming up may be the very thing that an oracle has a word for.
        _conclude(item, run, error)
        raise
    except BaseException:
        run.abandon()
        raise
    return run


def _keep_first_attempt(item: pytest.Item, directory: Path) -> None:
    """A second attempt leaves the evidence of the first beside its own; a first one removes an older run's."""
    kept = first_attempt(directory)
    shutil.rmtree(kept, ignore_errors=True)
    if reason := begun_anew(item):
        directory.rename(kept)
        show_second_attempt(reason, kept)


def _conclude(item: pytest.Item, run: Run, broke_off: BaseException | None = None) -> None:
    """`Run.conclude`, after which the scenario is begun anew where the machine kept it from being judged."""
    try:
        run.conclude(broke_off)
    except EvidenceInsufficientError:
        if reason := reason_to_begin_anew(run.judgements):
            begin_anew(item, reason)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """Runs the oracles after every scenario, without its asking, and whether it went through or not."""
    run = pyfuncitem.funcargs.get(FIXTURE)
    if not isinstance(run, Run):
        return (yield)
    try:
        outcome = yield
    except (Exception, pytest.fail.Exception) as error:
        _conclude(pyfuncitem, run, error)
        raise
    except BaseException:
        run.abandon()
        raise
    _conclude(pyfuncitem, run)
    return outcome
