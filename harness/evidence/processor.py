"""`processor.jsonl`: how long the programs of a lab's hosts waited for a processor of this machine, by its kernel.

Hosts that share two processors with other labs and with the tests wait for each other. Such a wait is no fault of the
VMM, and no word of the VMM's goes into this file: the kernel counts it for each host's cgroups (`some` in
`cpu.pressure`, Documentation/accounting/psi.rst), and what a hypervisor below it took away (`steal` in proc(5)). A lab
whose hosts have kernels of their own leaves no such file.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from harness.evidence.json_lines import decode, read_lines

# A program that keeps a processor busy makes others wait, a broken VMM as well: more than this excuses nothing.
EXCUSED_MS_MAX = 100.0


@dataclass(frozen=True)
class ProcessorSample:
    """What the kernel had counted at a moment (CLOCK_BOOTTIME), in microseconds: by host, and of the machine below."""

    at_ns: int
    waited_us: Mapping[str, int]
    stolen_us: int = 0


@dataclass(frozen=True)
class ProcessorWaits:
    """All samples, in order of time."""

    samples: Sequence[ProcessorSample] = ()

    def excused_ms(self, start_ns: int, end_ns: int) -> float:
        """How much of a time (CLOCK_BOOTTIME) the hosts' programs may have spent in waiting for a processor.

        A request waits on one host after the other, the one with the disk included, so their waits add up, to
        `EXCUSED_MS_MAX` at most.
        """
        if not self.samples:
            return 0.0
        begin = bisect.bisect_right(self.samples, start_ns, key=lambda one: one.at_ns) - 1
        end = bisect.bisect_left(self.samples, end_ns, key=lambda one: one.at_ns)
        first, last = self.samples[max(begin, 0)], self.samples[min(end, len(self.samples) - 1)]
        # A host that was off in between has a new count, or the old one still.
        waited_us = sum(max(0, count - first.waited_us.get(host, count)) for host, count in last.waited_us.items())
        waited_us += last.stolen_us - first.stolen_us
        return min(waited_us / 1000, (end_ns - start_ns) / 1e6, EXCUSED_MS_MAX)


def write_processor_waits(path: Path, samples: Sequence[ProcessorSample], hosts: Sequence[str]) -> None:
    """Write the file, of these hosts alone: nobody waits for a host that has no part in the VM."""
    chosen = [
        replace(one, waited_us={host: one.waited_us[host] for host in hosts if host in one.waited_us})
        for one in samples
    ]
    path.write_text("".join(json.dumps(asdict(sample)) + "\n" for sample in chosen))


def read_processor_waits(path: Path) -> ProcessorWaits:
    """Read the file. Raises `EvidenceError`."""
    return ProcessorWaits([decode(ProcessorSample, line) for line in read_lines(path)])
