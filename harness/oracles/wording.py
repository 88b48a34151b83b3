"""How findings name outputs, messages and times: network, host, number, index, position, digest, and when."""

from __future__ import annotations

from harness.evidence.directory import EvidenceDirectory
from harness.evidence.verdicts import Finding, Verdict
from harness.evidence.wire.wire import Said
from harness.oracles.emissions import Emission


def after_start(evidence: EvidenceDirectory, wall_ns: int | None) -> str:
    """A time, counted from the scenario's start."""
    return "" if wall_ns is None else f" at {(wall_ns - evidence.scenario.start_ns) / 1e9:.6f} s"


def by_message(evidence: EvidenceDirectory, said: Said | None) -> str:
    """Which message says so."""
    if said is None:
        return ""
    times = [
        f"{word}{after_start(evidence, at_ns)}"
        for word, at_ns in (("left", said.left_ns), ("arrived", said.arrived_ns))
        if at_ns is not None
    ]
    kind = type(said.body).__name__
    return f" ({kind} {said.sequence} of {said.sender} by {said.path}, {', '.join(times)})"


def records_missing() -> Finding:
    """No word of the arbiter's was found."""
    message = "the arbiter's records are missing: nothing else tells who owned the VM"
    return Finding("no-arbiter-records", message, Verdict.INSUFFICIENT)


def name_output(evidence: EvidenceDirectory, one: Emission) -> str:
    """An output, and what it was seen as."""
    output = one.output
    return f"{one.what}{after_start(evidence, one.latest_ns)} is output {output.index} ({output.kind} {output.digest})"
