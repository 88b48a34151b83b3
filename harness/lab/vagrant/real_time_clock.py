"""A machine's real-time clock, from which a kernel that slept learns how long it did, set through QEMU's monitor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from harness.lab.interface import LabError

# MC146818 real-time clock: index and data port, registers and control bits (Motorola data sheet).
_INDEX, _DATA = 0x70, 0x71
_SECONDS, _MINUTES, _HOURS = 0, 2, 4
_DAY_OF_WEEK, _DAY_OF_MONTH, _MONTH, _YEAR = 6, 7, 8, 9
_CONTROL_B = 0x0B
_B_SET, _B_BINARY, _B_24_HOURS = 0x80, 0x04, 0x02
# Not of the chip: where QEMU keeps the century, and ACPI's FADT says so.
_CENTURY = 0x32


class RealTimeClock:
    """The chip as the processor would use it.

    Args:
        monitor: runs one command of QEMU's human monitor; its answer.
        name: of the machine, for errors.
    """

    def __init__(self, monitor: Callable[[str], str], name: str) -> None:
        self._monitor = monitor
        self._name = name

    def put_forward(self, seconds: int) -> None:
        """Let `seconds` more have passed for whoever reads the clock.

        Raises:
            LabError: the clock does not count as a PC's does (24 hours, binary-coded decimals), or shows no time.
        """
        with self._held():
            then = self._read_time() + timedelta(seconds=seconds)
            century, year = divmod(then.year, 100)
            for register, value in (
                (_SECONDS, then.second),
                (_MINUTES, then.minute),
                (_HOURS, then.hour),
                (_DAY_OF_WEEK, then.isoweekday() % 7 + 1),
                (_DAY_OF_MONTH, then.day),
                (_MONTH, then.month),
                (_YEAR, year),
                (_CENTURY, century),
            ):
                self._write(register, value // 10 << 4 | value % 10)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """The clock does not go on meanwhile: a time that is half the old one and half the new one is never counted."""
        control = self._read(_CONTROL_B)
        if control & _B_BINARY or not control & _B_24_HOURS:
            raise LabError(f"the real-time clock of {self._name} counts in another way: its register B is {control:#x}")
        self._write(_CONTROL_B, control | _B_SET)
        try:
            yield
        finally:
            self._write(_CONTROL_B, control)

    def _read_time(self) -> datetime:
        registers = (_YEAR, _MONTH, _DAY_OF_MONTH, _HOURS, _MINUTES, _SECONDS)
        read = [f"{self._read(register):x}" for register in (_CENTURY, *registers)]
        try:
            century, year, month, day, hour, minute, second = map(int, read)
            return datetime(century * 100 + year, month, day, hour, minute, second)
        except ValueError as error:
            raise LabError(f"the real-time clock of {self._name} shows no time: {error}") from error

    def _read(self, register: int) -> int:
        self._port_write(_INDEX, register)
        return int(self._monitor(f"i /b {_DATA:#x}").split("=")[-1], 16)

    def _write(self, register: int, value: int) -> None:
        self._port_write(_INDEX, register)
        self._port_write(_DATA, value)

    def _port_write(self, port: int, value: int) -> None:
        self._monitor(f"o /b {port:#x} {value:#x}")
