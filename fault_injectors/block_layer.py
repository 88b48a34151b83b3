"""The disk under the storage host's file system fails, for good or in turns: the VM's disk and the arbiter with it."""

from __future__ import annotations

import abc
from dataclasses import dataclass

from fault_injectors.base import LabFault
from fault_injectors.device_mapper import MappedDevice, Target
from fault_injectors.fault import Confirmation
from fault_injectors.probes import read_error
from harness.lab.interface import Capability
from harness.lab.topology import STORAGE_DEVICE, STORAGE_DIRECTORY
from harness.lab.waiting import wait_until


@dataclass
class _StorageDevice(LabFault, abc.ABC):
    """What both share: another table under the file system that is exported."""

    requires = frozenset({Capability.DEVICE_MAPPER, Capability.POWER})
    _table: tuple[Target, ...] = ()
    _error_before: str = ""

    @property
    def target(self) -> str:
        return self.lab.storage_host.name

    @property
    def _device(self) -> MappedDevice:
        return MappedDevice(self.lab.storage_host, STORAGE_DEVICE)

    @abc.abstractmethod
    def _struck(self, target: Target) -> Target:
        """What takes the place of a target."""

    def prepare(self) -> None:
        self._table = self._device.table()
        self._error_before = self._read_error()

    def _read_error(self) -> str:
        return read_error(self.lab.storage_host, self._device.path)

    def inject(self) -> None:
        self._device.load([self._struck(target) for target in self._table])

    def confirm(self, timeout_seconds: float) -> Confirmation:
        """The kernel has another table, and a read of the device itself, past every cache, fails with EIO."""
        if self._error_before:
            return Confirmation.of(False, f"{self._device.path} could not be read before: {self._error_before}")
        error = wait_until(self._read_error, timeout_seconds=timeout_seconds)
        table = self._device.table()
        return Confirmation.of(
            table != self._table and "Input/output error" in error,
            f"table of {STORAGE_DEVICE} before: {'; '.join(map(str, self._table))}",
            f"table of {STORAGE_DEVICE} now: {'; '.join(map(str, table))}",
            f"reading {self._device.path}: {error or 'no error'}",
        )

    def heal(self) -> None:
        """Put the old table in force. A file system that gave up meanwhile gets what it would get: a new boot."""
        self._device.load(self._table)
        storage = self.lab.storage_host
        probe = f"{STORAGE_DIRECTORY}/fault-healed"
        if not storage.run(f"touch {probe} && sync {probe} && rm {probe}").succeeded:
            storage.power_off()
            storage.power_on()


@dataclass
class FailingDevice(_StorageDevice):
    """Every read and write of the device ends with EIO (dm-error); what the storage host has cached it still serves."""

    name = "failing-device"

    def _struck(self, target: Target) -> Target:
        return target.failing()


@dataclass
class FlakyDevice(_StorageDevice):
    """The device works for `up_seconds`, fails every operation for `down_seconds`, and so on (dm-flakey)."""

    up_seconds: int = 2
    down_seconds: int = 2
    name = "flaky-device"

    def _struck(self, target: Target) -> Target:
        return target.flaky(up_seconds=self.up_seconds, down_seconds=self.down_seconds)
