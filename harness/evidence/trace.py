"""`hosts/<host>/trace.jsonl`: what a node said of itself, read into typed events."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from harness.evidence.json_lines import Line, decode, has_torn_end, read_lines
from harness.evidence.trace_events import KINDS, Event, NodeStarted, Output, OutputWithheld

Kind = TypeVar("Kind", bound=Event)


@dataclass(frozen=True)
class Trace:
    """All events of one host in the order they were written (several processes, if the node was started again)."""

    host: str
    path: Path
    events: list[Event]
    torn_lines: int

    def of(self, kind: type[Kind]) -> list[Kind]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    @cached_property
    def emitted(self) -> list[Output]:
        """The outputs that were let go: those withheld right before the send (R5) are left out."""
        emitted: dict[tuple[str, int, int], Output] = {}
        newest: dict[tuple[str, int], tuple[str, int, int]] = {}
        for place, event in enumerate(self.events):
            if isinstance(event, Output):
                key = (event.incarnation, event.index, place)
                emitted[key] = event
                newest[event.incarnation, event.index] = key
            elif isinstance(event, OutputWithheld):
                withheld = newest.pop((event.incarnation, event.index), None)
                if withheld is not None:
                    del emitted[withheld]
        return list(emitted.values())

    @property
    def mutants(self) -> list[str]:
        """How this node was broken on purpose."""
        return sorted({mutant for started in self.of(NodeStarted) for mutant in started.mutants})


def read_trace(path: Path, host: str) -> Trace:
    """Read a trace. A torn last line, as a killed node leaves one, is counted; anything else is an `EvidenceError`.

    Events of an unknown name are kept as a plain `Event`, so that a newer node's trace can still be judged.
    """
    events = []
    for line in read_lines(path, torn_end_allowed=True):
        kind = KINDS.get(str(line.fields.get("event")), Event)
        if "from" in line.fields:
            renamed = {("before" if name == "from" else name): value for name, value in line.fields.items()}
            events.append(decode(kind, Line(line.path, line.number, renamed)))
        else:
            events.append(decode(kind, line))
    return Trace(host, path, events, int(has_torn_end(path)))
