"""One scenario's run: a pair and a client in a lab, the faults that strike them, and the end at which it is judged."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fault_injectors.fault import Fault, FaultLog, FaultRecord
from harness.evidence import allure_report
from harness.evidence.directory import EvidenceDirectory
from harness.evidence.verdicts import Judgement
from harness.lab.etcd import EtcdCluster
from harness.lab.interface import Lab, LabError
from harness.oracles import registry
from harness.promise import ArbiterKind, ClientKind, Expect, Workload
from harness.scenario import Plan
from harness.vm import guests
from harness.vm.arbiter_log import ArbiterLog, EtcdArbiterLog, FileArbiterLog
from harness.vm.client import DRAIN_SECONDS, Client, ClientError
from harness.vm.clock_log import ClockLog
from harness.vm.evidence_collection import collect, collect_status
from harness.vm.failpoints import Moment, failpoint
from harness.vm.key_value_probe import KeyValueProbe
from harness.vm.pair import Node, Pair, PairError, Role

OPERATIONS_BEFORE, OPERATIONS_AFTER = 200, 60
# How long the load goes on when the last thing has happened that a scenario does, and the pair is to stay together.
LOAD_SECONDS_TOGETHER = 2.0
# How long the client asks on in vain, where the VM has ended: its nodes have, by then.
DRAIN_SECONDS_STOPPED = 1.0
_NICER = 10


class Run:
    """What a scenario holds in its hands.

    Args:
        lab: where it runs.
        directory: where the evidence goes; emptied first.
        plan: what it promises and who watches.
        name: the scenario's name.
        title: its name for people.
        seed: what the client's load is drawn from.
        workload: which server the VM runs under the key-value client.
        when_ended: called when client and nodes have ended, before the evidence is gathered and judged.
    """

    def __init__(
        self,
        lab: Lab,
        directory: Path,
        plan: Plan,
        *,
        name: str,
        title: str = "",
        seed: int = 0,
        workload: Workload = Workload.KV,
        when_ended: Callable[[], None] = lambda: None,
    ) -> None:
        self.lab, self.directory, self.plan, self.seed = lab, directory, plan, seed
        self.name, self.title, self._when_ended = name, title, when_ended
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        self.workload = workload
        guest = guests.ticker() if plan.client is ClientKind.TICKER else guests.key_value(workload)
        self.pair = Pair(
            lab,
            guest,
            mutants=plan.mutants,
            failpoints=plan.failpoints,
            policy=plan.output_policy,
            entries_per_message=plan.entries_per_message,
            arbiter=plan.arbiter,
        )
        self._etcd = EtcdCluster(lab) if plan.arbiter is ArbiterKind.ETCD else None
        self.arbiter: ArbiterLog = (
            FileArbiterLog(lab, self.pair.vm) if self._etcd is None else EtcdArbiterLog(lab, self.pair.vm, self._etcd)
        )
        drain_seconds = DRAIN_SECONDS if plan.promise.expects_service else DRAIN_SECONDS_STOPPED
        self.client = Client(lab, plan.client, seed=seed, workload=workload, drain_seconds=drain_seconds)
        self.key_value = KeyValueProbe(lab)
        self.start_ns = time.time_ns()
        # When the load had ended; what follows is the taking down.
        self.end_ns = 0
        self.judgements: list[Judgement] = []
        self._faults = FaultLog(lab, directory / "faults.jsonl")
        self._moments: list[Moment] = []
        self._clocks = ClockLog(lab, directory / "clocks.json")

    def start(self) -> None:
        """Brings the VM up, protected and under load where the plan says so.

        Each host's programs are started while others start theirs: all that has to wait is the bootstrap, until
        somebody watches the arbiter's records.
        """
        with ThreadPoolExecutor() as beside:
            watched, sampled = beside.submit(self._start_arbiter), beside.submit(self._clocks.sample)
            prepared = beside.submit(self.client.prepare) if self.plan.under_load else None
            self.pair.start(before_bootstrap=watched.result)
            sampled.result()
            if prepared is not None:
                prepared.result()
        if self.plan.under_load:
            self.start_load()

    def _start_arbiter(self) -> None:
        if self._etcd is not None:
            self._etcd.start()
        self.arbiter.start()

    def start_load(self) -> None:
        """Starts the client, and waits until every kind of output was seen."""
        written_before = self.key_value.disk_modified_ns() if self.pair.guest.block else 0
        self.client.start()
        self.client.wait_for_answers(OPERATIONS_BEFORE)
        # A primary that has died may have let out all that the guest says as it boots.
        owner = self.primary
        self.pair.wait_for_console([owner, self.pair.other(owner)], "\n")
        if self.pair.guest.block:
            self.pair.wait_until(
                lambda: self.key_value.disk_modified_ns() > written_before, what="the VM writes to its disk"
            )

    @property
    def etcd(self) -> EtcdCluster:
        """The cluster that decides who owns the VM.

        Raises:
            ValueError: the scenario's plan has another arbiter.
        """
        if self._etcd is None:
            raise ValueError(f"the arbiter of the scenario's plan is {self.plan.arbiter}")
        return self._etcd

    @property
    def primary(self) -> Node:
        """The node that owns the VM now."""
        return self.pair.primary

    @property
    def backup(self) -> Node:
        """The node that replays now."""
        return self.pair.backup

    def inject(self, fault: Fault) -> FaultRecord:
        """Injects a fault and comes back at once.

        Whether it took effect is looked at meanwhile, and judged with everything else.

        Raises:
            ValueError: the scenario does not say that it injects such a fault.
        """
        if fault.name not in self.plan.fault_names:
            raise ValueError(f"the scenario's plan has no {fault.name}: {', '.join(self.plan.fault_names) or 'none'}")
        held_ns = [moment.held_ns for moment in self._moments if moment.held_ns is not None]
        with self._clocks.around():
            return self._faults.inject(fault, held_ns=min(held_ns, default=None))

    def await_confirmations(self) -> None:
        """Waits until it is known of every fault whether it took effect, where the next step would wipe that out."""
        for record in self._faults.records:
            self._faults.await_confirmation(record)

    def heal(self, record: FaultRecord) -> None:
        """Undoes a fault, having seen whether it took effect."""
        self._faults.await_confirmation(record)
        with self._clocks.around():
            self._faults.heal(record)

    @contextlib.contextmanager
    def under(self, *faults: Fault) -> Iterator[None]:
        """Injects faults for the length of a `with` block; all are healed, whatever raises."""
        with contextlib.ExitStack() as stack:
            for fault in faults:
                stack.callback(self.heal, self.inject(fault))
            yield

    def at(
        self, point: str, node: Node, *, kind: str | None = None, after: int = 0, delay_ms: int | None = None
    ) -> Moment:
        """Holds a node at an exact moment: `wait` for it, then do something, before the `with` block lets it go on.

        Args:
            point: which moment.
            node: whose.
            kind: of an output: `frame`, `block` or `console`; None for any.
            after: how often it passes first.
            delay_ms: when it goes on by itself, though nobody lets it; None: never.

        Raises:
            FailpointError: there is no such point.
            ValueError: the scenario's plan has no failpoints.
        """
        if self.plan.failpoints is None:
            raise ValueError("the scenario's plan has no failpoints: its nodes run the build that is shipped")
        action = "block" if delay_ms is None else f"delay:{delay_ms}"
        moment = Moment(node.failpoints, failpoint(point, action, kind=kind, after=after))
        if delay_ms is None:
            self._moments.append(moment)
        return moment

    def expect_service(self, *, timeout_seconds: float = 30) -> None:
        """Waits until the client has answers to what it asked from now on."""
        self.client.wait_for_answers(OPERATIONS_AFTER, timeout_seconds=timeout_seconds)

    def expect_takeover(self, survivor: Node) -> None:
        """Waits until `survivor` owns the VM and serves the client."""
        self.pair.wait_until_alone(survivor)
        self.expect_service()

    def expect_one_survivor(self, first: Node, second: Node) -> None:
        """Waits until one of two nodes has halted itself, the other owns the VM alone, and the client is served."""
        halted = self.pair.wait_until_either_halts(first, second)
        self.expect_takeover(self.pair.other(halted))

    def expect_together(self) -> None:
        """Lets the load go on for a while, after which the pair still is what it was: a primary with its backup.

        Raises:
            ClientError: nobody was served.
            PairError: the pair has parted.
        """
        self.client.load_for(LOAD_SECONDS_TOGETHER)
        self.expect_protected()

    def expect_protected(self) -> None:
        """The pair is a primary with its backup now.

        Raises:
            PairError: it is not.
        """
        self.pair.node_in({Role.PROTECTED})
        self.pair.node_in({Role.BACKUP})

    def expect_roles(self, roles: Mapping[Node, Role]) -> None:
        """These nodes have these roles now.

        Raises:
            PairError: one has not.
        """
        for node, role in roles.items():
            if node.role is not role:
                raise PairError(f"{node.name} is {node.role or 'silent'}, not {role}")

    def conclude(self, broke_off: BaseException | None = None) -> None:
        """Ends the run, gathers the evidence and judges it, whether the scenario's own lines went through or not.

        Args:
            broke_off: what a line of the scenario raised, if any.

        Raises:
            PromiseBrokenError: an oracle failed.
            EvidenceInsufficientError: one had too little evidence.
            BaseException: `broke_off`, or what ending the run raised, when no oracle has a word to say.
        """
        if broke_off is None:
            try:
                self._end_as_promised()
            except (PairError, ClientError, LabError) as error:
                broke_off = error
        self.gather()
        self.judgements = judge(self.directory)
        raise_if_broken(self.judgements, broke_off)

    def abandon(self) -> None:
        """Gathers what evidence there is of a run that broke off before it began, without judging it."""
        with contextlib.suppress(LabError, OSError):
            self.gather()

    def _end_as_promised(self) -> None:
        """Lets the load go on for a while, and looks whether the pair still is what it was, where that is promised."""
        expect = self.plan.promise.expect
        if expect is Expect.STAYS_TOGETHER:
            self.expect_together()
        elif expect is not Expect.STOPS:
            self.client.load_for(self.plan.promise.load_seconds_after_min)

    def gather(self) -> None:
        """Ends the load, then the faults, then the nodes, and gathers what they left."""
        with contextlib.suppress(ClientError, LabError, OSError, ValueError):
            self.client.stop()
        self.end_ns = time.time_ns()
        with self._clocks.around():
            self._faults.end_all()
        collect_status(self.pair, self.directory)
        self.pair.stop()
        self._when_ended()
        collect(self)
        if self._etcd is not None:
            self._etcd.stop()


def judge(directory: Path) -> list[Judgement]:
    """Lets every oracle that applies judge the evidence, and shows all of it in the report."""
    evidence = EvidenceDirectory(directory)
    with _at_low_priority():
        judgements = registry.judge(evidence)
        allure_report.report(evidence, judgements)
    return judgements


@contextlib.contextmanager
def _at_low_priority() -> Iterator[None]:
    """Lets the labs that run beside this process have the processor first: their bounds on time are tight."""
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, usual + _NICER)
    try:
        yield
    finally:
        # Only root may hurry again; labs need root as well.
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, usual)


def raise_if_broken(judgements: Sequence[Judgement], broke_off: BaseException | None) -> None:
    """Fails the scenario unless every oracle passed and its own lines went through; the oracles' words come first.

    Raises:
        PromiseBrokenError: an oracle failed.
        EvidenceInsufficientError: none failed, and one had too little evidence.
        BaseException: `broke_off`, when all oracles passed.
    """
    try:
        allure_report.raise_if_broken(judgements)
    except (allure_report.PromiseBrokenError, allure_report.EvidenceInsufficientError) as broken:
        if broke_off is None:
            raise
        told = f"{broken}\n\nand the scenario itself broke off: {type(broke_off).__name__}: {broke_off}"
        raise type(broken)(told) from broke_off
    if broke_off is not None:
        raise broke_off
