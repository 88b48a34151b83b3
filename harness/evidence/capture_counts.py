"""`captures/counts.json`: how many frames each port's capture took in, and how many went by without it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.evidence.json_lines import Line, decode, read_object


@dataclass(frozen=True)
class CaptureCount:
    """Frames of one port's capture, both ways, as the kernel counted them."""

    captured: int
    dropped: int


def write_capture_counts(path: Path, counts: Mapping[str, CaptureCount]) -> None:
    """Write the file; `counts` by `<network>.<host>`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({port: asdict(count) for port, count in counts.items()}, indent=1) + "\n")


def read_capture_counts(path: Path) -> dict[str, CaptureCount]:
    """Read the file, by `<network>.<host>`. Raises `EvidenceError`."""
    line = read_object(path)
    if not all(isinstance(fields, dict) for fields in line.fields.values()):
        raise line.error("no object of objects")
    return {port: decode(CaptureCount, Line(path, line.number, fields)) for port, fields in line.fields.items()}
