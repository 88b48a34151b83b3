"""The cold read-back: when all is over, a fresh VM boots from a copy of the disk image and says what it holds."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from harness.evidence.read_back import ReadBack, write_read_back
from harness.lab import topology
from harness.lab.interface import Host, HostState, Lab, LabError
from harness.vm.guests import key_value

_PACKED = f"{topology.NODE_DIRECTORY}/cold-disk.gz"
_KEYS = f"{topology.NODE_DIRECTORY}/cold-keys.json"
_SECONDS_MAX = 8.0


def collect_read_back(lab: Lab, keys: Sequence[str], path: Path) -> None:
    """Writes `readback.json`: what the first host that can boot a VM reads, or why none of them can.

    Args:
        lab: its storage host has the image; both nodes have ended, so that nobody writes to it any more.
        keys: what to read.
        path: the file.
    """
    write_read_back(path, _read_back(lab, keys))


def _read_back(lab: Lab, keys: Sequence[str]) -> ReadBack:
    begun = time.monotonic()
    try:
        packed = _packed_image(lab.storage_host)
    except (LabError, OSError) as error:
        return ReadBack(lab.storage_host.name, failure=f"the image cannot be copied: {error}")
    failures = []
    # The spare first: no node ever ran there.
    *pair, spare = lab.fault_tolerant_hosts
    for host in (spare, *pair):
        if host.state is not HostState.RUNNING:
            failures.append(f"{host.name} is not up")
            continue
        try:
            result = _read_on(host, lab, packed, keys)
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


def _read_on(host: Host, lab: Lab, packed: bytes, keys: Sequence[str]) -> ReadBack:
    seconds = lab.pace.stretch(_SECONDS_MAX)
    host.write_file(_PACKED, packed)
    host.write_file(_KEYS, json.dumps(list(keys)).encode())
    try:
        command = (
            f"{host.python} -m harness.clients.cold_reader --guest {lab.image_directory}/{key_value().image}"
            f" --disk {_PACKED} --keys {_KEYS} --seconds {seconds:g}"
        )
        answer = host.run(command, timeout_seconds=seconds + lab.pace.stretch(5), check=True).stdout
    finally:
        host.run(["rm", "--force", _PACKED, _KEYS])
    return ReadBack(host=host.name, **json.loads(answer))
