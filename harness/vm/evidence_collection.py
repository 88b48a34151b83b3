"""Gathers what a run leaves on the hosts into its evidence directory: the nodes' files, captures, disk."""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from harness.evidence.capture import write_capture_counts
from harness.evidence.directory import EvidenceDirectory
from harness.evidence.disk import collect_disk
from harness.evidence.json_lines import EvidenceError
from harness.evidence.looks import write_looks
from harness.evidence.scenario import Scenario
from harness.evidence.standstills import write_standstills
from harness.lab import topology
from harness.lab.interface import LabError
from harness.promise import ClientKind, Promise
from harness.vm.node_file import CONFIG_PATH
from harness.vm.pair import NODE_LOG, TRACE, Node, Pair
from harness.vm.read_back import collect_read_back
from harness.vm.replays import collect_replays

if TYPE_CHECKING:
    from harness.vm.run import Run


def collect(run: Run) -> None:
    """Gathers everything; client and nodes have ended by then."""
    _collect_nodes(run.pair, run.directory)
    with contextlib.suppress(OSError, LabError):
        run.client.collect(run.directory)
    run.arbiter.collect(run.directory)
    # When all has ended that could say anything: what nobody was to say any more is looked at as well.
    captures = run.directory / "captures"
    write_capture_counts(captures / "counts.json", run.lab.collect_captures(captures))
    if looks := run.lab.looks():
        concerned = sorted({*run.pair.nodes, run.lab.client_host.name, run.lab.storage_host.name})
        write_looks(run.directory / "looks.jsonl", looks, concerned)
    with contextlib.suppress(EvidenceError, OSError):
        if record := run.lab.machine_record():
            write_standstills(run.directory / "standstills.json", record)
    _write_scenario(run)
    with ThreadPoolExecutor() as beside:
        replayed = beside.submit(collect_replays, run.lab, run.directory)
        if run.pair.guest.block:
            _collect_disk(run)
        replayed.result()


def _collect_disk(run: Run) -> None:
    """What the disk image holds, and what a fresh VM reads of it."""
    evidence = EvidenceDirectory(run.directory)
    collect_disk(run.lab.storage_host, topology.STORAGE_IMAGE, evidence.traces, run.directory / "disk.json")
    keys: set[str] = set()
    if run.plan.client is ClientKind.KEY_VALUE:
        # A client that left no history is the oracles' business.
        with contextlib.suppress(EvidenceError):
            keys = {one.key for one in evidence.history.operations}
    collect_read_back(run.lab, run.workload, sorted(keys), run.directory / "readback.json")


def collect_status(pair: Pair, directory: Path) -> None:
    """What the nodes say of themselves before they are stopped."""
    for node in pair.nodes.values():
        target = directory / "hosts" / node.name
        target.mkdir(parents=True, exist_ok=True)
        (target / "status.json").write_text(json.dumps(node.status(), indent=2) + "\n")


def _collect_nodes(pair: Pair, directory: Path) -> None:
    with ThreadPoolExecutor() as beside:
        list(beside.map(lambda node: _collect_node(node, directory / "hosts" / node.name), pair.nodes.values()))


def _collect_node(node: Node, target: Path) -> None:
    # A node records under its incarnation, and a host may have had several.
    incarnations = {event["incarnation"] for event in node.trace()}
    recorded = [f"{topology.NODE_DIRECTORY}/recorded-{incarnation}.log" for incarnation in sorted(incarnations)]
    for path in (TRACE, topology.CONSOLE_PATH, NODE_LOG, CONFIG_PATH, *recorded):
        with contextlib.suppress(OSError, LabError):
            (target / Path(path).name).write_bytes(node.host.read_file(path))


def _write_scenario(run: Run) -> None:
    """A promise is made for this machine's speed; a slower lab keeps it in its own time."""
    promise = run.plan.promise.scaled(run.lab.pace.factor)
    Scenario(
        name=run.name,
        lab=run.lab.name,
        seed=run.seed,
        start_ns=run.start_ns,
        end_ns=run.end_ns,
        mac=topology.VM_MAC,
        addresses=(topology.VM_ADDRESS,),
        client=run.plan.client,
        workload=run.workload,
        has_disk=run.pair.guest.block,
        key=run.pair.key,
        lease_ms=run.pair.timing.lease_ms,
        detect_ms=run.pair.timing.detect_ms,
        heartbeat_ms=run.pair.timing.heartbeat_ms,
        write_bound_ms=run.pair.timing.write_bound_ms,
        output_policy=run.pair.policy,
        arbiter=run.pair.arbiter,
        faults=run.plan.fault_names,
        time_scale=run.lab.pace.factor,
        title=run.title,
        **{field.name: getattr(promise, field.name) for field in fields(Promise)},
    ).write(run.directory / "scenario.json")
