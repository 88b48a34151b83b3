"""Faults of the VM's disk: flipped bits in the image, and operations that fail with EIO."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from fault_injectors.base import HostFault, LabFault
from fault_injectors.fault import Confirmation
from fault_injectors.probes import read_error
from harness.lab.interface import Capability, TearResult
from harness.lab.topology import DISK_PATH, STORAGE_IMAGE
from harness.lab.waiting import wait_until

SECTOR_BYTES = 512

# Runs on the storage host: flips bits of one byte, through to the disk, and gives the sector as it was.
_FLIP = """
import os, sys
path, offset, mask = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
image = os.open(path, os.O_RDWR | os.O_SYNC)
start = offset - offset % 512
old = os.pread(image, 512, start)
os.pwrite(image, bytes([old[offset - start] ^ mask]), offset)
print(old.hex())
"""
_READ = """
import os, sys
print(os.pread(os.open(sys.argv[1], os.O_RDONLY), 512, int(sys.argv[2])).hex())
"""


@dataclass
class BitFlip(LabFault):
    """Bits of one byte of the disk image are flipped behind everybody's back, as a bad sector's would be.

    `offset_bytes` counts from the image's start, `mask` says which bits of that byte.
    """

    offset_bytes: int
    mask: int = 1
    name = "bit-flip"
    _old: bytes = b""

    @property
    def target(self) -> str:
        return self.lab.storage_host.name

    @property
    def _sector_start(self) -> int:
        return self.offset_bytes - self.offset_bytes % SECTOR_BYTES

    def _sector(self) -> bytes:
        return bytes.fromhex(self._on_storage(_READ, STORAGE_IMAGE, str(self._sector_start)))

    def _flip(self) -> bytes:
        """Flip the bits; the sector as it was before."""
        old = bytes.fromhex(self._on_storage(_FLIP, STORAGE_IMAGE, str(self.offset_bytes), str(self.mask)))
        for host in self.lab.fault_tolerant_hosts:
            self.lab.storage.forget_cached(host)
        return old

    def _on_storage(self, script: str, *arguments: str) -> str:
        host = self.lab.storage_host
        return host.run(f"{host.python} -c {shlex.join([script, *arguments])}", check=True).stdout

    def prepare(self) -> None:
        """Nothing to look at: the sector is read in the same step that flips it."""

    def inject(self) -> None:
        self._old = self._flip()

    def _flipped(self) -> bytes:
        sector = bytearray(self._old)
        sector[self.offset_bytes - self._sector_start] ^= self.mask
        return bytes(sector)

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """The sector, read again from the image, differs from what it was in exactly these bits."""
        new = self._sector()
        return Confirmation.of(
            new == self._flipped() and new != self._old,
            f"sector at byte {self._sector_start} before: {self._old.hex()}",
            f"sector at byte {self._sector_start} after: {new.hex()}",
        )

    def heal(self) -> None:
        """Flip the bits back, unless the VM has written the sector anew meanwhile."""
        if self._sector() == self._flipped():
            self._flip()

    def end(self) -> None:
        """The disk stays as it is: what a fresh VM makes of the damage is evidence."""


# Reads past every cache for 0.3 s, and prints the part of that time which went into reads longer than the milliseconds
# given: one that a busy machine delays does not count for many that the server lets wait.
_TIME_IN_LONG_READS = """
import mmap, os, sys, time
disk, page = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, 4096)
start, long = time.monotonic(), 0.0
while (begin := time.monotonic()) < start + 0.3:
    os.preadv(disk, [page], 0)
    took = time.monotonic() - begin
    long += took if took * 1000 > float(sys.argv[2]) else 0.0
