"""A host that is a machine: its power, cables and sleep are its hypervisor's, everything else goes over SSH."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

import paramiko

from harness.lab import topology
from harness.lab.capture import Captures
from harness.lab.interface import HostRole, HostState, HostUnreachableError, LabError
from harness.lab.ssh import SshConnection
from harness.lab.ssh_host import SshHost
from harness.lab.topology import HostPlan
from harness.lab.vagrant.machines import Machines
from harness.lab.vagrant.state import Door
from harness.lab.waiting import wait_until

# What a boot may take, beside one at this machine's own speed: stretched by the lab's pace.
_BOOT_SECONDS = 30.0
# Until a signal has stopped the process of a machine on this one, which nothing stretches.
_SIGNAL_SECONDS = 10.0
# Interface of the operator's network: Vagrant's own, named by the box.
_OPERATOR_INTERFACE = "eth0"


class VagrantHost(SshHost):
    """See `harness.lab.interface.Host`.

    Args:
        plan: which host of the plan it is.
        machines: the hypervisor.
        door: its sshd.
        key: the operator's.
        captures: what passes its ports; None where that cannot be captured.
        stretch: makes a bound on time fit the lab's pace.
    """

    def __init__(
        self,
        plan: HostPlan,
        *,
        machines: Machines,
        door: Door,
        key: paramiko.PKey,
        captures: Captures | None,
        stretch: Callable[[float], float],
    ) -> None:
        host_key = paramiko.Ed25519Key(data=base64.b64decode(door.host_key.split()[1]))
        super().__init__(
            plan, SshConnection(plan.name, lambda: machines.connect(door.address, door.port), key, host_key)
        )
        self._machines = machines
        self._captures = captures
        self._stretch = stretch

    @property
    def interfaces(self) -> Mapping[str, str]:
        return {
            network: _OPERATOR_INTERFACE if network == topology.OPERATOR else network for network in self._plan.networks
        }

    @property
    def python(self) -> str:
        return "/opt/ftvmm/bin/python"

    def connect(self) -> None:
        """Open the kept connection to the running machine, and wait for its storage."""
        self._ssh.connect(timeout_seconds=self._stretch(_BOOT_SECONDS))
        if self.role is HostRole.FAULT_TOLERANT:
            self.await_storage()

    def begin_capture(self) -> None:
        """Capture what passes the host's ports, from now until its power goes."""
        if self._captures is not None:
            self._captures.attach(self._plan)

    def await_storage(self) -> None:
        """Wait until the host sees the disk image and the arbiter's directory."""
        mounted = f"grep -q ' {topology.ARBITER_PATH} nfs4' /proc/mounts"
        # The directory of the disk is looked at only when it is mounted: a server that is silent would hold the look.
        disk = f"grep -q ' {Path(topology.DISK_PATH).parent} nfs4' /proc/mounts && [ -s {topology.DISK_PATH} ]"
        wait = f"until {mounted} && {disk}; do sleep 0.1; done"
        self.run(wait, timeout_seconds=self._stretch(_BOOT_SECONDS), check=True)

    def await_up(self) -> None:
        self._ssh.close()
        self.connect()

    @property
    def state(self) -> HostState:
        if not self._machines.is_running(self._plan):
            return HostState.OFF
        if self._machines.is_frozen(self._plan):
            return HostState.FROZEN
        return HostState.ASLEEP if self._machines.is_asleep(self._plan) else HostState.RUNNING

    def power_on(self) -> None:
        if self.state is not HostState.OFF:
            raise LabError(f"{self.name} is on already")
        self._machines.power_on(self._plan)
        self.begin_capture()
        self.connect()

    def power_off(self) -> None:
        # The ports go with the machine's process, which says nothing any more once it is frozen.
        self.freeze()
        try:
            if self._captures is not None:
                self._captures.detach(self._plan)
        finally:
            self._machines.cut_power(self._plan)
            self._ssh.close()

    def read_file(self, path: str) -> bytes:
        if self.state is not HostState.OFF:
            return super().read_file(path)
        content = self._machines.read_disk(self._plan, path)
        if content is None:
            self.power_on()
            return super().read_file(path)
        return content

    def freeze(self) -> None:
        self._machines.freeze(self._plan)
        # A process's threads stop one after the other.
        if not wait_until(lambda: self.state is HostState.FROZEN, timeout_seconds=_SIGNAL_SECONDS):
            raise LabError(f"{self.name} does not stand still")

    def thaw(self) -> None:
        self._machines.thaw(self._plan)
        if not wait_until(lambda: self.state is not HostState.FROZEN, timeout_seconds=_SIGNAL_SECONDS):
            raise LabError(f"{self.name} does not run on")

    def set_cable(self, network: str, *, plugged: bool) -> None:
        self._machines.set_cable(self._plan, network, plugged=plugged)

    def sleep(self) -> None:
        # The answer cannot come: the host sleeps before it could say that it does.
        with contextlib.suppress(HostUnreachableError):
            self.run("systemd-run --quiet --no-block sh -c 'echo mem >/sys/power/state'", timeout_seconds=10)
        if not wait_until(
            lambda: self.state is HostState.ASLEEP, timeout_seconds=self._stretch(10), interval_seconds=0.2
        ):
            raise LabError(f"{self.name} did not go to sleep")

    def wake(self, *, slept_seconds: int = 0) -> None:
        self._machines.wake(self._plan, slept_seconds=slept_seconds)

    def disconnect(self) -> None:
        """Let go of the host: its connection ends, the machine runs on."""
        self._ssh.close()
