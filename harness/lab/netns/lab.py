"""The lab of namespaces on this machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.evidence.capture import CaptureCount
from harness.evidence.looks import Look
from harness.evidence.standstills import MachineRecord
from harness.lab.capture import Captures
from harness.lab.host_files import toxiproxy_server
from harness.lab.host_table import HostTable
from harness.lab.interface import Capability, LabError, Pace
from harness.lab.netns import run_directory
from harness.lab.netns.host import PROJECT, NetnsHost
from harness.lab.netns.prerequisites import check_prerequisites
from harness.lab.netns.provision import Disk, RunKeys, provision
from harness.lab.netns.run_directory import RunDirectory
from harness.lab.netns.standstill_observer import StandstillObserver
from harness.lab.netns.storage import NetnsStorage
from harness.lab.netns.switch import Switch
from harness.lab.topology import DISK_MIB, HOSTS, OPERATOR

# Looks are kept for a quarter of an hour.
_LOOK_SECONDS = 0.01
_LOOKS_MAX = 90_000


class _Watch:
    """Looks at the hosts again and again, see `harness.evidence.looks`."""

    def __init__(self, hosts: Sequence[NetnsHost]) -> None:
        self._hosts = hosts
        self._looks: deque[Look] = deque(maxlen=_LOOKS_MAX)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            at_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            counts = ((host.name, host.waited_us()) for host in self._hosts)
            waited_us = {name: count for name, count in counts if count is not None}
            console_bytes = {host.name: host.console_bytes() for host in self._hosts}
            self._looks.append(Look(at_ns, waited_us, _stolen_us(), time.time_ns(), console_bytes))

    @property
    def looks(self) -> Sequence[Look]:
        """All looks so far."""
        return list(self._looks)

    def stop(self) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()


def _stolen_us() -> int:
    """Microseconds that the machine below this one kept its processors for itself, all of them together (proc(5))."""
    with open("/proc/stat", encoding="ascii") as file:
        return int(file.readline().split()[8]) * 1_000_000 // os.sysconf("SC_CLK_TCK")


class NetnsLab(HostTable[NetnsHost]):
    """See `harness.lab.interface.Lab`. `disk_mib` is the size of the VM's empty disk image."""

    name = "netns"
    capabilities = frozenset(
        {Capability.POWER, Capability.FREEZE, Capability.CAPTURE, Capability.DISK_SERVER, Capability.ETCD}
    )
    # Its hosts are as fast as this machine, being part of it.
    pace = Pace()
    # Namespaces share this machine's files: the hosts have the images where this machine has them.
    image_directory = str(PROJECT / "ftvmm" / "guests" / "images")

    def __init__(self, *, disk_mib: int = DISK_MIB) -> None:
        super().__init__()
        self._disk_bytes = disk_mib << 20
        self._run: RunDirectory | None = None
        self._keeper: subprocess.Popen[str] | None = None
        self._captures: Captures | None = None
        self._watch: _Watch | None = None
        self._observer: StandstillObserver | None = None
        self.storage = NetnsStorage(self._hosts)

    @property
    def run_id(self) -> str:
        """The run's name, as `python -m harness.lab list` prints it."""
        if self._run is None:
            raise LabError("the lab is not up")
        return self._run.run_id

    def start(self) -> None:
        check_prerequisites()
        toxiproxy = toxiproxy_server()
        run_directory.sweep()
        self._run = RunDirectory.create()
        try:
            self._start(self._run, toxiproxy)
        except BaseException:
            self.stop()
            raise

    def _start(self, run: RunDirectory, toxiproxy: Path) -> None:
        # Its errors go to a file: who keeps a lab must not find its own standard error held open.
        with (run.path / "keeper.log").open("ab") as errors:
            self._keeper = subprocess.Popen(
                [sys.executable, "-m", "harness.lab.netns.keeper", str(run.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=PROJECT,
                start_new_session=True,
            )
        keys = RunKeys.generate()
        disks = {plan.name: Disk(run.path / "disks" / plan.name) for plan in HOSTS}
        for plan in HOSTS:
            provision(disks[plan.name], plan, keys, toxiproxy, self._disk_bytes)
        (run.path / "operator_key").write_bytes(keys.operator.private)
        (run.path / "operator_key").chmod(0o600)
        lines = [f"{plan.name},{plan.address(OPERATOR)} {keys.hosts[plan.name].public}\n" for plan in HOSTS]
        (run.path / "known_hosts").write_text("".join(lines))
        assert self._keeper.stdout is not None
        rack = self._keeper.stdout.readline()
        if not rack:
            raise LabError(f"the lab's keeper did not start: {(run.path / 'keeper.log').read_text().strip()}")
        switch = Switch(int(rack))
        switch.start()
        self._captures = Captures(switch.rack_pid, run.path / "captures")
        for plan in HOSTS:
            self._hosts[plan.name] = NetnsHost(
                plan,
                run_id=run.run_id,
                switch=switch,
                disk=disks[plan.name],
                captures=self._captures,
                key=keys.operator.as_paramiko(),
                host_key=keys.hosts[plan.name].as_paramiko(),
            )
        self._observer = StandstillObserver(run.path / "standstills.jsonl")
        self.on_all(NetnsHost.power_on)
        self._watch = _Watch(list(self._hosts.values()))

    def stop(self) -> None:
        self._end_watch()
        for host in self._hosts.values():
            host.discard()
        self._hosts.clear()
        self._end_captures()
        if self._keeper is not None:
            assert self._keeper.stdin is not None
            assert self._keeper.stdout is not None
            self._keeper.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._keeper.wait(timeout=20)
            self._keeper.stdout.close()
            self._keeper = None
        if self._run is not None:
            self._run.remove()
            self._run = None

    @property
    def pace_in_words(self) -> str:
        return "the hosts are as fast as this machine"

    def keep(self) -> str:
        run_id = self.let_live()
        return f"python -m harness.lab ssh {run_id} host-a (`python -m harness.lab down {run_id}` removes it)"

    def let_live(self) -> str:
        """Let the lab live on after this process; gives the run's name for `python -m harness.lab down`."""
        if self._keeper is None or self._run is None:
            raise LabError("the lab is not up")
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.write("keep\n")
        self._keeper.stdin.flush()
        if self._keeper.stdout.readline().strip() != "kept":
            raise LabError("the lab's keeper did not answer")
        run_id, self._run, self._keeper = self._run.run_id, None, None
        self._end_watch()
        self._end_captures()
        self._hosts.clear()
        return run_id

    def collect_captures(self, directory: Path) -> Mapping[str, CaptureCount]:
        if self._captures is None:
            raise LabError("the lab is not up")
        return self._captures.collect(directory)

    def looks(self) -> Sequence[Look]:
        return self._watch.looks if self._watch else []

    def machine_record(self) -> MachineRecord | None:
        return self._observer.record() if self._observer else None

    def _end_watch(self) -> None:
        if self._watch is not None:
            self._watch.stop()
            self._watch = None
        if self._observer is not None:
            self._observer.stop()
            self._observer = None

    def _end_captures(self) -> None:
        if self._captures is not None:
            self._captures.stop()
            self._captures = None
