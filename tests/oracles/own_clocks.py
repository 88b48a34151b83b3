"""Gives the hosts of a written run clocks of their own: every stamp of theirs is rewritten, and sampled.

Times of this machine are those of `run_builder`; a host's own are hours away, drift, leap and start again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.evidence.clocks import ClockPair, ClockRecord, ClockSample, Pause
from tests.oracles.run_builder import BACKUP, BOOT_NS, END_MS, PRIMARY, WALL_NS, boot_ns

HOUR_NS = 3600 * 10**9
CLIENT, STORAGE = "client", "storage"


@dataclass(frozen=True)
class Boot:
    """One boot of a host, from a time of the builder on.

    Attributes:
        since_ms: from when on it runs.
        boottime_ns: what its CLOCK_BOOTTIME was at the builder's start, were it not for the drift.
        pair_ns: its CLOCK_REALTIME less its CLOCK_BOOTTIME.
        leap: when the host wakes, and by how much its clocks have gone ahead.
        step: when its CLOCK_REALTIME is stepped, and by how much.
    """

    since_ms: float
    boottime_ns: int
    pair_ns: int
    drift_ppm: int = 200
    leap: tuple[float, int] = (END_MS * 2, 0)
    step: tuple[float, int] = (END_MS * 2, 0)

    def boottime(self, machine_ns: int) -> int:
        since_start_ns = machine_ns - BOOT_NS
        leap_ns = self.leap[1] if machine_ns >= boot_ns(self.leap[0]) else 0
        return self.boottime_ns + since_start_ns + since_start_ns * self.drift_ppm // 1_000_000 + leap_ns

    def realtime(self, machine_ns: int) -> int:
        step_ns = self.step[1] if machine_ns >= boot_ns(self.step[0]) else 0
        return self.boottime(machine_ns) + self.pair_ns + step_ns


@dataclass(frozen=True)
class OwnClocks:
    """What each host's clocks do, and how well they were sampled."""

    hosts: dict[str, list[Boot]]
    width_ns: int
    every_ms: float
    pauses: list[Pause] = field(default_factory=list)

    def boot(self, host: str, machine_ns: int) -> tuple[int, Boot]:
        """Which boot of a host it is, and the boot."""
        boots = self.hosts[host]
        number = max(at for at, boot in enumerate(boots) if at == 0 or boot_ns(boot.since_ms) <= machine_ns)
        return number, boots[number]

    def write(self, directory: Path) -> Path:
        """Rewrite the stamps of a run's evidence, and write `clocks.json`."""
        for host in (PRIMARY, BACKUP):
            _rewrite(directory / "hosts" / host / "trace.jsonl", lambda record, host=host: self._both(host, record))
        for name in ("history", "connections", "ticks"):
            _rewrite(directory / f"{name}.jsonl", self._of_client)
        records = json.loads((directory / "arbiter.json").read_bytes())
        for record in records:
            for name in ("claimed_ns", "linked_ns"):
                record[name] = self._of_storage(record[name])
            record["pair_ns"] = self.hosts[STORAGE][0].pair_ns
        (directory / "arbiter.json").write_text(json.dumps(records))
        _rewrite(
            directory / "arbiter-events.jsonl",
            lambda event: event.update(seen_ns=self._of_storage(event["seen_ns"])),
        )
        self.record().write(directory / "clocks.json")
        return directory

    def record(self) -> ClockRecord:
        """The samples, taken at even times; the reading takes place a third into each exchange."""
        record = ClockRecord(pauses=self.pauses)
        for step in range(int(END_MS * 1.2 / self.every_ms)):
            machine_ns = boot_ns(step * self.every_ms)
            record.machine.append(ClockPair(machine_ns, machine_ns - BOOT_NS + WALL_NS))
            for host in self.hosts:
                if any(one.stop_after_ns <= machine_ns <= (one.resume_before_ns or 0) for one in self.pauses):
                    continue
                number, boot = self.boot(host, machine_ns)
                before_ns = machine_ns - self.width_ns // 3
                readings = boot.boottime(machine_ns), boot.realtime(machine_ns)
                record.samples.append(
                    ClockSample(host, f"{host}-{number}", before_ns, before_ns + self.width_ns, *readings)
                )
        return record

    def _both(self, host: str, record: dict[str, Any]) -> None:
        machine_ns = record["monotonic_ns"]
        # What a test did to the wall clock of an event stays done.
        torn_ns = record["wall_ns"] - WALL_NS - (machine_ns - BOOT_NS)
        _, boot = self.boot(host, machine_ns)
        record["monotonic_ns"], record["wall_ns"] = boot.boottime(machine_ns), boot.realtime(machine_ns) + torn_ns

    def _of_storage(self, wall_ns: int) -> int:
        return self.hosts[STORAGE][0].realtime(wall_ns - WALL_NS + BOOT_NS)

    def _of_client(self, record: dict[str, Any]) -> None:
        if "monotonic_ns" in record:
            self._both(CLIENT, record)
        for name in ("call_ns", "return_ns", "at_ns", "asked_ns", "arrived_ns"):
            if record.get(name) is not None:
                record[name] = self.boot(CLIENT, record[name])[1].boottime(record[name])


def _rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    if not path.exists():
        return
    records = [json.loads(line) for line in path.read_bytes().splitlines()]
    for record in records:
        change(record)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def own_clocks(*, width_ns: int = 20_000, every_ms: float = 12.5) -> OwnClocks:
    """Hours apart; the primary's host starts again after its death, the survivor's sleeps and is stepped."""
    return OwnClocks(
        {
            PRIMARY: [
                Boot(0, 7 * HOUR_NS, WALL_NS + 3 * HOUR_NS, drift_ppm=-200),
                Boot(1200, -1_200_000_000, WALL_NS + 10 * HOUR_NS + 1_200_000_000, drift_ppm=-200),
            ],
            BACKUP: [Boot(0, HOUR_NS, WALL_NS - 40 * HOUR_NS, leap=(1060, 5 * HOUR_NS), step=(1500, -HOUR_NS))],
            CLIENT: [Boot(0, 90 * HOUR_NS, WALL_NS, drift_ppm=200)],
            STORAGE: [Boot(0, 3 * HOUR_NS, WALL_NS + 5 * HOUR_NS)],
        },
        width_ns,
        every_ms,
        # It sleeps while it would not notice the primary's death anyway.
        [Pause(BACKUP, boot_ns(1020), boot_ns(1040), boot_ns(1050), boot_ns(1080))],
    )
