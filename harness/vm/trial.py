"""One scenario's run from start to verdict: a pair, a client, faults, evidence, and the oracles' judgement of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fault_injectors.fault import Fault, FaultLog, FaultRecord
from harness.evidence.allure_report import PromiseBrokenError, raise_if_broken, report
from harness.evidence.capture_counts import write_capture_counts
from harness.evidence.directory import EvidenceDirectory
from harness.evidence.disk import collect_disk
from harness.evidence.scenario import Scenario
from harness.evidence.verdicts import Judgement
from harness.lab import topology
from harness.lab.interface import Lab, LabError
from harness.oracles.registry import judge
from harness.vm import guests
from harness.vm.arbiter_log import ArbiterLog
from harness.vm.client import Client
from harness.vm.clock_log import ClockLog
from harness.vm.pair import CONSOLE, NODE_LOG, TRACE, Node, Pair
from harness.vm.read_back import collect_read_back

OPERATIONS_AFTER = 60


class Trial:
    """What a scenario holds in its hands.

    Args:
        lab: where it runs.
        directory: where the evidence goes; emptied first.
        name: the scenario's name.
        client: `key-value`, `ticker` or `none`.
        seed: what the client's load is drawn from.
        promise: what this scenario promises beyond the defaults of `harness.evidence.scenario.Scenario`.
        mutants: how the VMM is broken on purpose.
        policy: what becomes of uncertain outputs.
    """

    def __init__(
        self,
        lab: Lab,
        directory: Path,
        *,
        name: str,
        client: str = "key-value",
        seed: int = 0,
        promise: dict[str, Any] | None = None,
        mutants: Sequence[str] = (),
        policy: str = "resend",
    ) -> None:
        self.lab, self.directory, self._seed = lab, directory, seed
        self._name, self._client_kind = name, client
        self._promise = promise or {}
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        guest = guests.ticker() if client == "ticker" else guests.key_value()
        self.pair = Pair(lab, guest, mutants=mutants, policy=policy)
        self.client = Client(lab, client, seed=seed)
        self._faults = FaultLog(lab, directory / "faults.jsonl")
        self._clocks = ClockLog(lab, directory / "clocks.json")
        self._arbiter = ArbiterLog(lab, self.pair.vm)
        self._start_ns = time.time_ns()
        self.judgements: list[Judgement] = []

    def start(self) -> None:
        """Brings the VM up, protected and under load."""
        self._arbiter.start()
        self.pair.start()
        self.client.start()
        self._clocks.sample()
        self.client.wait_for_answers(OPERATIONS_AFTER)

    @property
    def primary(self) -> Node:
        """The node that owns the VM now."""
        return self.pair.primary

    @property
    def backup(self) -> Node:
        """The node that replays now."""
        return self.pair.backup

    def inject(self, fault: Fault) -> FaultRecord:
        """Injects a fault; whether it bit is judged with everything else."""
        with self._clocks.around():
            return self._faults.inject(fault)

    def heal(self, record: FaultRecord) -> None:
        """Undoes a fault."""
        with self._clocks.around():
            self._faults.heal(record)

    @contextlib.contextmanager
    def under(self, *faults: Fault) -> Iterator[None]:
        """Injects faults for the length of a `with` block."""
        with contextlib.ExitStack() as stack:
            for fault in faults:
                stack.callback(self.heal, self.inject(fault))
            yield

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

    def expect_protected(self) -> None:
        """The pair is still together: a primary with its backup.

        Raises:
            PairError: it is not.
        """
        self.pair.node_in({"PROTECTED"})
        self.pair.node_in({"BACKUP"})

    def expect_roles(self, roles: Mapping[Node, str]) -> None:
        """These nodes have these roles now.

        Raises:
            PromiseBrokenError: one has not.
        """
        for node, role in roles.items():
            status = node.status()
            if status is None or status["role"] != role:
                raise PromiseBrokenError(f"{node.name} is {status and status['role']}, not {role}")

    def command(self, *words: str) -> str:
        """Gives the key-value server one command, over a connection of its own; its answer as redis-cli prints it."""
        host = topology.VM_ADDRESS
        return self.lab.client_host.run(
            ["redis-cli", "-h", host, *words], check=True, timeout_seconds=self.lab.pace.stretch(30)
        ).stdout.strip()

    def offset_on_disk(self, content: bytes) -> int:
        """Where the disk image holds these bytes, counted from its start; the last place if there are several.

        Raises:
            PromiseBrokenError: nowhere.
        """
        image = self.lab.storage_host.read_file(topology.STORAGE_IMAGE)
        offset = image.rfind(content)
        if offset < 0:
            raise PromiseBrokenError(f"the disk image does not hold {content!r}")
        return offset

    def conclude(self) -> None:
        """Ends the run, gathers the evidence and judges it.

        Raises:
            PromiseBrokenError: an oracle failed, or had too little evidence.
        """
        self.client.stop()
        self.collect()
        self.judge()

    def abandon(self) -> None:
        """Gathers what evidence there is of a run that broke off, without judging it."""
        with contextlib.suppress(LabError, OSError, ValueError):
            self.client.stop()
        with contextlib.suppress(LabError, OSError):
            self.collect()

    def collect(self) -> None:
        """Gathers the evidence: traces, captures, history, what the disk holds."""
        end_ns = time.time_ns()
        with self._clocks.around():
            self._faults.end_all()
        self._status()
        self.pair.stop()
        for node in self.pair.nodes.values():
            target = self.directory / "hosts" / node.name
            target.mkdir(parents=True, exist_ok=True)
            for path in (TRACE, CONSOLE, NODE_LOG):
                with contextlib.suppress(OSError, LabError):
                    (target / Path(path).name).write_bytes(node.host.read_file(path))
        self.client.collect(self.directory)
        self._arbiter.collect(self.directory)
        # Last: what nobody was to say any more is looked at as well.
        self._collect_captures()
        self._write_scenario(end_ns)
        if self.pair.guest.block:
            evidence = EvidenceDirectory(self.directory)
            collect_disk(self.lab.storage_host, topology.STORAGE_IMAGE, evidence.traces, self.directory / "disk.json")
            keys = sorted({one.key for one in evidence.history.operations}) if self._client_kind == "key-value" else []
            collect_read_back(self.lab, keys, self.directory / "readback.json")

    def _collect_captures(self) -> None:
        """Copies the captures, and writes down how many frames each of them missed."""
        directory = self.directory / "captures"
        write_capture_counts(directory / "counts.json", self.lab.collect_captures(directory))

    def _status(self) -> None:
        for node in self.pair.nodes.values():
            target = self.directory / "hosts" / node.name
            target.mkdir(parents=True, exist_ok=True)
            (target / "status.json").write_text(json.dumps(node.status(), indent=2) + "\n")

    def _write_scenario(self, end_ns: int) -> None:
        scenario = Scenario(
            name=self._name,
            lab=self.lab.name,
            seed=self._seed,
            start_ns=self._start_ns,
            end_ns=end_ns,
            mac=topology.VM_MAC,
            addresses=[topology.VM_ADDRESS],
            client=self._client_kind,
            key=self.pair.key,
            lease_ms=self.pair.timing.lease_ms,
            detect_ms=self.pair.timing.detect_ms,
            output_policy=self.pair.policy,
            **self._promise,
        )
        # Bounds are promised for this machine's speed; a slower lab keeps them in its own time.
        scenario = dataclasses.replace(
            scenario,
            stall_ms_max=self.lab.pace.stretch(scenario.stall_ms_max),
            uncertain_ms_max=self.lab.pace.stretch(scenario.uncertain_ms_max),
        )
        scenario.write(self.directory / "scenario.json")

    def judge(self) -> None:
        """Lets every oracle judge the evidence.

        Raises:
            PromiseBrokenError: one did not pass.
        """
        evidence = EvidenceDirectory(self.directory)
        self.judgements = judge(evidence)
        report(evidence, self.judgements)
        raise_if_broken(self.judgements)
