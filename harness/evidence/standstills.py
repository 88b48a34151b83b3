"""`standstills.json`: when the machine below the lab did not run.

On each processor of the machine a program of the lab's asks to be woken every few milliseconds, before everything else
there (`harness.lab.netns.standstill_observer`). Where all of them were overdue at once, no processor ran anything: the
hypervisor below kept them, or rationed them, and neither the VMM nor the lab had any part in it.

**What makes such a program late, and what does not.** It runs under SCHED_FIFO at the highest priority, pinned, its
memory locked. So a VMM that burns processor time does not delay it, however many threads it does that with: they are
under SCHED_OTHER, whose priorities, bandwidth and pressure do not concern it. Nor does the interpreter of the lab's own
process, which made the thread that takes the looks 122 ms late while 1,454 frames passed: a gap between looks is no
standstill, and none is read off them. Nor is the hosts' pressure (`waited_us`), which a VMM that burns processor time
drives up by itself, or `stolen_us`, of which a hypervisor that rationed both processors for 39 ms said nothing. What a
single processor is kept from for long, by a call into the kernel that cannot be interrupted, delays one program and not
the others: only what they have in common counts.

What is left to a VMM: where the hypervisor rations processor time, one that burns all of it makes the machine stand
still in truth. It gains nothing by that. A standstill lets nothing pass; all that it can turn a finding into is
`insufficient`, and that only once is a reason to begin a scenario anew.

No such file is left where hosts have kernels of their own, or where the kernel does not grant SCHED_FIFO.
"""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from harness.evidence.json_lines import decode, read_object

Span = tuple[int, int]


@dataclass(frozen=True)
class Overdue:
    """One processor did not run what comes before everything else, from `due_ns` to `ran_ns` (CLOCK_BOOTTIME)."""

    processor: int
    due_ns: int
    ran_ns: int


@dataclass(frozen=True)
class MachineRecord:
    """What the observers saw: on how many processors they ran, all from start to end, and when each was overdue."""

    processors: int
    overdue: list[Overdue] = field(default_factory=list)


@dataclass(frozen=True)
class Standstill:
    """A stretch in which the machine stood still for longer than somebody tolerates, in one piece or in several.

    A hypervisor that rations processor time lets it run for moments in between.
    """

    start_ns: int
    end_ns: int
    stood_ns: int

    @property
    def length_in_words(self) -> str:
        """For how long it stood still."""
        stood_ms, whole_ms = round(self.stood_ns / 1e6), round((self.end_ns - self.start_ns) / 1e6)
        return f"{stood_ms} ms" if stood_ms == whole_ms else f"{stood_ms} of {whole_ms} ms"


class Standstills:
    """When no processor ran, in order of time; nothing where nobody observed."""

    def __init__(self, record: MachineRecord | None = None) -> None:
        self.spans: Sequence[Span] = list(_common(record)) if record else []

    def stood_ns(self, start_ns: int, end_ns: int) -> int:
        """How much of a time (CLOCK_BOOTTIME) the machine stood still."""
        spans = self._touching(start_ns, end_ns)
        return sum(min(end_ns, until_ns) - max(start_ns, since_ns) for since_ns, until_ns in spans)

    def longer_than(self, tolerated_ns: int, *, within_ns: int) -> list[Standstill]:
        """The stretches in which it stood still for more than `tolerated_ns` within some time of `within_ns`."""
        found: list[Standstill] = []
        # As a window of this length moves along, what it holds is the most where it begins or ends with a span.
        begins_ns = {since_ns for since_ns, _ in self.spans} | {until_ns - within_ns for _, until_ns in self.spans}
        for begin_ns in sorted(begins_ns):
            if self.stood_ns(begin_ns, begin_ns + within_ns) <= tolerated_ns:
                continue
            inside = self._touching(begin_ns, begin_ns + within_ns)
            start_ns, end_ns = inside[0][0], inside[-1][1]
            if found and start_ns < found[-1].end_ns:
                before = found.pop()
                start_ns, end_ns = before.start_ns, max(end_ns, before.end_ns)
            found.append(Standstill(start_ns, end_ns, self.stood_ns(start_ns, end_ns)))
        return found

    def _touching(self, start_ns: int, end_ns: int) -> Sequence[Span]:
        """The spans that lie in a time, in part at least."""
        first = bisect.bisect_right(self.spans, start_ns, key=lambda span: span[1])
        return self.spans[first : bisect.bisect_left(self.spans, end_ns, key=lambda span: span[0])]


def _common(record: MachineRecord) -> Iterable[Span]:
    """The times in which every processor was overdue."""
    changes = [(one.due_ns, 1) for one in record.overdue] + [(one.ran_ns, -1) for one in record.overdue]
    overdue, since_ns = 0, 0
    for at_ns, change in sorted(changes):
        if record.processors and overdue == record.processors and at_ns > since_ns:
            yield since_ns, at_ns
        overdue, since_ns = overdue + change, at_ns


def write_standstills(path: Path, record: MachineRecord) -> None:
    """Write the file."""
    path.write_text(json.dumps(asdict(record)) + "\n")


def read_standstills(path: Path) -> Standstills:
    """Read the file. Raises `EvidenceError`."""
    return Standstills(decode(MachineRecord, read_object(path)))
