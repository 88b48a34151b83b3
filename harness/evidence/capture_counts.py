"""`captures/reports.json`: how many frames each host's capture took in, and how many went by without it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.evidence.json_lines import Line, decode, read_object


@dataclass(frozen=True)
class CaptureCount:
    """Frames of one host's capture, as the capturing program counted them."""

    captured: int
    dropped: int


def write_capture_counts(path: Path, counts: Mapping[str, CaptureCount]) -> None:
    """Write the file; `counts` by host."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({host: asdict(count) for host, count in counts.items()}, indent=1) + "\n")


def read_capture_counts(path: Path) -> dict[str, CaptureCount]:
    """Read the file, by host. Raises `EvidenceError`."""
    line = read_object(path)
    if not all(isinstance(fields, dict) for fields in line.fields.values()):
        raise line.error("no object of objects")
    return {host: decode(CaptureCount, Line(path, line.number, fields)) for host, fields in line.fields.items()}
