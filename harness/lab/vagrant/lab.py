"""The lab of nested machines that `make lab-up` has brought up. Its tests come and go; the machines stay."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paramiko

from harness.evidence.capture import CaptureCount
from harness.evidence.looks import Look
from harness.evidence.standstills import MachineRecord
from harness.lab.calibration import Calibration, calibrate
from harness.lab.capture import Captures
from harness.lab.host_table import HostTable
from harness.lab.interface import Capability, LabError, Pace
from harness.lab.topology import HOSTS
from harness.lab.vagrant.host import VagrantHost
from harness.lab.vagrant.hypervisor import capabilities_of, machines_of
from harness.lab.vagrant.machines import Machines
from harness.lab.vagrant.state import DIRECTORY, LIBVIRT, LabState, lab_that_is_up, read_state
from harness.lab.vagrant.storage import NfsStorage

IMAGE_DIRECTORY = "/usr/local/share/ftvmm"

# Before anything is measured: long enough for a machine under emulation to answer.
UNMEASURED = Pace(work=20.0, timing=20.0)


class VagrantLab(HostTable[VagrantHost]):
    """See `harness.lab.interface.Lab`. Every `start` begins with the machines as the snapshot has them."""

    name = "vagrant"
    storage = NfsStorage()
    image_directory = IMAGE_DIRECTORY

    def __init__(self, directory: Path = DIRECTORY, *, calibrated: bool = True) -> None:
        """`calibrated` False: its bounds on time are those before any measurement, for who only has a look."""
        super().__init__()
        self._directory = directory
        self._calibrated = calibrated
        self._lock: int | None = None
        self._captures: Captures | None = None
        self.calibration: Calibration | None = None

    @property
    def capabilities(self) -> frozenset[Capability]:
        state = read_state(self._directory)
        return capabilities_of(state.provider if state else LIBVIRT)

    @property
    def pace(self) -> Pace:
        return self.calibration.pace if self.calibration else UNMEASURED

    @property
    def pace_in_words(self) -> str:
        return str(self.calibration) if self.calibration else "not measured yet"

    def _stretch(self, duration: float) -> float:
        return self.pace.stretch(duration)

    def start(self) -> None:
        """Put every machine back to the snapshot and connect to it; the first time, measure how slow they are."""
        state = lab_that_is_up(self._directory)
        self._take()
        try:
            machines = machines_of(state)
            key = paramiko.Ed25519Key.from_private_key_file(str(self._directory / "operator_key"))
            self._captures = self._begin_captures(state)
            for plan in HOSTS:
                self._hosts[plan.name] = VagrantHost(
                    plan,
                    machines=machines,
                    door=state.doors[plan.name],
                    key=key,
                    captures=self._captures,
                    stretch=self._stretch,
                )
            _restore(machines, state)
            self.on_all(VagrantHost.connect)
            self.on_all(VagrantHost.begin_capture)
            if self._calibrated and self.calibration is None:
                self.calibration = calibrate(self)
        except BaseException:
            self.stop()
            raise

    def _begin_captures(self, state: LabState) -> Captures | None:
        if state.rack is None or Capability.CAPTURE not in self.capabilities:
            return None
        directory = self._directory / "captures"
        shutil.rmtree(directory, ignore_errors=True)
        return Captures(state.rack.pid, directory)

    def reset(self) -> None:
        """Put every machine back to the snapshot, and let go of them."""
        state = lab_that_is_up(self._directory)
        if not state.snapshot:
            raise LabError("the Vagrant lab has no snapshot: `make lab-up` takes one")
        self._take()
        try:
            _restore(machines_of(state), state)
        finally:
            self.stop()

    def _take(self) -> None:
        """One test run at a time: two would pull each other's machines back to the snapshot."""
        descriptor = os.open(self._directory / "in-use", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            user = os.read(descriptor, 100).decode(errors="replace").strip()
            os.close(descriptor)
            raise LabError(f"the Vagrant lab is in use by process {user}: wait until it has ended") from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._lock = descriptor

    def stop(self) -> None:
        """Let go of the machines, which stay as they are until the next `start`."""
        for host in self._hosts.values():
            host.disconnect()
        self._hosts.clear()
        if self._captures is not None:
            self._captures.stop()
            self._captures = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def collect_captures(self, directory: Path) -> Mapping[str, CaptureCount]:
        return self._captures.collect(directory) if self._captures else {}

    def looks(self) -> Sequence[Look]:
        return []  # its hosts are virtual machines, and the pace stands for how they share this machine

    def machine_record(self) -> MachineRecord | None:
        return None  # as above

    def keep(self) -> str:
        """Let go of the machines as they are; says how to look at them."""
        self.stop()
        return "make lab-ssh HOST=host-a (`make lab-reset` makes it fresh again)"


def _restore(machines: Machines, state: LabState) -> None:
    if state.snapshot:
        with ThreadPoolExecutor(len(HOSTS)) as executor:
            list(executor.map(lambda plan: machines.restore_snapshot(plan, state.snapshot), HOSTS))
