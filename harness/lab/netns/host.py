"""A host made of namespaces: a process tree under one init, with its own network, mounts, name and cgroup."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import paramiko

from harness.lab import topology
from harness.lab.capture import Captures
from harness.lab.interface import HostRole, HostState, LabError
from harness.lab.namespaces import connect_inside
from harness.lab.netns.control_group import ControlGroup
from harness.lab.netns.provision import Disk
from harness.lab.netns.switch import Switch
from harness.lab.ssh import SshConnection
from harness.lab.ssh_host import SshHost
from harness.lab.topology import HostPlan

PROJECT = Path(__file__).resolve().parents[3]
_BOOT = Path(__file__).with_name("boot.sh")
# A host has a machine of its own elsewhere: whoever starts another lab or judges a run on this machine waits for it.
_NICENESS = -10


class NetnsHost(SshHost):
    """One host; see `harness.lab.interface.Host` for what its methods promise."""

    def __init__(
        self,
        plan: HostPlan,
        *,
        run_id: str,
        switch: Switch,
        disk: Disk,
        captures: Captures,
        key: paramiko.PKey,
        host_key: paramiko.PKey,
    ) -> None:
        super().__init__(plan, SshConnection(plan.name, self._connect, key, host_key))
        self._switch = switch
        self._disk = disk
        self._captures = captures
        self._group = ControlGroup.create(run_id, plan.name)
        self._storage_group = ControlGroup.create(run_id, f"{plan.name}.storage")
        self._launcher: subprocess.Popen[str] | None = None
        self._init_pid = 0

    @property
    def interfaces(self) -> Mapping[str, str]:
        return {network: network for network in self._plan.networks}

    @property
    def python(self) -> str:
        # The namespaces share this machine's files, so the interpreter that runs the tests serves the hosts too.
        return f"env PYTHONPATH={PROJECT} PYTHONDONTWRITEBYTECODE=1 {sys.executable}"

    def _connect(self) -> Any:
        return connect_inside(self._switch.rack_pid, self._plan.address(topology.OPERATOR), 22)

    # Power and freezing are done from outside, as a power strip and a hypervisor would.

    @property
    def state(self) -> HostState:
        if self._launcher is None or self._launcher.poll() is not None:
            return HostState.OFF
        is_frozen = self._group.is_frozen and self._storage_group.is_frozen
        return HostState.FROZEN if is_frozen else HostState.RUNNING

    def power_on(self) -> None:
        if self.state is not HostState.OFF:
            raise LabError(f"{self.name} is on already")
        self._boot()
        self._ssh.connect()
        if self.role is HostRole.FAULT_TOLERANT:
            self.await_storage()

    def read_file(self, path: str) -> bytes:
        return super().read_file(path) if self.state is not HostState.OFF else self._disk.read(path)

    def await_storage(self) -> None:
        """Wait until the host sees the disk image and the arbiter's directory."""
        mounted = f"grep -q ' {topology.ARBITER_PATH} fuse' /proc/mounts"
        wait = f"until {mounted} && [ -s {topology.DISK_PATH} ]; do sleep 0.02; done"
        self.run(wait, timeout_seconds=20, check=True)

    def _boot(self) -> None:
        environment = {
            "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            "LANG": "C.UTF-8",
            "HOME": "/root",
            "HOST": self.name,
            "DISK": str(self._disk.path),
            "KEEP_VISIBLE": f"{PROJECT} {sys.prefix}",
            "STORAGE_GROUP": str(self._storage_group.path),
        }
        # Into the host's cgroup first, then into the rack's PID namespace, then into namespaces of its own.
        enter = ["nice", "-n", str(_NICENESS), "nsenter", "--target", str(self._switch.rack_pid), "--pid", "--"]
        enter += ["unshare", "--net", "--pid", "--mount", "--uts", "--ipc", "--fork", "--kill-child=KILL", "--"]
        join = ["sh", "-c", 'echo 0 >"$0" && exec "$@"', str(self._group.processes_file)]
        with (self._disk.path / "boot.log").open("ab") as errors:
            self._launcher = subprocess.Popen(
                [*join, *enter, "bash", str(_BOOT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
                start_new_session=True,
            )
        assert self._launcher.stdin is not None
        assert self._launcher.stdout is not None
        answer = self._launcher.stdout.readline()
        if not answer:
            raise LabError(f"{self.name} did not boot: {(self._disk.path / 'boot.log').read_text().strip()}")
        self._init_pid = int(answer)
        self._switch.plug(self._plan, self._init_pid)
        self._captures.attach(self._plan)
        self._launcher.stdin.write("plugged\n")
        self._launcher.stdin.close()
        # Connecting before the host has its addresses would cost a second: that is when ARP asks again.
        if self._launcher.stdout.readline() != "up\n":
            raise LabError(f"{self.name} did not come up: {(self._disk.path / 'boot.log').read_text().strip()}")

    def power_off(self) -> None:
        if self.state is HostState.OFF:
            raise LabError(f"{self.name} is off already")
        # Off the networks first: nothing that the dying kernel's sockets send (FIN, RST) may reach anybody.
        self._switch.unplug(self._plan)
        # What they try to say from now on never left the host.
        self._captures.detach(self._plan)
        self._die()
        self._switch.remove(self._plan)

    def _die(self) -> None:
        """Kill the host's init and with it its PID namespace; back when all of it is gone."""
        if self._launcher is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._init_pid, signal.SIGKILL)
        if self._group.is_frozen:
            self._group.kill()
            self._storage_group.kill()
            self.thaw()
        self._launcher.wait(timeout=20)
        if self._launcher.stdout is not None:
            self._launcher.stdout.close()
        self._launcher = None
        self._ssh.close()

    def waited_us(self) -> int | None:
        """How long its programs waited for a processor of this machine so far, in microseconds, where it is known."""
        own, storage = self._group.waited_us(), self._storage_group.waited_us()
        return None if own is None or storage is None else own + storage

    def console_bytes(self) -> int:
        """How long the console of the VM is that this host's node has written; 0 while there is none."""
        return self._disk.size(topology.CONSOLE_PATH)

    def freeze(self) -> None:
        self._group.freeze()
        self._storage_group.freeze()

    def thaw(self) -> None:
        self._storage_group.thaw()
        self._group.thaw()

    def await_up(self) -> None:
        self._ssh.connect()
        if self.role is HostRole.FAULT_TOLERANT:
            self.await_storage()

    # What takes a kernel, a clock and a cable of its own: `NetnsLab.capabilities` does not promise it.

    def set_cable(self, network: str, *, plugged: bool) -> None:
        raise LabError(f"the lab `netns` has no cable whose carrier {self.name} could lose")

    def sleep(self) -> None:
        raise LabError(f"{self.name} shares its kernel with this machine and cannot sleep alone")

    def wake(self, *, slept_seconds: int = 0) -> None:
        raise LabError(f"{self.name} shares its kernel with this machine and never sleeps")

    def discard(self) -> None:
        """End the host at once, for the lab's end."""
        self._ssh.close()
        if self._launcher is not None:
            self._group.kill()
            self._storage_group.kill()
            self._launcher.wait(timeout=20)
            if self._launcher.stdout is not None:
                self._launcher.stdout.close()
            self._launcher = None
