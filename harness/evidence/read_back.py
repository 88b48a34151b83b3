"""`readback.json`: what a fresh VM serves from a copy of the disk image, after everything else has ended."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from harness.evidence.json_lines import decode, read_object


@dataclass(frozen=True)
class ReadBack:
    """What was read, with long values as `harness.clients.workload.spell` has them.

    Attributes:
        host: where the VM ran.
        values: what each key holds, None where it does not exist.
        errors: the error with which the server answered instead, by key.
        damages: what SCRUB found wrong on the disk.
        console: what the guest printed.
        failure: why it came to nothing, None where it did not.
        refused_by_guest: whether it was the guest that gave up, and not whoever was to run it.
        seconds: how long it took.
    """

    host: str
    values: dict[str, str | None] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    damages: list[str] = field(default_factory=list)
    console: str = ""
    failure: str | None = None
    refused_by_guest: bool = False
    seconds: float = 0.0


def write_read_back(path: Path, read_back: ReadBack) -> None:
    """Write the file."""
    path.write_text(json.dumps(asdict(read_back), indent=1) + "\n")


def read_read_back(path: Path) -> ReadBack:
    """Read the file. Raises `EvidenceError`."""
    return decode(ReadBack, read_object(path))
