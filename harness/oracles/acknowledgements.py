"""What the backups' own traces say they held, and when: the yardstick of the output rule."""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass

from harness.evidence.trace import Trace
from harness.evidence.trace_events import Acknowledged, Committed, Output, Role


class Acknowledgements:
    """The highest position that some backup of a generation had acknowledged, at any time (CLOCK_REALTIME).

    A backup writes the event right before it sends the acknowledgement, so nothing that waits for it can be older.
    A `committed` backup holds everything up to the snapshot's position. An acknowledgement excuses an output, so it
    counts from the earliest time that its host's clock allows.
    """

    def __init__(self, traces: Mapping[str, Trace]) -> None:
        events: dict[tuple[str, int], list[tuple[int, int]]] = {}
        for host, trace in traces.items():
            for event in trace.events:
                held = isinstance(event, Committed) or (isinstance(event, Acknowledged) and event.by == "backup")
                if held:
                    assert isinstance(event, Committed | Acknowledged)
                    events.setdefault((host, event.generation), []).append((event.earliest_wall_ns, event.position))
        self._steps: dict[tuple[str, int], tuple[list[int], list[int]]] = {}
        for key, steps in events.items():
            steps.sort()
            highest = 0
            positions = [highest := max(highest, position) for _, position in steps]
            self._steps[key] = ([wall_ns for wall_ns, _ in steps], positions)

    @property
    def count(self) -> int:
        """How many acknowledgements there are."""
        return sum(len(times) for times, _ in self._steps.values())

    def held(self, *, generation: int, not_by: str, wall_ns: int) -> int:
        """The highest position that a backup on another host than `not_by` held at a time; 0 is the initial state."""
        highest = 0
        for (host, its_generation), (times, positions) in self._steps.items():
            if host != not_by and its_generation == generation:
                at = bisect.bisect_right(times, wall_ns)
                highest = max(highest, positions[at - 1] if at else 0)
        return highest


@dataclass(frozen=True)
class Emission:
    """An output that was let go, and what the node was when it let it go."""

    output: Output
    # Whether the node had a backup, so that the output had to be acknowledged.
    protected: bool
    # The generation of the role that the node had; the stamp on the output's own line may already be the next one's.
    generation: int


def emissions(trace: Trace) -> list[Emission]:
    """A trace's emissions in the order in which they were written."""
    roles: dict[str, Role] = {}
    emitted = {id(output) for output in trace.emitted}
    result = []
    for event in trace.events:
        if isinstance(event, Role):
            roles[event.incarnation] = event
        elif isinstance(event, Output) and id(event) in emitted:
            role = roles.get(event.incarnation)
            # A role that was never told counts as protected: lack of evidence must not excuse an output.
            protected = role is None or role.to != "ALONE"
            result.append(Emission(event, protected, role.generation if role else event.generation))
    return result
