"""A file of JSON lines, each written with one write(2), so that whoever reads along never waits for a buffer."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path


class Journal:
    """Appends JSON objects to a file; the file is made anew."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)

    def write(self, record: Mapping[str, object]) -> None:
        """Write one object as one line."""
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        while line:
            line = line[os.write(self._descriptor, line) :]

    def close(self) -> None:
        """Close the file; nothing is buffered here, so nothing can be lost."""
        os.close(self._descriptor)
