"""The real-time clock of a machine of QEMU, whose processor does not run, put forward and then asked by QEMU itself."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import pytest

from harness.lab.interface import LabError
from harness.lab.vagrant.real_time_clock import RealTimeClock

_QEMU = "qemu-system-x86_64"
_MACHINE = [_QEMU, "-S", "-nodefaults", "-display", "none", "-accel", "tcg", "-machine", "q35", "-qmp", "stdio"]


class _Qmp:
    """QEMU's machine protocol: a JSON object per line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._read()  # the greeting
        self.ask("qmp_capabilities")

    def _read(self) -> dict[str, object]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "QEMU has ended"
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer

    def ask(self, command: str, **arguments: object) -> object:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._process.stdin.flush()
        while "return" not in (answer := self._read()):
            assert "event" in answer, answer
        return answer["return"]

    def monitor(self, command: str) -> str:
        return str(self.ask("human-monitor-command", **{"command-line": command}))

    def date(self) -> datetime:
        """What the chip shows, by QEMU's own account of it."""
        date = self.ask("qom-get", path="/machine", property="rtc-time")
        assert isinstance(date, dict)
        return datetime(
            date["tm_year"] + 1900, date["tm_mon"] + 1, *(date[f"tm_{part}"] for part in ("mday", "hour", "min", "sec"))
        )


@contextmanager
def _machine(base: str) -> Iterator[_Qmp]:
    with subprocess.Popen(
        [*_MACHINE, "-rtc", f"base={base},clock=vm"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield _Qmp(process)
        finally:
            process.kill()


pytestmark = pytest.mark.skipif(shutil.which(_QEMU) is None, reason="no QEMU: `make lab-setup` installs it")


@pytest.mark.parametrize(
    "base", ["2026-11-23T10:20:30", "2026-11-23T23:30:00", "2028-02-28T22:00:00", "2099-12-31T23:59:59"]
)
def test_the_clock_is_put_forward_over_the_end_of_anything(base: str) -> None:
    with _machine(base) as machine:
        RealTimeClock(machine.monitor, "host-a").put_forward(5 * 3600)
        # The machine's own time stands still: what the chip shows is what was written.
        assert machine.date() == datetime.fromisoformat(base) + timedelta(hours=5)


def test_the_clock_goes_on_afterwards_as_it_did() -> None:
    def control(machine: _Qmp) -> str:
        machine.monitor("o /b 0x70 0x0b")
        return machine.monitor("i /b 0x71")

    with _machine("2026-11-23T10:20:30") as machine:
        before = control(machine)
        RealTimeClock(machine.monitor, "host-a").put_forward(1)
        assert control(machine) == before


def test_a_clock_that_counts_in_binary_is_refused_and_left_as_it_was() -> None:
    with _machine("2026-11-23T10:20:30") as machine:
        machine.monitor("o /b 0x70 0x0b")
        machine.monitor("o /b 0x71 0x06")
        with pytest.raises(LabError, match="real-time clock of host-a counts in another way: its register B is 0x6"):
            RealTimeClock(machine.monitor, "host-a").put_forward(1)
        assert machine.monitor("i /b 0x71").split("=")[-1].strip() == "0x06"


def test_a_clock_without_a_time_is_refused() -> None:
    with _machine("2026-11-23T10:20:30") as machine:
        # Held, or QEMU makes a time of it.
        for register, value in ((0x0B, 0x82), (0x08, 0x13)):
            machine.monitor(f"o /b 0x70 {register:#x}")
            machine.monitor(f"o /b 0x71 {value:#x}")
        with pytest.raises(LabError, match="real-time clock of host-a shows no time: month must be in"):
            RealTimeClock(machine.monitor, "host-a").put_forward(1)
