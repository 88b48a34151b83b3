"""`looks.jsonl`: what the lab itself sees of its hosts, every few milliseconds.

**Waits for a processor.** Hosts that share two processors with other labs and with the tests wait for each other. Such
a wait is no fault of the VMM, and no word of the VMM's is in it: the kernel counts it for each host's cgroups (`some`
in `cpu.pressure`, Documentation/accounting/psi.rst), and what a hypervisor below it took away (`steal` in proc(5)).

**The console's length.** Nobody stamps a line of the console when it is printed, but a line that is there at a look
was printed before it.

A lab whose hosts have kernels of their own leaves no such file.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from harness.evidence.json_lines import decode, read_lines

# A program that keeps a processor busy makes others wait, a broken VMM as well: more than this excuses nothing.
EXCUSED_MS_MAX = 100.0


@dataclass(frozen=True)
class Look:
    """One look at all hosts.

    Attributes:
        at_ns: before it, CLOCK_BOOTTIME.
        waited_us: how long each host's programs had waited for a processor so far, in microseconds.
        stolen_us: how long the machine below had kept its processors for itself, all of them together.
        seen_ns: after it, CLOCK_REALTIME.
        console_bytes: how long each host's console was.
    """

    at_ns: int
    waited_us: Mapping[str, int]
    stolen_us: int = 0
    seen_ns: int = 0
    console_bytes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Looks:
    """All looks, in order of time."""

    all: Sequence[Look] = ()

    def excused_ms(self, start_ns: int, end_ns: int) -> float:
        """How much of a time (CLOCK_BOOTTIME) the hosts' programs may have spent in waiting for a processor.

        A request waits on one host after the other, the one with the disk included, so their waits add up, to
        `EXCUSED_MS_MAX` at most.
        """
        if not self.all:
            return 0.0
        begin = bisect.bisect_right(self.all, start_ns, key=lambda one: one.at_ns) - 1
        end = bisect.bisect_left(self.all, end_ns, key=lambda one: one.at_ns)
        first, last = self.all[max(begin, 0)], self.all[min(end, len(self.all) - 1)]
        # A host that was off in between has a new count, or the old one still.
        waited_us = sum(max(0, count - first.waited_us.get(host, count)) for host, count in last.waited_us.items())
        waited_us += last.stolen_us - first.stolen_us
        return min(waited_us / 1000, (end_ns - start_ns) / 1e6, EXCUSED_MS_MAX)

    def printed_ns(self, host: str, length: int) -> int | None:
        """By when a host's console was so long at the latest (CLOCK_REALTIME); None: no look has seen it so long."""
        # A console only grows.
        place = bisect.bisect_left(self.all, length, key=lambda one: one.console_bytes.get(host, 0))
        return self.all[place].seen_ns if place < len(self.all) else None


def write_looks(path: Path, looks: Sequence[Look], hosts: Sequence[str]) -> None:
    """Write the file, of these hosts alone: nobody waits for a host that has no part in the VM."""
    chosen = [
        replace(
            one,
            waited_us={host: one.waited_us[host] for host in hosts if host in one.waited_us},
            console_bytes={host: one.console_bytes[host] for host in hosts if host in one.console_bytes},
        )
        for one in looks
    ]
    path.write_text("".join(json.dumps(asdict(look)) + "\n" for look in chosen))


def read_looks(path: Path) -> Looks:
    """Read the file. Raises `EvidenceError`."""
    return Looks([decode(Look, line) for line in read_lines(path)])
