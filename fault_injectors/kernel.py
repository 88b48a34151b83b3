"""Faults of a host's kernel: it panics, it gives its processes no time any more, or it starts anew.

By /proc/sysrq-trigger (Documentation/admin-guide/sysrq.rst), which works whatever `kernel.sysrq` allows to keyboards.
"""

from __future__ import annotations

import abc
import contextlib
from dataclasses import dataclass, field

from fault_injectors.fault import Confirmation
from fault_injectors.host import SilencedHost
from harness.lab.interface import Capability, Conversation, HostState, HostUnreachableError
from harness.lab.waiting import wait_until

_ARM_SECONDS = 5.0

# Says that it is ready, and at the next line that it is told lets the blow fall: nothing is left to be started then.
_SYSRQ = 'read -r _; echo armed; read -r _; echo "$0" >/proc/sysrq-trigger'

# The same, and then busies every CPU above all other processes: on a host with one, nothing runs after the last line.
_HOG = """
import glob, os
input()
open("/proc/sys/kernel/sched_rt_runtime_us", "w").write("-1")
for share in glob.glob("/sys/kernel/debug/sched/fair_server/*/runtime"):  # what Linux 6.12 keeps for the others
    open(share, "w").write("0")
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))
print("armed", flush=True)
input()
first, *others = sorted(os.sched_getaffinity(0))
for cpu in others:
    if os.fork() == 0:
        first = cpu
        break
os.sched_setaffinity(0, {first})
while True:
    pass
"""


@dataclass
class _KernelFault(SilencedHost, abc.ABC):
    """What they share: a program on the host that is ready to let the blow fall, since nobody is left to tell of it."""

    requires = frozenset({Capability.KERNEL, Capability.POWER})
    _open: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _blow: Conversation | None = None

    @property
    @abc.abstractmethod
    def _program(self) -> list[str]:
        """Answers a first line when it is ready, and strikes at the second."""

    def prepare(self) -> None:
        super().prepare()
        if self._was_alive:
            conversation = self.host.converse(self._program, timeout_seconds=self.lab.pace.stretch(_ARM_SECONDS))
            self._blow = self._open.enter_context(conversation)
            self._blow.ask("arm")

    def inject(self) -> None:
        if self._blow is not None:
            self._blow.tell("strike")

    def end(self) -> None:
        self._open.close()


@dataclass
class _StoppedKernel(_KernelFault):
    """What panic and hang share: no process runs, the host stays so, and only its power brings it back."""

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """The host has power and yet no process of it answers.

        Pings are told, not judged: Linux takes interrupts after a panic too, and with them answers pings.
        """
        if self.host.state is HostState.OFF:
            return Confirmation.of(False, f"{self.host.name} has no power")
        return self._confirm_silent(timeout_seconds, pings_too=False, also=f"{self.host.name} has power")

    def heal(self) -> None:
        self.end()
        self.host.power_on()

    def end(self) -> None:
        """Take the power away: the host's disk can be read then."""
        super().end()
        if self.host.state is not HostState.OFF:
            self.host.power_off()


@dataclass
class KernelPanic(_StoppedKernel):
    """The kernel panics and stays so (`kernel.panic=0`): every process ends in the middle of what it did."""

    name = "kernel-panic"

    @property
    def _program(self) -> list[str]:
        return ["sh", "-c", f"echo 0 >/proc/sys/kernel/panic; {_SYSRQ}", "c"]


@dataclass
class KernelHang(_StoppedKernel):
    """No process gets time any more, while the kernel still takes interrupts, answers pings and acknowledges TCP.

    Linux has no documented way to stop with interrupts off but modules that distributions leave out (lkdtm). So a
    process of the highest real-time priority runs on every CPU, without the throttling that leaves others a share.
    """

    name = "kernel-hang"

    @property
    def _program(self) -> list[str]:
        return ["python3", "-c", _HOG]


@dataclass
class Reboot(_KernelFault):
    """The kernel starts anew in the middle of everything, without writing back, unmounting or saying goodbye."""

    name = "reboot"
    _boot_before: str = ""

    @property
    def _program(self) -> list[str]:
        return ["sh", "-c", _SYSRQ, "b"]

    def prepare(self) -> None:
        super().prepare()
        self._boot_before = self._boot() if self._was_alive else ""

    def _boot(self) -> str:
        return self.host.run(["cat", "/proc/sys/kernel/random/boot_id"], check=True).stdout.strip()

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """The host answers again, and its kernel's boot has another identity."""
        if not self._was_alive:
            return Confirmation.of(False, f"{self.host.name} did not answer before the blow either")
        boot = ""

        def restarted() -> bool:
            # It may answer once more before the blow falls.
            nonlocal boot
            boot = ""
            with contextlib.suppress(HostUnreachableError):
                self.host.await_up()
                boot = self._boot()
            return boot not in ("", self._boot_before)

        wait_until(restarted, timeout_seconds=timeout_seconds)
        if not boot:
            return Confirmation.of(None, f"{self.host.name} went down and did not come back")
        return Confirmation.of(boot != self._boot_before, f"boot of {self.host.name}: {self._boot_before}, now {boot}")

    def heal(self) -> None:
        self.end()
        self.host.await_up()
