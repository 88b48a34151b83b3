"""The arbiter's records of a run, and what was seen of them as they came to be: by the storage host, and by no node."""

from __future__ import annotations

import abc
import contextlib
import json
from collections.abc import Iterable
from pathlib import Path

from harness.evidence.json_lines import EvidenceError, Line, decode, read_lines
from harness.evidence.ownership import ArbiterRecord, write_arbiter_records
from harness.lab import topology
from harness.lab.etcd import EtcdCluster, Key, client_address, prefix_of
from harness.lab.interface import Lab, LabError
from harness.lab.waiting import wait_until

_EVENTS = f"{topology.NODE_DIRECTORY}/arbiter-events.jsonl"
_LOG = f"{topology.NODE_DIRECTORY}/arbiter-observer.log"
# CLOCK_REALTIME_COARSE, by which the kernel stamps files (time(7)): Python has no name for it.
_READ = """
import json, os, pathlib, sys, time
resolution_ns = round(time.clock_getres(5) * 1e9)
pair_ns = time.clock_gettime_ns(time.CLOCK_REALTIME) - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
for path in sorted(pathlib.Path(sys.argv[1]).glob("generation-*")):
    try:
        content, status = json.loads(path.read_bytes()), path.stat()
        record = {"generation": int(content["generation"]), "incarnation": f"{int(content['incarnation']):016x}"}
        record |= {"node": str(content["node"]), "claimed_ns": status.st_mtime_ns, "linked_ns": status.st_ctime_ns}
        print(json.dumps(record | {"resolution_ns": resolution_ns, "pair_ns": pair_ns}))
    except (OSError, ValueError, KeyError, TypeError):
        continue
"""
_GENERATION = "generation-"


class ArbiterLog(abc.ABC):
    """Watches the arbiter's records of one VM from before its bootstrap on.

    Args:
        lab: whose storage host does that.
        vm: the VM's UUID.
    """

    def __init__(self, lab: Lab, vm: str) -> None:
        self._lab, self._vm = lab, vm

    @property
    @abc.abstractmethod
    def _observer(self) -> str:
        """The module and its arguments, for Python's option -m."""

    @abc.abstractmethod
    def _read(self, events: Path) -> list[ArbiterRecord]:
        """The records as they are now.

        Args:
            events: what the observer has seen.

        Raises:
            LabError: they cannot be read.
            EvidenceError: they make no sense beside what was seen.
        """

    def start(self) -> None:
        """Begins to watch, and is back when nothing is missed any more.

        Raises:
            LabError: it does not watch.
        """
        host = self._lab.storage_host
        host.run(["rm", "-f", _EVENTS], check=True)
        host.start(
            f"mkdir -p {topology.NODE_DIRECTORY} && exec {host.python} -m {self._observer} --events {_EVENTS}",
            log=_LOG,
        )
        if not wait_until(self._is_watching, timeout_seconds=self._lab.pace.stretch(10)):
            raise LabError(f"nobody watches the arbiter's records: see {_LOG} on {host.name}")

    def _is_watching(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return b"watching" in self._lab.storage_host.read_file(_EVENTS)
        return False

    def collect(self, directory: Path) -> None:
        """Writes what there is to the evidence; an arbiter that cannot be read leaves no records."""
        events = directory / "arbiter-events.jsonl"
        with contextlib.suppress(OSError, LabError):
            events.write_bytes(self._lab.storage_host.read_file(_EVENTS))
        with contextlib.suppress(OSError, LabError, EvidenceError):
            write_arbiter_records(directory / "arbiter.json", self._read(events))


class FileArbiterLog(ArbiterLog):
    """Of the arbiter `file`: files on the storage host."""

    @property
    def _directory(self) -> str:
        return f"{topology.STORAGE_ARBITER}/{self._vm.replace('-', '')}"

    @property
    def _observer(self) -> str:
        return f"harness.lab.arbiter_observer {self._directory}"

    def _read(self, events: Path) -> list[ArbiterRecord]:
        listing = self._lab.storage_host.run(["python3", "-c", _READ, self._directory], check=True).stdout
        read = [Line(Path(self._directory), 1, json.loads(line)) for line in listing.splitlines()]
        return [decode(ArbiterRecord, line) for line in read]


class EtcdArbiterLog(ArbiterLog):
    """Of the arbiter `etcd`: keys, told of by all members to the storage host.

    Args:
        lab: whose storage host watches.
        vm: the VM's UUID.
        cluster: who has the keys.
    """

    def __init__(self, lab: Lab, vm: str, cluster: EtcdCluster) -> None:
        super().__init__(lab, vm)
        self._cluster = cluster
        self._prefix = prefix_of(vm)

    @property
    def _observer(self) -> str:
        members = " ".join(client_address(host) for host in self._lab.fault_tolerant_hosts)
        return f"harness.lab.etcd_observer {self._prefix} {members}"

    def _read(self, events: Path) -> list[ArbiterRecord]:
        clock = self._lab.storage_host.clock()
        keys = self._cluster.keys(f"{self._prefix}{_GENERATION}")
        return records_of_keys(
            [(key.name.removeprefix(self._prefix), key) for key in keys],
            read_lines(events, torn_end_allowed=True),
            pair_ns=clock.realtime_ns - clock.boottime_ns,
        )

    def collect(self, directory: Path) -> None:
        super().collect(directory)
        for name, member in self._cluster.members.items():
            target = directory / "etcd" / f"{name}.log"
            target.parent.mkdir(exist_ok=True)
            with contextlib.suppress(OSError, LabError):
                target.write_bytes(member.host.read_file(topology.ETCD_LOG))


def records_of_keys(keys: Iterable[tuple[str, Key]], events: Iterable[Line], *, pair_ns: int) -> list[ArbiterRecord]:
    """The records that a cluster holds, with the times at which its members told of them.

    Args:
        keys: the generations' keys as the cluster holds them at the end, by their names without the VM's prefix.
        events: what the observer has seen.
        pair_ns: CLOCK_REALTIME less CLOCK_BOOTTIME where it ran.

    Raises:
        EvidenceError: a generation was not seen as it came, is not what it was then, or is gone: of such a cluster
            nobody can say who owned the VM when.
    """
    absent_ns: int | None = None
    told: dict[str, tuple[str, int]] = {}
    for line in events:
        if line.fields.get("event") == "watching":
            absent_ns = int(line.fields["absent_ns"])
        elif line.fields.get("event") == "created" and str(line.fields.get("name")).startswith(_GENERATION):
            told.setdefault(str(line.fields["name"]), (str(line.fields["value"]), int(line.fields["seen_ns"])))
    if absent_ns is None:
        raise EvidenceError("nobody watched the keys of etcd")
    held = dict(keys)
    if held.keys() != told.keys():
        raise EvidenceError(f"etcd holds {sorted(held)}, and {sorted(told)} were seen as they came")
    records = []
    for name, key in held.items():
        value, seen_ns = told[name]
        if key.version != 1 or key.value != value:
            raise EvidenceError(f"{name} of etcd is not what it was when it came: {value}, and now {key}")
        try:
            content = json.loads(value)
            generation, incarnation = int(content["generation"]), f"{int(content['incarnation']):016x}"
            records.append(ArbiterRecord(generation, incarnation, str(content["node"]), absent_ns, 0, seen_ns, pair_ns))
        except (ValueError, KeyError, TypeError) as error:
            raise EvidenceError(f"{name} of etcd is no record: {value}") from error
    return records
