"""A file system without a byte left."""

from __future__ import annotations

import secrets
import shlex
from dataclasses import dataclass, field

from fault_injectors.base import HostFault
from fault_injectors.fault import Confirmation
from harness.lab.interface import Capability, HostState
from harness.lab.topology import NODE_DIRECTORY

# Takes all there is, in halving pieces; as root, so the share that is kept back for root too. By fallocate(2) itself:
# where a file system has none, the library's writes to one block after the other, which takes a quarter of an hour on
# a small disk whose writes are all flushed.
_FILL = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
filler = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY, 0o600)

def reserve(start, length):
    if libc.fallocate(filler, 0, ctypes.c_long(start), ctypes.c_long(length)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return length

def write(start, length):
    return os.pwrite(filler, bytes(length), start)

take, taken, piece = reserve, 0, 1 << 32
while piece >= 1024:
    try:
        taken += take(taken, piece)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP and take is reserve:
            take, piece = write, 1 << 20
        elif error.errno == errno.ENOSPC:
            piece //= 2
        else:
            raise
print(taken)
"""


@dataclass
class FullFileSystem(HostFault):
    """The file system that holds a directory is full, for root too; what files have already, they keep."""

    directory: str = NODE_DIRECTORY
    requires = frozenset({Capability.KERNEL})
    name = "full-file-system"
    _token: str = field(default_factory=lambda: secrets.token_hex(4))
    _had_room: bool = False

    @property
    def _filler(self) -> str:
        return f"{self.directory}/fault-{self._token}.filler"

    def _write_error(self) -> str:
        """What writing a new file there says; it does not stay."""
        probe = f"{self.directory}/fault-{self._token}.probe"
        write = f"dd if=/dev/zero of={probe} bs=64K count=1 conv=fsync status=none"
        result = self.host.run(f"env LC_ALL=C {write}; status=$?; rm -f {probe}; exit $status")
        return "" if result.succeeded else result.stderr.strip()

    def prepare(self) -> None:
        super().prepare()
        self._had_room = not self._write_error()

    def inject(self) -> None:
        command = ["python3", "-c", _FILL, self._filler]
        self.host.run(shlex.join(command), timeout_seconds=self.lab.pace.stretch(30), check=True)

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """A file that could be written before cannot be now, for want of space, and df(1) has nothing to offer."""
        if not self._had_room:
            return Confirmation.of(False, f"nothing could be written to {self.directory} before either")
        error = self._write_error()
        available = self.host.run(["df", "--output=avail", self.directory], check=True).stdout.split()[-1]
        return Confirmation.of(
            "No space left on device" in error and available == "0",
            f"writing a new file to {self.directory} on {self.host.name}: {error or 'no error'}",
            f"available there: {available} KiB",
        )

    def heal(self) -> None:
        if self.host.state is not HostState.OFF:
            self.host.run(["rm", "-f", self._filler], check=True)
