"""Each live transfer that gave a VM a backup again: how long the copy took, and the stop of the guest in its parts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from harness.evidence.trace import Role, Trace, Transfer

PARTS = ("last_copy", "joiner", "answer", "arbiter", "resume")


@dataclass(frozen=True)
class Round:
    """One round of the copy: so many pages were to be copied, from this instant on."""

    pages: int
    begun_ns: int


@dataclass(frozen=True)
class LiveTransfer:
    """One that ended in a new backup. Instants are CLOCK_BOOTTIME, all of the owner's trace but `there_ns`.

    Attributes:
        owner: the host that ran the VM alone.
        joiner: the host that became its backup; None where its trace does not tell.
        begun_ns: the first page is about to be copied.
        rounds: what was written during the copy and copied again; the first one, all pages, is not among them.
        stopping_ns: the guest waits from here on.
        stopped_ns: the last of its state is sent.
        there_ns: the joiner has all of it, by its own trace.
        restored_ns: the owner has heard so.
        committed_ns: the owner is protected: its outputs wait for the joiner from here on.
        resumed_ns: the guest goes on.
    """

    owner: str
    joiner: str | None
    begun_ns: int
    rounds: tuple[Round, ...]
    stopping_ns: int
    stopped_ns: int
    there_ns: int | None
    restored_ns: int
    committed_ns: int
    resumed_ns: int

    @property
    def copy_ms(self) -> float:
        """How long the memory was copied while the guest ran."""
        return (self.stopping_ns - self.begun_ns) / 1e6

    @property
    def stop_ms(self) -> float:
        """How long the guest stood still."""
        return (self.resumed_ns - self.stopping_ns) / 1e6

    def parts_ms(self) -> dict[str, float]:
        """The parts of the stop. They follow each other and add up to it.

        `last_copy`: the owner copies and sends what was written last; `joiner`: until the joiner has restored it;
        `answer`: until the owner has read that; `arbiter`: until what the guest had said before has left, and the
        arbiter has said that the VM is still the owner's; `resume`: until the guest's thread runs.
        """
        # The joiner works while the owner sends, and may be through before the owner has noted that all is sent.
        there_ns = min(max(self.stopped_ns, self.there_ns or self.stopped_ns), self.restored_ns)
        instants = (
            *(self.stopping_ns, self.stopped_ns, there_ns),
            *(self.restored_ns, self.committed_ns, self.resumed_ns),
        )
        return {name: (end - start) / 1e6 for name, (start, end) in zip(PARTS, pairwise(instants), strict=True)}

    @property
    def pages_written_per_second(self) -> float | None:
        """How fast the guest wrote to new pages during the first round of the copy."""
        if not self.rounds or self.rounds[0].begun_ns <= self.begun_ns:
            return None
        return self.rounds[0].pages / ((self.rounds[0].begun_ns - self.begun_ns) / 1e9)


@dataclass
class _Begun:
    """What is known of a transfer that has not ended yet."""

    begun_ns: int
    rounds: list[Round] = field(default_factory=list)
    at_ns: dict[str, int] = field(default_factory=dict)
    position: int | None = None


def find_transfers(traces: Iterable[Trace]) -> list[LiveTransfer]:
    """Every transfer of these hosts that ended in a new backup, in order; one that was given up is none of them."""
    traces = list(traces)
    arrivals = [
        (trace.host, event)
        for trace in traces
        for event in trace.of(Transfer)
        if event.state == "restored" and event.position is not None
    ]
    found = [transfer for trace in traces for transfer in _of_owner(trace, arrivals)]
    return sorted(found, key=lambda one: one.begun_ns)


def _of_owner(trace: Trace, arrivals: list[tuple[str, Transfer]]) -> Iterable[LiveTransfer]:
    begun: _Begun | None = None
    for event in trace.events:
        if isinstance(event, Transfer) and event.state == "begun":
            begun = _Begun(event.monotonic_ns)
        elif begun is None:
            continue
        elif isinstance(event, Role):
            if event.to == "PROTECTED":
                begun.at_ns["committed"] = event.monotonic_ns
        elif isinstance(event, Transfer):
            if event.state == "round":
                begun.rounds.append(Round(event.pages or 0, event.monotonic_ns))
            elif event.state == "given-up":
                begun = None
            else:
                begun.at_ns[event.state] = event.monotonic_ns
                begun.position = event.position
                if event.state == "resumed":
                    if "committed" in begun.at_ns:
                        yield _ended(trace.host, begun, arrivals)
                    begun = None


def _ended(owner: str, begun: _Begun, arrivals: list[tuple[str, Transfer]]) -> LiveTransfer:
    at_ns = begun.at_ns
    there = [
        (host, event.monotonic_ns)
        for host, event in arrivals
        if host != owner
        and event.position == begun.position
        and at_ns["stopping"] - event.uncertainty_ns <= event.monotonic_ns <= at_ns["resumed"] + event.uncertainty_ns
    ]
    joiner, there_ns = there[-1] if there else (None, None)
    return LiveTransfer(
        owner=owner,
        joiner=joiner,
        begun_ns=begun.begun_ns,
        rounds=tuple(begun.rounds),
        stopping_ns=at_ns["stopping"],
        stopped_ns=at_ns["stopped"],
        there_ns=there_ns,
        restored_ns=at_ns["restored"],
        committed_ns=at_ns["committed"],
        resumed_ns=at_ns["resumed"],
    )
