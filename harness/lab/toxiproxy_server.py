"""The Toxiproxy server of the lab: the real one, built by Go from its module together with our own toxics."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from harness.lab.interface import LabError

PROJECT = Path(__file__).resolve().parents[2]
SOURCE = PROJECT / "harness" / "toxiproxy"
BINARY = PROJECT / ".tools" / "bin" / "ftvmm-toxiproxy"


def toxiproxy_server() -> Path:
    """The server's binary, built when it is missing or older than its source."""
    newest = max(path.stat().st_mtime for path in SOURCE.iterdir())
    if BINARY.exists() and BINARY.stat().st_mtime >= newest:
        return BINARY
    go = shutil.which("go") or shutil.which("go", path=f"{PROJECT / '.venv/bin'}:/usr/local/go/bin:/usr/lib/go/bin")
    if go is None:
        raise LabError("Toxiproxy has to be built and there is no Go: run `make setup`, or install Go 1.23 or newer")
    BINARY.parent.mkdir(parents=True, exist_ok=True)
    temporary = BINARY.with_suffix(f".{os.getpid()}")
    done = subprocess.run(
        [go, "build", "-trimpath", "-ldflags=-s -w", "-o", str(temporary), "."],
        cwd=SOURCE,
        env=os.environ | {"CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LabError(f"Toxiproxy could not be built: {done.stderr.strip()}")
    temporary.replace(BINARY)
    return BINARY