print(long / (time.monotonic() - start))
"""


@dataclass
class SlowDisk(HostFault):
    """The disk of one host is served for `serve_ms`, then waits for `pause_ms`, by turns; nothing of it fails."""

    pause_ms: float = 30.0
    serve_ms: float = 10.0
    requires = frozenset({Capability.DISK_SERVER})
    name = "slow-disk"
    _before: float = 0.0

    def _time_in_long_reads(self) -> float:
        words = ["-c", _TIME_IN_LONG_READS, DISK_PATH, str(self.pause_ms / 2)]
        return float(self.host.run(f"{self.host.python} {shlex.join(words)}", check=True).stdout)

    def prepare(self) -> None:
        self._before = self._time_in_long_reads()

    def inject(self) -> None:
        self.lab.storage.slow_disk(self.host, pause_ms=self.pause_ms, serve_ms=self.serve_ms)

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """Reads on the host, past every cache, mostly wait for the server's pauses, and did not before."""
        wanted = self.pause_ms / (self.pause_ms + self.serve_ms) / 2
        now = wait_until(
            lambda: part if (part := self._time_in_long_reads()) > wanted else 0.0, timeout_seconds=timeout_seconds
        )
        return Confirmation.of(
            self._before < wanted < now,
            f"reads on {self.host.name} that took more than {self.pause_ms / 2:.0f} ms: {self._before:.0%} of the time"
            f" before, {now:.0%} now",
        )

    def heal(self) -> None:
        self.lab.storage.restore_disk(self.host)


@dataclass
class DiskError(HostFault):
    """The disk of one host fails: its reads or writes, or both, end with EIO."""

    operations: Sequence[str] = ("read", "write")
    name = "disk-error"
    _readable_before: bool = False

    def prepare(self) -> None:
        self._readable_before = not read_error(self.host, DISK_PATH)

    def inject(self) -> None:
        self.lab.storage.fail_disk(self.host, self.operations)

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """A read on the host fails with EIO; for writes, the storage host saw one that was refused.

        No write is made here to find out: it could undo one of the VM's own.
        """
        if not self.host.testinfra.mount_point(str(PurePosixPath(DISK_PATH).parent)).exists:
            return Confirmation.of(False, f"the disk of {self.host.name} is gone, which is another fault")
        evidence = []
        bit: bool | None = True
        if "read" in self.operations:
            if not self._readable_before:
                return Confirmation.of(False, f"the disk of {self.host.name} could not be read before either")
            error = read_error(self.host, DISK_PATH)
            bit = "Input/output error" in error
            evidence.append(f"reading {DISK_PATH} on {self.host.name}: {error or 'no error'}")
        if "write" in self.operations and bit:
            refused = wait_until(self._refused_writes, timeout_seconds=timeout_seconds)
            if refused:
                evidence.append(f"writes refused by the storage host: {json.dumps(refused)}")
            elif "read" not in self.operations:
                bit = None
                evidence.append(f"{self.host.name} wrote nothing within {timeout_seconds} s")
        return Confirmation.of(bit, *evidence)

    def _refused_writes(self) -> list[str]:
        failed = self.lab.storage.failed_operations(self.host)
        return [line for line in failed if line.startswith("write")][:3]

    def heal(self) -> None:
        self.lab.storage.restore_disk(self.host)


@dataclass
class ReadError(DiskError):
    """Of the disk of one host only the reads fail: what it writes lands."""

    operations: Sequence[str] = ("read",)
    requires = frozenset({Capability.DISK_SERVER})
    name = "read-error"


@dataclass
class WriteError(DiskError):
    """Of the disk of one host only the writes fail: what is read of it is whole."""

    operations: Sequence[str] = ("write",)
    requires = frozenset({Capability.DISK_SERVER})
    name = "write-error"


@dataclass
class TornWrite(HostFault):
    """Of one write of a host's the first half lands and the rest does not; it fails, and so do all behind it."""

    requires = frozenset({Capability.DISK_SERVER})
    name = "torn-write"
    _torn: TearResult | None = None

    def inject(self) -> None:
        self._torn = self.lab.storage.tear_write(self.host)

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """The server refused the write, and its place on the disk is new in front and old behind."""
        torn = self._torn
        if torn is None:
            return Confirmation.of(None, f"{self.host.name} wrote no more than a sector at a time")
        # The server's log is under the limit too: where it is longer than that, it does not tell of the refusal.
        bit = torn.status in (-1, None) and torn.head_is_new and torn.tail_is_old
        return Confirmation.of(bit, f"as the storage host saw it: {torn}")

    def heal(self) -> None:
        self.lab.storage.restore_disk(self.host)
