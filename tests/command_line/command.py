"""`ftvmm` as a user calls it, and the guests it is called with."""

import subprocess
import sys
from pathlib import Path

from tests.guests.guest import IMAGES, REPOSITORY

COMPUTE = IMAGES / "compute.hvt"
KEY_VALUE = IMAGES / "kv.hvt"
COMMAND = (sys.executable, "-c", "from ftvmm.cli import main; main()")
SECONDS_MAX = 60


def ftvmm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs `ftvmm` with these arguments to its end, and makes sure that nobody sees a traceback or a panic."""
    process = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=SECONDS_MAX, check=False,
    )  # fmt: skip
    assert "Traceback" not in process.stderr
    assert "panicked" not in process.stderr
    return process


def assert_refused(process: subprocess.CompletedProcess[str], *words: str) -> None:
    """Bad input: status 2, nothing on standard output, and one sentence with these words."""
    assert process.returncode == 2, process
    assert process.stdout == ""
    assert len(process.stderr.strip().splitlines()) == 1, process.stderr
    for word in words:
        assert word in process.stderr
