"""The files of a run under /dev/shm/ftvmm-lab/<run>, and the sweep that removes what a dead owner left.

They lie in memory: on this machine's disk a flush of one lab's hosts waits for what everybody else writes there, 84 ms
and more beside a second lab, and each such wait is a stall that the client notices and that no fault made.

Everything else of a run (namespaces, links, mounts, processes) hangs on one PID namespace and goes with it; its init is
the rack, see `keeper`.

While there is a run the kernel's autogroups are off (sched(7)): with them each session of processes gets the same share
of a processor, every command on a host is one, and that the hosts go first (`host`) would mean nothing. A guest's
thread was seen to wait 78 ms for programs that judged another run at a lower priority.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.lab.netns import control_group
from harness.lab.process_identity import ProcessIdentity

ROOT = Path("/dev/shm/ftvmm-lab")
# What a lab writes in a long scenario, several times over.
BYTES_MIN = 512 << 20
STATE = "state.json"
AUTOGROUPS = Path("/proc/sys/kernel/sched_autogroup_enabled")
_AUTOGROUPS_BEFORE = "autogroups"


@dataclass(frozen=True)
class RunState:
    """Who owns a run. `owner` None: kept on purpose, until somebody takes it down by hand."""

    owner: ProcessIdentity | None
    keeper: ProcessIdentity | None = None
    rack: ProcessIdentity | None = None


@dataclass(frozen=True)
class RunDirectory:
    """The directory of one run."""

    path: Path

    @property
    def run_id(self) -> str:
        """The run's name."""
        return self.path.name

    @classmethod
    def create(cls) -> RunDirectory:
        """Make the directory of a new run, owned by the calling process."""
        with _locked():
            directory = cls(ROOT / f"{os.getpid()}-{secrets.token_hex(3)}")
            directory.path.mkdir(mode=0o700)
            directory.write_state(RunState(owner=ProcessIdentity.own()))
            _switch_autogroups_off()
        return directory

    def read_state(self) -> RunState:
        """Who owns the run; a directory without a readable state belongs to nobody alive."""
        try:
            raw = json.loads((self.path / STATE).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return RunState(owner=ProcessIdentity(0, 0))
        return RunState(**{key: ProcessIdentity(**value) if value else None for key, value in raw.items()})

    def write_state(self, state: RunState) -> None:
        """Replace the state in one step."""
        temporary = self.path / f"{STATE}.new"
        temporary.write_text(json.dumps(dataclasses.asdict(state)))
        temporary.replace(self.path / STATE)

    @property
    def is_abandoned(self) -> bool:
        """Whether the owner is dead."""
        owner = self.read_state().owner
        return owner is not None and not owner.is_alive()

    def remove(self) -> None:
        """Kill what is left of the run and remove its cgroups and files. May be called again."""
        rack = self.read_state().rack
        if rack is not None:
            rack.kill()
        control_group.remove_run(self.run_id)
        shutil.rmtree(self.path, ignore_errors=True)
        with _locked():
            if not runs():
                _restore_autogroups()
            with contextlib.suppress(OSError):
                ROOT.rmdir()


def runs() -> list[RunDirectory]:
    """All runs on this machine."""
    return [RunDirectory(path) for path in sorted(ROOT.iterdir()) if path.is_dir()] if ROOT.exists() else []


def sweep() -> list[str]:
    """Remove what dead owners left, the keeper first so that two do not clean at once. Gives the runs removed."""
    if not ROOT.exists():
        return []
    # Under the lock: the directory of a run that is just being made has no owner yet.
    with _locked():
        abandoned = [run for run in runs() if run.is_abandoned]
    for run in abandoned:
        keeper = run.read_state().keeper
        if keeper is not None:
            keeper.kill()
        run.remove()
    return [run.run_id for run in abandoned]


def _switch_autogroups_off() -> None:
    """Remember what is set, unless an earlier run did, and switch them off, where the kernel has any and lets us."""
    before = ROOT / _AUTOGROUPS_BEFORE
    with contextlib.suppress(OSError):
        if not before.exists():
            before.write_text(AUTOGROUPS.read_text())
        AUTOGROUPS.write_text("0\n")


def _restore_autogroups() -> None:
    """Set what was set before the first run."""
    before = ROOT / _AUTOGROUPS_BEFORE
    with contextlib.suppress(OSError):
        AUTOGROUPS.write_text(before.read_text())
    before.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """Hold the lock on the root directory, which may be removed and made again by others meanwhile."""
    while True:
        ROOT.mkdir(mode=0o700, exist_ok=True)
        try:
            descriptor = os.open(ROOT, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            try:
                same = os.stat(ROOT).st_ino == os.fstat(descriptor).st_ino
            except FileNotFoundError:
                same = False
            if same:
                yield
                return
        finally:
            os.close(descriptor)
