"""A scenario as a value: what it promises, what it injects, who watches. A test carries it by the decorator `scenario`.

A plan is checked when it is made, that is when the file of the scenario is imported: nothing has run by then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from fault_injectors.base import LabFault
from fault_injectors.registry import FAULTS
from harness.lab.interface import Capability, Lab
from harness.promise import ArbiterKind, ClientKind, OutputPolicy, Promise, Workload
from harness.vm.guests import SERVERS

Test = TypeVar("Test", bound=Callable[..., Any])

MARKER = "scenario"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a run needs to know beforehand.

    Attributes:
        promise: what is promised.
        faults: the kinds of faults that it injects, all of them and no others.
        client: who watches.
        output_policy: what becomes of uncertain outputs.
        arbiter: what decides who owns the VM.
        mutants: how the VMM is broken on purpose; the nodes refuse one that they do not know.
        failpoints: armed on both nodes from the start; empty where `Run.at` is used, None where the build that is
            shipped runs.
        entries_per_message: at most so many log entries go in one message, so that with 1 each shows by itself on the
            wire; None: as many as fit.
        under_load: whether the client is there from the beginning; else the scenario calls it by `Run.start_load`.
        workloads: the servers under which it runs, once under each, where nobody asks for another one.
        needs_disk: whether only a server with its data on the disk can come to what it tries.
        only_kv: why no other server than `kv` will do; empty where any does.
        seconds_max: for the scenario's own lines and their judgement, as for this machine. Hardly any takes a quarter
            of what is usual when it goes well.
    """

    promise: Promise
    faults: tuple[type[LabFault], ...] = ()
    client: ClientKind = ClientKind.KEY_VALUE
    output_policy: OutputPolicy = OutputPolicy.RESEND
    arbiter: ArbiterKind = ArbiterKind.FILE
    mutants: tuple[str, ...] = ()
    failpoints: tuple[str, ...] | None = None
    entries_per_message: int | None = None
    under_load: bool = True
    workloads: tuple[Workload, ...] = (Workload.KV,)
    needs_disk: bool = False
    only_kv: str = ""
    seconds_max: int = 180

    def __post_init__(self) -> None:
        """Refuses what does not exist.

        Raises:
            TypeError: the promise is none, or a fault is no kind of fault.
            ValueError: there is no such fault, client, policy, arbiter or server.
        """
        if not isinstance(self.promise, Promise):
            raise TypeError(f"{self.promise!r} is no promise")
        for kind in self.faults:
            if not (isinstance(kind, type) and issubclass(kind, LabFault)):
                raise TypeError(f"{kind!r} is no kind of fault")
            if FAULTS.get(kind.name) is not kind:
                raise ValueError(f"the fault {kind.__name__} is not registered")
        ClientKind(self.client)
        OutputPolicy(self.output_policy)
        object.__setattr__(self, "arbiter", ArbiterKind(self.arbiter))
        object.__setattr__(self, "workloads", tuple(map(Workload, self.workloads)))

    @property
    def fault_names(self) -> tuple[str, ...]:
        """The faults by their registered names."""
        return tuple(kind.name for kind in self.faults)

    def why_not_in(self, lab: Lab, workload: Workload = Workload.KV) -> str:
        """Why a lab, which need not be up, cannot run this with such a server; empty when it can."""
        if workload is not Workload.KV:
            if self.client is not ClientKind.KEY_VALUE:
                return f"it has another guest than {workload}"
            reason = self.only_kv
            if self.needs_disk and SERVERS[workload].disk is None:
                reason = "its data is on no disk"
            if reason:
                return f"{workload} does not take part in it: {reason}"
        for kind in self.faults:
            if not kind.available(lab):
                missing = ", ".join(sorted(capability.value for capability in kind.requires - lab.capabilities))
                return f"the lab {lab.name} cannot inject {kind.name}: it lacks {missing}"
        if self.arbiter is ArbiterKind.ETCD and Capability.ETCD not in lab.capabilities:
            return f"the hosts of the lab {lab.name} have no etcd"
        return ""


def scenario(
    promise: Promise,
    *,
    faults: tuple[type[LabFault], ...] = (),
    client: ClientKind = ClientKind.KEY_VALUE,
    output_policy: OutputPolicy = OutputPolicy.RESEND,
    arbiter: ArbiterKind = ArbiterKind.FILE,
    mutants: tuple[str, ...] = (),
    failpoints: tuple[str, ...] | None = None,
    entries_per_message: int | None = None,
    under_load: bool = True,
    workloads: tuple[Workload, ...] = (Workload.KV,),
    needs_disk: bool = False,
    only_kv: str = "",
    seconds_max: int = Plan.seconds_max,
) -> Callable[[Test], Test]:
    """Makes a test a scenario: it takes the fixture `run` and is judged when its own lines are through. See `Plan`."""
    plan = Plan(
        promise=promise,
        faults=faults,
        client=client,
        output_policy=output_policy,
        arbiter=arbiter,
        mutants=mutants,
        failpoints=failpoints,
        entries_per_message=entries_per_message,
        under_load=under_load,
        workloads=workloads,
        needs_disk=needs_disk,
        only_kv=only_kv,
        seconds_max=seconds_max,
    )
    return with_plan(plan)


def with_plan(plan: Plan) -> Callable[[Test], Test]:
    """The same for a plan that is there already."""
    mark = pytest.mark.scenario(plan)

    def decorate(test: Test) -> Test:
        decorated: Test = mark(test)
        return decorated

    return decorate


def plan_of(item: pytest.Item) -> Plan | None:
    """The plan that a collected test carries, if any."""
    marker = item.get_closest_marker(MARKER)
    return marker.args[0] if marker else None
