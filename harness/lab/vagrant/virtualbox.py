"""The machines under VirtualBox: by VBoxManage, and by the process that each of them is.

Written from VirtualBox 7.0's manual and source and never run: no machine with VirtualBox was at hand.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from harness.lab.interface import LabError
from harness.lab.process_identity import ProcessIdentity, is_stopped
from harness.lab.topology import OPERATOR, HostPlan
from harness.lab.vagrant.state import PREFIX
from harness.lab.waiting import wait_until

# Vagrant's own interface, through which its SSH goes, is adapter 1 (NAT); the plan's networks follow in its order.
_FIRST_ADAPTER = 2
# The front ends that run a machine; `VBoxManage startvm` calls them with `--startvm <uuid>`.
_PROGRAMS = frozenset({"VBoxHeadless", "VirtualBoxVM"})
# States without a process (VBoxManageInfo.cpp, machineStateToName); a killed machine is `aborted`.
_SWITCHED_OFF = frozenset({"poweroff", "aborted"})
_OFF = _SWITCHED_OFF | {"saved", "aborted-saved"}


def adapter_number(plan: HostPlan, network: str) -> int:
    """VirtualBox's number of the host's adapter on a network of the plan."""
    networks = [name for name in plan.networks if name != OPERATOR]
    if network not in networks:
        raise LabError(f"{plan.name} has no adapter of VirtualBox's internal networks on {network}")
    return _FIRST_ADAPTER + networks.index(network)


def machine_state(information: str) -> str:
    """The state that `VBoxManage showvminfo --machinereadable` tells, such as `running` or `poweroff`."""
    found = re.search(r'^VMState="([^"]+)"\s*$', information, re.MULTILINE)
    if found is None:
        raise LabError("`VBoxManage showvminfo --machinereadable` did not tell the machine's VMState")
    return found[1]


def identifiers(listing: str) -> Mapping[str, str]:
    """Machine name to uuid, of what `VBoxManage list vms` prints."""
    return dict(re.findall(r'^"(.+)" \{([0-9a-f-]{36})\}\s*$', listing, re.MULTILINE))


class VirtualBoxMachines:
    """See `harness.lab.vagrant.machines.Machines`.

    While a machine's process is stopped VBoxManage is not asked about it: the answer would come from that process.
    """

    def __init__(self) -> None:
        self._identifiers: Mapping[str, str] = {}

    @staticmethod
    def _manage(*arguments: str, timeout_seconds: float = 120) -> str:
        """One command of VBoxManage; its output."""
        said = f"`VBoxManage {' '.join(arguments)}`"
        try:
            done = subprocess.run(
                ["VBoxManage", *arguments], capture_output=True, text=True, timeout=timeout_seconds, check=False
            )
        except FileNotFoundError as error:
            raise LabError("VBoxManage is not installed: VirtualBox's machines cannot be reached without it") from error
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{said} did not end in {timeout_seconds:.0f} s") from error
        if done.returncode != 0:
            raise LabError(f"{said} failed: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    @staticmethod
    def _name(plan: HostPlan) -> str:
        return f"{PREFIX}{plan.name}"

    def _identifier(self, plan: HostPlan) -> str:
        name = self._name(plan)
        if name not in self._identifiers:
            # Of VirtualBox's own list: `showvminfo` would ask the machine's process, which may stand still.
            self._identifiers = identifiers(self._manage("list", "vms"))
        if name not in self._identifiers:
            raise LabError(f"VirtualBox knows no machine {name}: run `make lab-down`, then `make lab-up`")
        return self._identifiers[name]

    def _pid(self, plan: HostPlan) -> int | None:
        """The process that runs the machine; None when there is none."""
        wanted = ("--startvm", self._identifier(plan))
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                    if Path(words[0]).name in _PROGRAMS and wanted in itertools.pairwise(words):
                        return int(entry.name)
        return None

    def _state(self, plan: HostPlan) -> str:
        return machine_state(self._manage("showvminfo", self._name(plan), "--machinereadable"))

    def _end(self, plan: HostPlan) -> bool:
        """End the machine's process, whatever it does; False when the machine was off already."""
        pid = self._pid(plan)
        if pid is None:
            if self._state(plan) in _OFF:
                return False
            # It runs where this process cannot see it. VirtualBox ends it in an orderly way.
            self._manage("controlvm", self._name(plan), "poweroff")
            return True
        with contextlib.suppress(ProcessLookupError):
            process = ProcessIdentity.of(pid)
            process.kill()
            if not wait_until(lambda: not process.is_alive(), timeout_seconds=30):
                raise LabError(f"VirtualBox's process of {plan.name} does not end")
        return True

    def _await_off(self, plan: HostPlan) -> str:
        """Wait until VirtualBox has heard that the process has ended; the state that it then holds it to be in."""
        state = ""

        def is_off() -> bool:
            nonlocal state
            state = self._state(plan)
            return state in _OFF

        if not wait_until(is_off, timeout_seconds=30, interval_seconds=0.2):
            raise LabError(f"VirtualBox holds {plan.name} to be {state}")
        return state

    def connect(self, address: str, port: int) -> socket.socket:
        connection = socket.create_connection((address, port), 5.0)
        # SSH sends many small messages: each would wait 40 ms for the other side's delayed acknowledgement.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def is_running(self, plan: HostPlan) -> bool:
        return self._pid(plan) is not None or self._state(plan) not in _OFF

    def cut_power(self, plan: HostPlan) -> None:
        # `controlvm poweroff` lets VirtualBox write what it still holds of the disk.
        if not self._end(plan):
            raise LabError(f"{plan.name} has no power already")

    def power_on(self, plan: HostPlan) -> None:
        state = self._await_off(plan)
        if state not in _SWITCHED_OFF:
            raise LabError(f"{plan.name} would go on from a saved state instead of booting: it is {state}")
        self._manage("startvm", self._name(plan), "--type", "headless")

    def read_disk(self, plan: HostPlan, path: str) -> bytes | None:
        return None

    def _signal(self, plan: HostPlan, number: signal.Signals) -> None:
        pid = self._pid(plan)
        if pid is None:
            raise LabError(f"{plan.name} has no process of VirtualBox's")
        os.kill(pid, number)

    def freeze(self, plan: HostPlan) -> None:
        # Not `controlvm pause`, which stops the machine's clocks: whoever stood still finds that time has passed.
        self._signal(plan, signal.SIGSTOP)

    def thaw(self, plan: HostPlan) -> None:
        self._signal(plan, signal.SIGCONT)

    def is_frozen(self, plan: HostPlan) -> bool:
        pid = self._pid(plan)
        return pid is not None and is_stopped(Path(f"/proc/{pid}"))

    def set_cable(self, plan: HostPlan, network: str, *, plugged: bool) -> None:
        link = f"setlinkstate{adapter_number(plan, network)}"
        self._manage("controlvm", self._name(plan), link, "on" if plugged else "off")

    def is_asleep(self, plan: HostPlan) -> bool:
        # VirtualBox's ACPI has no S3 (DevACPI.cpp knows S0, S1, S4 and S5): no machine sleeps.
        return False

    def wake(self, plan: HostPlan, *, slept_seconds: int) -> None:
        raise LabError(f"{plan.name} cannot sleep: VirtualBox's machines have no suspend to RAM")

    def take_snapshot(self, plan: HostPlan, name: str) -> None:
        with contextlib.suppress(LabError):  # there is none of this name yet
            self.drop_snapshot(plan, name)
        self._manage("snapshot", self._name(plan), "take", name, "--live", timeout_seconds=600)

    def drop_snapshot(self, plan: HostPlan, name: str) -> None:
        self._manage("snapshot", self._name(plan), "delete", name, timeout_seconds=600)

    def restore_snapshot(self, plan: HostPlan, name: str) -> None:
        self._end(plan)
        self._await_off(plan)
        self._manage("snapshot", self._name(plan), "restore", name)
        self._manage("startvm", self._name(plan), "--type", "headless")
