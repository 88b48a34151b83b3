"""Faults of a host's kernel: it panics, it gives its processes no time any more, or it starts anew.

By /proc/sysrq-trigger (Documentation/admin-guide/sysrq.rst), which works whatever `kernel.sysrq` allows to keyboards.
"""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import dataclass

from fault_injectors.base import HostFault
from fault_injectors.fault import Confirmation
from fault_injectors.host import SilencedHost
from harness.lab.interface import Capability, Host, HostUnreachableError, RemoteProcess

_BLOW_SECONDS = 1.0

# Waits for SIGUSR1, then busies every CPU above all other processes. On a host with one CPU nothing runs after the
# last line, so whatever takes time (the interpreter, the scheduler's settings) is done before the signal.
_HOG = """
import glob, os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
open("/proc/sys/kernel/sched_rt_runtime_us", "w").write("-1")
for share in glob.glob("/sys/kernel/debug/sched/fair_server/*/runtime"):  # what Linux 6.12 keeps for the others
    open(share, "w").write("0")
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))
print("armed", flush=True)
signal.sigwait({signal.SIGUSR1})
first, *others = sorted(os.sched_getaffinity(0))
for cpu in others:
    if os.fork() == 0:
        first = cpu
        break
os.sched_setaffinity(0, {first})
while True:
    pass
"""
_HOG_LOG = "/run/fault-hog.log"


@dataclass
class _StoppedKernel(SilencedHost):
    """What panic and hang share: no process runs, the host stays so, and only its power brings it back."""

    requires = frozenset({Capability.KERNEL, Capability.POWER})

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """The host has power and yet no process of it answers.

        Pings are told, not judged: Linux takes interrupts after a panic too, and with them answers pings.
        """
        if not self.host.is_powered:
            return Confirmation.of(False, f"{self.host.name} has no power")
        return self._confirm_silent(timeout_seconds, pings_too=False, also=f"{self.host.name} has power")

    def heal(self) -> None:
        self.end()
        self.host.power_on()

    def end(self) -> None:
        """Take the power away: the host's disk can be read then."""
        if self.host.is_powered:
            self.host.power_off()


@dataclass
class KernelPanic(_StoppedKernel):
    """The kernel panics and stays so (`kernel.panic=0`): every process ends in the middle of what it did."""

    name = "kernel-panic"

    def prepare(self) -> None:
        super().prepare()
        if self._was_alive:
            self.host.run("echo 0 >/proc/sys/kernel/panic", check=True)

    def inject(self) -> None:
        _strike(self.host, "echo c >/proc/sysrq-trigger", self.lab.pace.stretch(_BLOW_SECONDS))


@dataclass
class KernelHang(_StoppedKernel):
    """No process gets time any more, while the kernel still takes interrupts, answers pings and acknowledges TCP.

    Linux has no documented way to stop with interrupts off but modules that distributions leave out (lkdtm). So a
    process of the highest real-time priority runs on every CPU, without the throttling that leaves others a share.
    """

    name = "kernel-hang"
    _hog: RemoteProcess | None = None

    def prepare(self) -> None:
        super().prepare()
        if self._was_alive:
            self.host.run(["rm", "-f", _HOG_LOG])
            self._hog = self.host.start(f"exec python3 -c {shlex.quote(_HOG)}", log=_HOG_LOG)
            armed = f"until grep -q armed {_HOG_LOG}; do sleep 0.05; done"
            self.host.run(armed, timeout_seconds=self.lab.pace.stretch(5), check=True)

    def inject(self) -> None:
        if self._hog is not None:
            _strike(self.host, f"kill -USR1 {self._hog.pid}", self.lab.pace.stretch(_BLOW_SECONDS))


@dataclass
class Reboot(HostFault):
    """The kernel starts anew in the middle of everything, without writing back, unmounting or saying goodbye."""

    requires = frozenset({Capability.KERNEL})
    name = "reboot"
    _boot_before: str = ""

    def prepare(self) -> None:
        super().prepare()
        self._boot_before = self._boot() if self._was_alive else ""

    def _boot(self) -> str:
        return self.host.run(["cat", "/proc/sys/kernel/random/boot_id"], check=True).stdout.strip()

    def inject(self) -> None:
        _strike(self.host, "echo b >/proc/sysrq-trigger", self.lab.pace.stretch(_BLOW_SECONDS))

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """The host answers again, and its kernel's boot has another identity."""
        if not self._was_alive:
            return Confirmation.of(False, f"{self.host.name} did not answer before the blow either")
        try:
            self.host.await_up()
        except HostUnreachableError as error:
            return Confirmation.of(None, f"{self.host.name} went down and did not come back: {error}")
        boot = self._boot()
        return Confirmation.of(boot != self._boot_before, f"boot of {self.host.name}: {self._boot_before}, now {boot}")

    def heal(self) -> None:
        self.host.await_up()


def _strike(host: Host, command: str, timeout_seconds: float) -> None:
    """Run a command whose success nobody is left to tell."""
    with contextlib.suppress(HostUnreachableError):
        host.run(command, timeout_seconds=timeout_seconds)
