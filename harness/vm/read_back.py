"""The cold read-back: when all is over, a fresh VM boots from a copy of the disk image and says what it holds."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from harness.evidence.read_back import ReadBack, write_read_back
from harness.lab import topology
from harness.lab.interface import Host, HostState, Lab, LabError
from harness.promise import Workload
from harness.vm.guests import SERVERS, DiskData, key_value

_PACKED = f"{topology.NODE_DIRECTORY}/cold-disk.gz"
_KEYS = f"{topology.NODE_DIRECTORY}/cold-keys.json"
_SECONDS_MAX = 8.0


def collect_read_back(lab: Lab, workload: Workload, keys: Sequence[str], path: Path) -> None:
    """Writes `readback.json`: what the first host that can boot a VM reads, or why none of them can.

    Args:
        lab: its storage host has the image; both nodes have ended, so that nobody writes to it any more.
        workload: the server whose disk it is.
        keys: what to read.
        path: the file.

    Raises:
        ValueError: the server has no disk.
    """
    disk = SERVERS[workload].disk
    if disk is None:
        raise ValueError(f"{workload} keeps its data on no disk")
    command = f"harness.clients.cold_reader {_server_options(lab, workload, disk)}"
    write_read_back(path, _read_back(lab, command, keys))


def _server_options(lab: Lab, workload: Workload, disk: DiskData) -> str:
    guest = key_value(workload)
    words = ["--guest", f"{lab.image_directory}/{guest.image}", "--memory-mib", str(guest.memory_mib)]
    words += ["--serving", disk.serving, *(["--scrub"] if disk.scrubs else [])]
    return shlex.join(words)


def _read_back(lab: Lab, command: str, keys: Sequence[str]) -> ReadBack:
    begun = time.monotonic()
    try:
        packed = _packed_image(lab.storage_host)
    except (LabError, OSError) as error:
        return ReadBack(lab.storage_host.name, failure=f"the image cannot be copied: {error}")
    failures = []
    # The spare host first: a node ran there in few scenarios.
    *pair, spare = lab.fault_tolerant_hosts
    for host in (spare, *pair):
        if host.state is not HostState.RUNNING:
            failures.append(f"{host.name} is not up")
            continue
        try:
            result = _read_on(host, lab, command, packed, keys)
        except (LabError, OSError, ValueError) as error:
            failures.append(f"{host.name}: {error}")
            continue
        if result.failure is None or result.refused_by_guest:
            return ReadBack(**{**result.__dict__, "seconds": round(time.monotonic() - begun, 3)})
        failures.append(f"{host.name}: {result.failure}; it printed {result.console[-500:]!r}")
    return ReadBack(spare.name, failure="; ".join(failures))


def _packed_image(storage: Host) -> bytes:
    """The image as the storage host itself has it, packed: it is mostly zeros."""
    try:
        storage.run(f"gzip --fast --stdout {topology.STORAGE_IMAGE} >{_PACKED}", check=True)
        return storage.read_file(_PACKED)
    finally:
        storage.run(["rm", "--force", _PACKED])


def _read_on(host: Host, lab: Lab, command: str, packed: bytes, keys: Sequence[str]) -> ReadBack:
    seconds = lab.pace.stretch(_SECONDS_MAX)
    host.write_file(_PACKED, packed)
    host.write_file(_KEYS, json.dumps(list(keys)).encode())
    try:
        options = f"--disk {_PACKED} --keys {_KEYS} --seconds {seconds:g}"
        answer = host.run(
            f"{host.python} -m {command} {options}", timeout_seconds=seconds + lab.pace.stretch(5), check=True
        ).stdout
    finally:
        host.run(["rm", "--force", _PACKED, _KEYS])
    return ReadBack(host=host.name, **json.loads(answer))
