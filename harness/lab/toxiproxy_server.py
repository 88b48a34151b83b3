"""The Toxiproxy server of the lab: the real one, built by the set-up from its module together with our own toxics."""

from __future__ import annotations

from pathlib import Path

from harness.lab.interface import LabError

PROJECT = Path(__file__).resolve().parents[2]
BINARY = PROJECT / ".tools" / "bin" / "ftvmm-toxiproxy"


def toxiproxy_server() -> Path:
    """The server's binary. `LabError` when it is not built."""
    if not BINARY.is_file():
        raise LabError(f"{BINARY} is not there: run `make setup`, which builds it")
    return BINARY
