"""Which version a program says it is."""

import re
import subprocess
from pathlib import Path


def program_version(program: Path, *arguments: str) -> str:
    """First line that ``program --version`` (or the given arguments) prints; empty when it does not run."""
    try:
        answer = subprocess.run(
            [program, *(arguments or ("--version",))], capture_output=True, text=True, check=False, cwd="/"
        )
    except OSError:
        return ""
    return answer.stdout.partition("\n")[0] if answer.returncode == 0 else ""


def version_number(text: str) -> tuple[int, int]:
    """The first ``MAJOR.MINOR`` in a text, or (0, 0)."""
    match = re.search(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)
