"""Faults of the VM's disk: flipped bits in the image, and operations that fail with EIO."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fault_injectors.fault import Confirmation
from harness.lab.interface import Host, HostUnreachableError, Lab
from harness.lab.topology import DISK_PATH, STORAGE_FAULTS, STORAGE_IMAGE
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
class BitFlip:
    """Bits of one byte of the disk image are flipped behind everybody's back, as a bad sector's would be.

    `offset_bytes` counts from the image's start, `mask` says which bits of that byte.
    """

    lab: Lab
    offset_bytes: int
    mask: int = 1
    name = "bit-flip"
    _old: bytes = b""

    @property
    def target(self) -> str:
        return self.lab.storage_host.name

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {"offset_bytes": self.offset_bytes, "mask": self.mask}

    @staticmethod
    def available(lab: Lab) -> bool:
        return True

    @property
    def _sector_start(self) -> int:
        return self.offset_bytes - self.offset_bytes % SECTOR_BYTES

    def _sector(self) -> bytes:
        return bytes.fromhex(self._on_storage(_READ, STORAGE_IMAGE, str(self._sector_start)))

    def _flip(self) -> bytes:
        """Flip the bits; the sector as it was before."""
        return bytes.fromhex(self._on_storage(_FLIP, STORAGE_IMAGE, str(self.offset_bytes), str(self.mask)))

    def _on_storage(self, script: str, *arguments: str) -> str:
        host = self.lab.storage_host
        return host.run(f"{host.python} -c {shlex.join([script, *arguments])}", check=True).stdout

    def prepare(self) -> None:
        """Nothing to look at: the sector is read in the same step that flips it."""

    def inject(self) -> None:
        self._old = self._flip()
        drop_cached_pages(self.lab.fault_tolerant_hosts)

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """The sector, read again from the image, differs from what it was in exactly these bits."""
        expected = bytearray(self._old)
        expected[self.offset_bytes - self._sector_start] ^= self.mask
        new = self._sector()
        return Confirmation.of(
            new == expected and new != self._old,
            f"sector at byte {self._sector_start} before: {self._old.hex()}",
            f"sector at byte {self._sector_start} after: {new.hex()}",
        )

    def heal(self) -> None:
        """Flip the bits back, unless the VM has written the sector anew meanwhile."""
        expected = bytearray(self._old)
        expected[self.offset_bytes - self._sector_start] ^= self.mask
        if self._sector() == expected:
            self._flip()
            drop_cached_pages(self.lab.fault_tolerant_hosts)


@dataclass
class DiskError:
    """The disk of one host fails: its reads or writes, or both, end with EIO."""

    lab: Lab
    host: Host
    operations: Sequence[str] = ("read", "write")
    name = "disk-error"
    _log_lines_before: int = 0
    _readable_before: bool = False

    @property
    def target(self) -> str:
        return self.host.name

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {"operations": list(self.operations)}

    @staticmethod
    def available(lab: Lab) -> bool:
        return True

    @property
    def _log(self) -> str:
        return f"/var/log/block-{self.host.name}.log"

    def _files(self) -> list[str]:
        return [f"{STORAGE_FAULTS}/{self.host.name}.{operation}" for operation in self.operations]

    def _read_error(self) -> str:
        """What an operation on the host's own path to the disk says; O_DIRECT, so that no cached page answers."""
        read = ["dd", f"if={DISK_PATH}", "of=/dev/null", "bs=4096", "count=1", "iflag=direct", "status=none"]
        result = self.host.run(["env", "LC_ALL=C", *read])
        return "" if result.succeeded else result.stderr.strip()

    def prepare(self) -> None:
        self._readable_before = not self._read_error()
        lines = self.lab.storage_host.run(["wc", "-l", self._log], check=True).stdout
        self._log_lines_before = int(lines.split()[0])

    def inject(self) -> None:
        self.lab.storage_host.run(["touch", *self._files()], check=True)
        drop_cached_pages([self.host])

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """A read on the host fails with EIO; for writes, the storage host's log shows one that was refused.

        No write is made here to find out: it could undo one of the VM's own.
        """
        evidence = []
        bit: bool | None = True
        if "read" in self.operations:
            if not self._readable_before:
                return Confirmation.of(False, f"the disk of {self.host.name} could not be read before either")
            error = self._read_error()
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
        tail = self.lab.storage_host.run(f"tail -n +{self._log_lines_before + 1} {self._log}").stdout
        return [line for line in tail.splitlines() if "...Write" in line and "return=-1" in line][:3]

    def heal(self) -> None:
        self.lab.storage_host.run(["rm", "-f", *self._files()], check=True)


def drop_cached_pages(hosts: Sequence[Host]) -> None:
    """Make the next reads on these hosts reach the disk: opening a FUSE file drops the pages that the kernel cached."""
    for host in hosts:
        if host.is_powered and not host.is_frozen:
            try:
                host.run(f": <{DISK_PATH}", timeout_seconds=2)
            except HostUnreachableError:
                continue  # it cannot read either
