"""The arbiter's records of a run, and what was seen of them as they came to be: read on the storage host alone."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from harness.evidence.json_lines import Line, decode
from harness.evidence.ownership import ArbiterRecord, write_arbiter_records
from harness.lab import topology
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


class ArbiterLog:
    """Watches the arbiter's files of one VM from before its bootstrap on.

    Args:
        lab: whose storage host has them.
        vm: the VM's UUID.
    """

    def __init__(self, lab: Lab, vm: str) -> None:
        self._lab = lab
        self._directory = f"{topology.STORAGE_ARBITER}/{vm.replace('-', '')}"

    def start(self) -> None:
        """Begins to watch, and is back when nothing is missed any more.

        Raises:
            LabError: it does not watch.
        """
        host = self._lab.storage_host
        host.run(["rm", "-f", _EVENTS], check=True)
        host.start(
            f"mkdir -p {topology.NODE_DIRECTORY} && "
            f"exec {host.python} -m harness.lab.arbiter_observer {self._directory} --events {_EVENTS}",
            log=_LOG,
        )
        if not wait_until(self._is_watching, timeout_seconds=self._lab.pace.stretch(10)):
            raise LabError(f"nobody watches the arbiter's files: see {_LOG} on {host.name}")

    def _is_watching(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return b"watching" in self._lab.storage_host.read_file(_EVENTS)
        return False

    def collect(self, directory: Path) -> None:
        """Writes what there is to the evidence; a storage host that is off leaves nothing."""
        host = self._lab.storage_host
        with contextlib.suppress(OSError, LabError):
            listing = host.run(["python3", "-c", _READ, self._directory], check=True).stdout
            read = [Line(Path(self._directory), 1, json.loads(line)) for line in listing.splitlines()]
            write_arbiter_records(directory / "arbiter.json", [decode(ArbiterRecord, line) for line in read])
        with contextlib.suppress(OSError, LabError):
            (directory / "arbiter-events.jsonl").write_bytes(host.read_file(_EVENTS))
