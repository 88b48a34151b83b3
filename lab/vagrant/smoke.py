"""`smoke`: the lab from nothing, its hosts checked, five scenarios of five fault families, and down again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from harness.lab.vagrant.state import LIBVIRT, PROJECT, read_state
from lab.vagrant.down import down
from lab.vagrant.up import up

MARKER = "smoke"


def smoke(directory: Path, *, progress: Callable[[str], None]) -> int:
    """Run it; gives pytest's exit status. A lab that was up before is used as it is, and stays up.

    Raises:
        LabError: the lab did not come up.
    """
    state = read_state(directory)
    try:
        up(directory, provider=state.provider if state else LIBVIRT, progress=progress)
        environment = {**os.environ, "LAB": "vagrant", "ARGS": f"-m {MARKER} {os.environ.get('ARGS', '')}"}
        checks = [sys.executable, "-m", "pytest", "-q", str(PROJECT / "lab" / "checks")]
        checked = subprocess.run(checks, cwd=PROJECT, check=False).returncode
        if checked != 0:
            return checked
        program = [sys.executable, str(PROJECT / "reports" / "scenarios.py")]
        return subprocess.run(program, cwd=PROJECT, env=environment, check=False).returncode
    finally:
        if state is None:
            down(directory, progress=progress)
