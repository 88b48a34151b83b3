"""`faults.jsonl`: the injections and whether they were seen to bite. `fault_injectors.fault` writes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.evidence.json_lines import decode, read_lines


@dataclass(frozen=True)
class InjectedFault:
    """One injection; times are CLOCK_REALTIME nanoseconds."""

    fault: str
    target: str
    verdict: str
    injected_ns: int | None
    confirmed_ns: int | None
    healed_ns: int | None
    parameters: dict[str, Any] = field(default_factory=dict)
    evidence: list[str] = field(default_factory=list)


def read_faults(path: Path) -> list[InjectedFault]:
    """All injections in order. Raises `EvidenceError`."""
    faults = []
    for line in read_lines(path):
        fault = decode(InjectedFault, line)
        if fault.verdict not in ("confirmed", "mismatch", "inconclusive"):
            raise line.error(f"no such verdict: {fault.verdict!r}")
        faults.append(fault)
    return faults
