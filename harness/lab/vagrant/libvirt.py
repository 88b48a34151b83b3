"""The machines under the lab's own libvirt, in the namespaces of its rack."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from harness.lab.interface import LabError
from harness.lab.namespaces import connect_inside, run_inside
from harness.lab.process_identity import is_stopped, parse_stat
from harness.lab.topology import NODE_DIRECTORY, HostPlan
from harness.lab.vagrant.real_time_clock import RealTimeClock
from harness.lab.vagrant.state import PREFIX
from harness.lab.waiting import wait_until

_NAMESPACES = ("net", "mount", "pid")
_URI = "qemu:///system"
# The FT hosts' second disk (lab/Vagrantfile), which they mount as the node's directory (lab/host/boot.sh).
_NODE_DISK = "vdb"


class LibvirtMachines:
    """See `harness.lab.vagrant.machines.Machines`. `rack_pid` is the init of the rack's namespaces."""

    def __init__(self, rack_pid: int) -> None:
        self._rack_pid = rack_pid

    def _inside(self, command: Sequence[str], *, timeout_seconds: float = 120) -> str:
        return run_inside(self._rack_pid, _NAMESPACES, command, timeout_seconds=timeout_seconds)

    def virsh(self, *arguments: str) -> str:
        """One command of virsh; its output, in English whatever the user's language: its words are compared."""
        return self._inside(["env", "LC_ALL=C", "virsh", "--connect", _URI, "--quiet", *arguments]).strip()

    @staticmethod
    def _domain(plan: HostPlan) -> str:
        return f"{PREFIX}{plan.name}"

    def connect(self, address: str, port: int) -> socket.socket:
        return connect_inside(self._rack_pid, address, port)

    @property
    def _root(self) -> Path:
        """The rack's files as this process can read them, its /proc with its own pids among them."""
        return Path(f"/proc/{self._rack_pid}/root")

    def _pid(self, plan: HostPlan) -> int | None:
        """The machine's QEMU, by its pid in the rack; None when there is none."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self._root / f"run/libvirt/qemu/{self._domain(plan)}.pid").read_text())
            if self._is_alive(pid):
                return pid
        return None

    def _is_alive(self, pid: int) -> bool:
        try:
            state, _ = parse_stat((self._root / f"proc/{pid}/stat").read_text())
        except (FileNotFoundError, ProcessLookupError):
            return False
        return state not in "ZX"

    def _signal(self, plan: HostPlan, number: signal.Signals) -> None:
        pid = self._pid(plan)
        if pid is None:
            raise LabError(f"{plan.name} has no QEMU process")
        self._inside(["kill", f"-{number.value}", str(pid)])

    def is_running(self, plan: HostPlan) -> bool:
        return self._pid(plan) is not None

    def cut_power(self, plan: HostPlan) -> None:
        # `virsh destroy` would end QEMU in an orderly way: its block layer would write what it still holds.
        pid = self._pid(plan)
        if pid is None:
            raise LabError(f"{plan.name} has no power already")
        self._inside(["kill", "-KILL", str(pid)])
        if not wait_until(lambda: not self._is_alive(pid), timeout_seconds=30):
            raise LabError(f"QEMU of {plan.name} does not end")

    def power_on(self, plan: HostPlan) -> None:
        # libvirt hears of a killed QEMU a moment later.
        off = wait_until(lambda: self.virsh("domstate", self._domain(plan)) == "shut off", timeout_seconds=30)
        if not off:
            raise LabError(f"libvirt holds {plan.name} to be {self.virsh('domstate', self._domain(plan))}")
        self.virsh("start", self._domain(plan))

    def read_disk(self, plan: HostPlan, path: str) -> bytes | None:
        # As the power cut left it, and not put in order first: e2fsck makes each file end with its last block.
        within = PurePosixPath("/") / PurePosixPath(path).relative_to(NODE_DIRECTORY)
        with tempfile.TemporaryDirectory(prefix="ftvmm-disk-") as directory:
            copy, file = f"{directory}/disk", Path(directory) / "file"
            self._inside(["qemu-img", "convert", "-O", "raw", self._node_disk(plan), copy])
            self._inside(["debugfs", "-R", f"dump {within} {file}", copy])
            if not file.exists():
                raise FileNotFoundError(f"{path} is not on the disk of {plan.name}")
            return file.read_bytes()

    def _node_disk(self, plan: HostPlan) -> str:
        """The image of the node's own disk, as the rack's namespaces have it."""
        for line in self.virsh("domblklist", self._domain(plan)).splitlines():
            target, _, path = line.strip().partition(" ")
            if target == _NODE_DISK:
                return path.strip()
        raise LabError(f"{plan.name} has no disk {_NODE_DISK}")

    def freeze(self, plan: HostPlan) -> None:
        # Not `virsh suspend`, which stops the machine's clocks: whoever stood still finds that time has passed.
        self._signal(plan, signal.SIGSTOP)

    def thaw(self, plan: HostPlan) -> None:
        self._signal(plan, signal.SIGCONT)

    def is_frozen(self, plan: HostPlan) -> bool:
        pid = self._pid(plan)
        return pid is not None and is_stopped(self._root / f"proc/{pid}")

    def set_cable(self, plan: HostPlan, network: str, *, plugged: bool) -> None:
        self.virsh("domif-setlink", self._domain(plan), plan.port(network), "up" if plugged else "down")

    def is_asleep(self, plan: HostPlan) -> bool:
        return self.virsh("domstate", self._domain(plan)) == "pmsuspended"

    def wake(self, plan: HostPlan, *, slept_seconds: int) -> None:
        if slept_seconds:
            RealTimeClock(lambda command: self._monitor(plan, command), plan.name).put_forward(slept_seconds)
        self.virsh("dompmwakeup", self._domain(plan))

    def _monitor(self, plan: HostPlan, command: str) -> str:
        return self.virsh("qemu-monitor-command", self._domain(plan), "--hmp", command)

    def take_snapshot(self, plan: HostPlan, name: str) -> None:
        with contextlib.suppress(LabError):  # there is none of this name yet
            self.drop_snapshot(plan, name)
        self.virsh("snapshot-create-as", self._domain(plan), name)

    def drop_snapshot(self, plan: HostPlan, name: str) -> None:
        self.virsh("snapshot-delete", self._domain(plan), name)

    def restore_snapshot(self, plan: HostPlan, name: str) -> None:
        if self.is_frozen(plan):
            self.thaw(plan)
        self.virsh("snapshot-revert", self._domain(plan), name, "--running", "--force")

    def address_of(self, plan: HostPlan, hardware_address: str, *, timeout_seconds: float = 120) -> str:
        """The IPv4 address that the operator's network has leased to this hardware address."""

        def lease() -> re.Match[str] | None:
            leases = self.virsh("net-dhcp-leases", f"{PREFIX}operator", hardware_address)
            return re.search(r"(\d+\.\d+\.\d+\.\d+)/\d+", leases)

        found = wait_until(lease, timeout_seconds=timeout_seconds, interval_seconds=0.5)
        if found is None:
            raise LabError(f"{plan.name} has asked for no address on the operator's network")
        return found[1]
