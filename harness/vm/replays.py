"""Replays the owners' logs in the lab, where the hosts' processors are not this machine's.

A guest may keep what an architecture leaves undefined, such as a flag behind a shift, and a log is of one kind of
processor for that. What a replay says is put into the evidence beside the log.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from harness.evidence.directory import EvidenceDirectory
from harness.evidence.json_lines import EvidenceError
from harness.evidence.recording import Recording
from harness.evidence.replay import options_of, require_end
from harness.lab import topology
from harness.lab.interface import Capability, Host, HostState, Lab, LabError

_SECONDS_MAX = 20.0


def collect_replays(lab: Lab, directory: Path) -> None:
    """Replays what can be, on the first host that is up; the oracles say what is missing."""
    if Capability.KERNEL not in lab.capabilities:
        return
    # The spare host first: a node ran there in few scenarios.
    *pair, spare = lab.fault_tolerant_hosts
    for host in (spare, *pair):
        if host.state is HostState.RUNNING:
            with suppress(EvidenceError, LabError, OSError):
                _replay_on(host, lab, directory)
                return


def _replay_on(host: Host, lab: Lab, directory: Path) -> None:
    def replay(log: Path, outputs: Path, recording: Recording, states_at: Sequence[int]) -> None:
        there = f"{topology.NODE_DIRECTORY}/replayed-{recording.incarnation}.log"
        # Packed: most of a log is zeros, and an emulated processor deciphers some two megabytes a second.
        host.write_file(f"{there}.gz", gzip.compress(log.read_bytes(), compresslevel=1))
        try:
            options = [f"--image={lab.image_directory}/{recording.image_name}", *options_of(states_at)]
            command = f"{host.python} -m ftvmm replay --outputs={there}.outputs {' '.join(options)} {there} >/dev/null"
            done = host.run(f"gunzip {there}.gz && {command}", timeout_seconds=lab.pace.stretch(_SECONDS_MAX))
            with suppress(FileNotFoundError):
                outputs.write_bytes(host.read_file(f"{there}.outputs"))
            require_end(outputs, recording, done.stderr)
        finally:
            host.run(f"rm --force {there}*")

    EvidenceDirectory(directory).replayed_by(replay)
