"""A host runs out of memory until its kernel kills somebody, or loses what it held in it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from fault_injectors.base import HostFault
from fault_injectors.fault import Confirmation
from fault_injectors.probes import process_command
from harness.lab.interface import Capability, HostState, HostUnreachableError, RemoteProcess
from harness.lab.waiting import wait_until

# To take a host's memory takes longer than a look at it.
_KILL_SECONDS = 30.0
# Takes memory in pieces until the victim is gone; without one, until it is killed itself. It is locked into memory and
# ahead of the others: were they as quick to read their programs in again as the kernel throws them out, the kernel
# would go on doing that for minutes before it counts as out of memory.
_HOG = """
import ctypes, mmap, os, sys
victim, taken = int(sys.argv[1]), []
open("/proc/self/oom_score_adj", "w").write("0" if victim else "1000")
ctypes.CDLL(None, use_errno=True).mlockall(3)
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
while not victim or os.path.exists(f"/proc/{victim}"):
    taken.append(mmap.mmap(-1, 16 << 20))
"""
_KILLED = re.compile(r"[Oo]ut of memory: Killed process (\d+) \(([^)]*)\)")


def killed_processes(kernel_log: str) -> dict[int, str]:
    """Name by pid of the processes that the kernel's log tells of as killed for want of memory."""
    return {int(match[1]): match[2] for match in _KILLED.finditer(kernel_log)}


@dataclass
class MemoryPressure(HostFault):
    """A process takes all memory. The kernel kills `victim_pid`, or, without one, the process that took it."""

    victim_pid: int = 0
    requires = frozenset({Capability.KERNEL, Capability.POWER})
    name = "memory-pressure"
    _command_before: str = ""
    _hog: RemoteProcess | None = None

    def prepare(self) -> None:
        super().prepare()
        if self.victim_pid:
            self._command_before = process_command(self.host, self.victim_pid)
            # The kernel kills who has the highest score: 1000 is more than the whole memory counts for.
            self.host.run(f"echo 1000 >/proc/{self.victim_pid}/oom_score_adj")

    def inject(self) -> None:
        self._hog = self.host.start(shlex.join(["python3", "-c", _HOG, str(self.victim_pid)]))

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """The kernel's log tells whom it killed, and the host's process table no longer has him."""
        assert self._hog is not None
        if self.victim_pid and not self._command_before:
            return Confirmation.of(False, f"there was no process {self.victim_pid} on {self.host.name}")
        pid = self.victim_pid or self._hog.pid
        wait_seconds = max(timeout_seconds, self.lab.pace.stretch(_KILL_SECONDS))
        killed = wait_until(lambda: self._killed(pid), timeout_seconds=wait_seconds)
        if not killed:
            return Confirmation.of(False, f"the kernel of {self.host.name} tells of no process {pid} that it killed")
        gone = wait_until(lambda: not process_command(self.host, pid), timeout_seconds=timeout_seconds)
        return Confirmation.of(
            gone,
            f"the kernel of {self.host.name} says: {killed}",
            f"process {pid} is {'gone' if gone else 'still there'}",
        )

    def _killed(self, pid: int) -> str:
        try:
            name = killed_processes(self.host.run(["dmesg"]).stdout).get(pid)
        except HostUnreachableError:  # a host without memory answers late
            return ""
        return f"out of memory, killed {pid} ({name})" if name else ""

    def heal(self) -> None:
        """End who took the memory; a host that is too starved for that is switched off and on."""
        if self._hog is None or self.host.state is HostState.OFF:
            return
        try:
            self.host.run(f"kill -KILL {self._hog.pid}")
        except HostUnreachableError:
            self.host.power_off()
            self.host.power_on()


# Overwrites the code of the VM, wherever its VMM's memory holds it, with bytes that trap at any offset (HLT). Prints
# how many bytes that were.
_DAMAGE = """
import struct, sys
pid, image = sys.argv[1], open(sys.argv[2], "rb").read()
headers, = struct.unpack_from("<Q", image, 32)
length, count = struct.unpack_from("<HH", image, 54)
codes, damaged = [], 0
for header in range(headers, headers + length * count, length):
    kind, flags, offset, _, _, size = struct.unpack_from("<IIQQQQ", image, header)
    if kind == 1 and flags & 1:
        codes.append(image[offset:offset + size])
with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
    for line in open(f"/proc/{pid}/maps").readlines():
        span, rights, _, _, inode, *_ = line.split()
        start, end = (int(word, 16) for word in span.split("-"))
        if inode != "0" or not rights.startswith("rw"):
            continue
        memory.seek(start)
        try:
            held = memory.read(end - start)
        except OSError:  # the process has ended by it
            break
        for code in codes:
            at = -1
            while (at := held.find(code[:64], at + 1)) >= 0:
                memory.seek(start + at)
                damaged += memory.write(b"\\xf4" * len(code))
print(damaged)
"""


@dataclass
class DamagedMemory(HostFault):
    """The memory of a host loses the code of the VM that the process `pid` runs; `image` is the file that it is from.

    Nothing else is touched: to that host's processor the guest does what it may not, and to no other's.
    """

    pid: int
    image: str
    name = "damaged-memory"
    _command_before: str = ""
    _damaged_bytes: int = 0

    def prepare(self) -> None:
        super().prepare()
        self._command_before = process_command(self.host, self.pid)

    def inject(self) -> None:
        words = ["-c", _DAMAGE, str(self.pid), self.image]
        self._damaged_bytes = int(self.host.run(f"{self.host.python} {shlex.join(words)}", check=True).stdout)

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """The code was found and overwritten, and the process, which was there, has ended."""
        gone = wait_until(lambda: not process_command(self.host, self.pid), timeout_seconds=timeout_seconds)
        return Confirmation.of(
            bool(self._command_before) and self._damaged_bytes > 0 and gone,
            f"before: {self._command_before}",
            f"{self._damaged_bytes} bytes of the VM's code were overwritten",
            f"after: process {self.pid} is {'gone' if gone else 'still there'}",
        )

    def heal(self) -> None:
        """What the memory has lost is lost."""
