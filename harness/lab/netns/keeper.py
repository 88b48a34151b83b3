"""The keeper of a run: starts the rack, outlives the owner, and cleans up when the owner is gone.

The rack is the init of a PID namespace that all hosts' namespaces are nested in, and its network namespace is the
switch. When it dies the kernel kills every process of the run, and with the last process of a namespace go its links
and mounts.

The owner holds the other end of the keeper's standard input. End of file there (the owner closed it, or was killed in
any way) means: clean up. The line `keep` means: let the lab live until SIGTERM.

Run as `python -m harness.lab.netns.keeper RUN_DIRECTORY`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from harness.lab.namespaces import only_child
from harness.lab.netns.run_directory import RunDirectory
from harness.lab.process_identity import ProcessIdentity
from harness.lab.waiting import wait_until


class _Terminated(Exception):
    """SIGTERM arrived."""


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated


def start_rack(log: Path) -> tuple[subprocess.Popen[bytes], ProcessIdentity]:
    """Start the rack. Should the keeper itself be killed, the kernel kills `unshare`, and that the rack."""
    command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--pid", "--mount", "--uts", "--ipc"]
    command += ["--fork", "--kill-child=KILL", "sleep", "infinity"]
    with log.open("ab") as errors:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=errors)
    # Between fork and exec the child is still `unshare`, its namespaces are already there.
    rack = wait_until(
        lambda: _child(process.pid) or process.poll() is not None, timeout_seconds=10, interval_seconds=0.002
    )
    if isinstance(rack, ProcessIdentity):
        return process, rack
    raise RuntimeError(f"unshare could not make the namespaces: {log.read_text().strip()}")


def _child(pid: int) -> ProcessIdentity | None:
    child = only_child(pid)
    with contextlib.suppress(ProcessLookupError):
        return None if child is None else ProcessIdentity.of(child)
    return None


def main(path: str) -> int:
    """Keep the run until its owner is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _terminate)
    run = RunDirectory(Path(path))
    try:
        process, rack = start_rack(run.path / "rack.log")
        state = dataclasses.replace(run.read_state(), keeper=ProcessIdentity.own(), rack=rack)
        run.write_state(state)
        print(rack.pid, flush=True)
        while line := sys.stdin.readline():
            if line.strip() == "keep":
                run.write_state(dataclasses.replace(state, owner=None))
                print("kept", flush=True)
                signal.pause()
    except _Terminated:
        pass
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # The order matters: nothing may be started in the run's groups while they are being removed.
    rack.kill()
    run.remove()
    process.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
