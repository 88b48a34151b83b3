"""What a run writes down of its hosts' clocks bounds every stamp of theirs, a standstill included."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from harness.evidence.clocks import ClockPair, Clocks, read_clock_record
from harness.evidence.host_clocks import HostClocks
from harness.lab.clock_probe import machine_clocks
from harness.lab.interface import Capability, HostState, HostUnreachableError, Lab, Pace
from harness.vm.clock_log import ClockLog

HOUR_NS = 3600 * 10**9


class FakeHost:
    """A host whose clock is hours ahead, and stands still while the host does."""

    python = "python3"

    def __init__(self, name: str, *, hours_ahead: int = 0, hangs: bool = False) -> None:
        self.name, self.state = name, HostState.RUNNING
        self.offset_ns = hours_ahead * HOUR_NS
        self._hangs = hangs
        self._stopped_ns = 0

    def boottime_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) + self.offset_ns

    def pair(self) -> ClockPair:
        boottime_ns = self.boottime_ns()
        return ClockPair(boottime_ns, boottime_ns + 7 * HOUR_NS)

    def freeze(self) -> None:
        self._stopped_ns = self.boottime_ns()
        self.state = HostState.FROZEN

    def thaw(self) -> None:
        self.offset_ns -= self.boottime_ns() - self._stopped_ns
        self.state = HostState.RUNNING

    @contextlib.contextmanager
    def converse(self, command: Any, *, timeout_seconds: float) -> Iterator[FakeHost]:
        if self._hangs:
            raise HostUnreachableError(self.name)
        yield self

    def ask(self, line: str, *, timeout_seconds: float | None = None) -> str:
        assert self.state is HostState.RUNNING
        pair = self.pair()
        return f"{pair.monotonic_ns} {pair.wall_ns} boot-of-{self.name}"


class FakeLab:
    def __init__(self, *hosts: FakeHost, capabilities: frozenset[Capability] = frozenset({Capability.CLOCK})) -> None:
        self.hosts = {host.name: host for host in hosts}
        self.capabilities = capabilities
        self.pace = Pace()


def clock_log(lab: FakeLab, path: Path) -> ClockLog:
    return ClockLog(cast(Lab, lab), path)


def test_a_standstill_is_told_apart_from_the_time_before_and_after(tmp_path: Path) -> None:
    host, other = FakeHost("host-a", hours_ahead=30), FakeHost("host-b", hours_ahead=-1)
    log = clock_log(FakeLab(host, other), tmp_path / "clocks.json")
    log.sample()
    stamps = []

    def stamp() -> None:
        stamps.append((machine_clocks().monotonic_ns, host.pair()))

    stamp()
    with log.around():
        stamp()
        host.freeze()
    with log.around():
        time.sleep(0.2)  # the standstill itself, which no event ends
        host.thaw()
    stamp()
    log.sample()
    record = read_clock_record(tmp_path / "clocks.json")
    assert [pause.host for pause in record.pauses] == ["host-a"]
    clocks = HostClocks(record)
    clock = clocks.of("host-a", [pair for _, pair in stamps])
    located = clocks.locate(clock, [pair.monotonic_ns for _, pair in stamps])
    for machine_ns, pair in stamps:
        at = located[pair.monotonic_ns]
        assert machine_ns - at.uncertainty_ns <= at.monotonic_ns <= machine_ns + at.uncertainty_ns + 10_000_000
    # Before and after, the stamps are far better known than the standstill is long.
    assert located[stamps[0][1].monotonic_ns].uncertainty_ns < 50_000_000
    assert located[stamps[-1][1].monotonic_ns].uncertainty_ns < 50_000_000


def test_a_host_that_is_off_or_hangs_has_no_sample_and_the_others_have(tmp_path: Path) -> None:
    off, well = FakeHost("host-a"), FakeHost("host-b")
    log = clock_log(FakeLab(off, well, FakeHost("host-c", hangs=True)), tmp_path / "clocks.json")
    with log.around():
        off.freeze()
    with log.around():
        off.state = HostState.OFF
    record = read_clock_record(tmp_path / "clocks.json")
    assert record.pauses[0].resume_after_ns is None
    assert {sample.host for sample in record.samples} == {"host-a", "host-b"}
    machine = Clocks.learn(record.machine)
    assert machine is not None
    assert machine.spread_ns < 100_000_000


def test_a_lab_that_shares_this_machines_clocks_has_no_record(tmp_path: Path) -> None:
    log = clock_log(FakeLab(FakeHost("host-a"), capabilities=frozenset()), tmp_path / "clocks.json")
    log.sample()
    with log.around():
        pass
    assert list(tmp_path.iterdir()) == []
