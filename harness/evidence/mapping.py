"""Puts every stamp of a host onto this machine's clocks, with the uncertainty that this leaves; all else stays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from harness.evidence.clock_samples import ClockPair
from harness.evidence.clocks import Pair
from harness.evidence.connections import ConnectionEvent
from harness.evidence.history import History
from harness.evidence.host_clock import HostClock, Instant
from harness.evidence.host_clocks import HostClocks
from harness.evidence.ticks import Ticks
from harness.evidence.trace import Trace
from harness.evidence.trace_events import Event

CLIENT_HOST = "client"


def map_trace(trace: Trace, clocks: HostClocks) -> Trace:
    """A trace on this machine's clocks. Raises `EvidenceError` when a process fits no boot that was sampled."""
    # A process lives within one boot, so all that it wrote tells which.
    processes: dict[str, list[Event]] = defaultdict(list)
    for event in trace.events:
        processes[event.incarnation].append(event)
    boots = {incarnation: clocks.of(trace.host, events) for incarnation, events in processes.items()}
    stamps_ns: dict[HostClock, list[int]] = defaultdict(list)
    for incarnation, events in processes.items():
        stamps_ns[boots[incarnation]] += [event.monotonic_ns for event in events]
    instants = {clock: clocks.locate(clock, stamps) for clock, stamps in stamps_ns.items()}
    mapped = []
    for event in trace.events:
        at = instants[boots[event.incarnation]][event.monotonic_ns]
        wall_ns = clocks.machine.to_wall_ns(at.monotonic_ns)
        mapped.append(replace(event, monotonic_ns=at.monotonic_ns, wall_ns=wall_ns, uncertainty_ns=at.uncertainty_ns))
    return replace(trace, events=mapped)


class ClientMapping:
    """Maps what the client wrote.

    Args:
        clocks: all hosts' clocks.
        pairs: the pairs of clocks that the client's process wrote, which tell its boot.
    """

    def __init__(self, clocks: HostClocks, pairs: Iterable[Pair]) -> None:
        self._clocks = clocks
        self._clock: HostClock = clocks.of(CLIENT_HOST, pairs)

    def locate(self, stamps_ns: Iterable[int]) -> dict[int, Instant]:
        """Where the client's stamps lie on this machine's CLOCK_BOOTTIME, by stamp."""
        return self._clocks.locate(self._clock, stamps_ns)

    def _pairs(self, pairs: Sequence[ClockPair]) -> list[ClockPair]:
        """The pairs of clocks with which the client's files begin and end, as this machine's."""
        at = self.locate(pair.monotonic_ns for pair in pairs)
        stamps_ns = [at[pair.monotonic_ns].monotonic_ns for pair in pairs]
        return [ClockPair(stamp_ns, self._clocks.machine.to_wall_ns(stamp_ns)) for stamp_ns in stamps_ns]

    def history(self, history: History) -> History:
        """The history, in its order."""
        stamps_ns = [one.call_ns for one in history.operations] + [stray.at_ns for stray in history.stray_replies]
        at = self.locate(stamps_ns + [one.return_ns for one in history.operations if one.return_ns is not None])
        operations = []
        for one in history.operations:
            called = at[one.call_ns]
            returned = None if one.return_ns is None else at[one.return_ns]
            operations.append(
                replace(
                    one,
                    call_ns=called.monotonic_ns,
                    return_ns=None if returned is None else returned.monotonic_ns,
                    uncertainty_ns=max(called.uncertainty_ns, returned.uncertainty_ns if returned else 0),
                )
            )
        strays = [replace(stray, at_ns=at[stray.at_ns].monotonic_ns) for stray in history.stray_replies]
        return replace(history, operations=operations, stray_replies=strays, clocks=self._pairs(history.clocks))

    def connections(self, events: Sequence[ConnectionEvent]) -> list[ConnectionEvent]:
        """What happened to the connections."""
        at = self.locate(stamp_ns for event in events for stamp_ns in (event.asked_ns, event.at_ns))
        return [
            replace(
                event,
                at_ns=at[event.at_ns].monotonic_ns,
                asked_ns=at[event.asked_ns].monotonic_ns,
                uncertainty_ns=at[event.at_ns].uncertainty_ns,
            )
            for event in events
        ]

    def ticks(self, ticks: Ticks) -> Ticks:
        """The ticker's datagrams; the guest's own stamps stay the guest's."""
        at = self.locate(tick.arrived_ns for tick in ticks.ticks)
        mapped = [
            replace(
                tick, arrived_ns=at[tick.arrived_ns].monotonic_ns, uncertainty_ns=at[tick.arrived_ns].uncertainty_ns
            )
            for tick in ticks.ticks
        ]
        return replace(ticks, ticks=mapped, clocks=self._pairs(ticks.clocks))
