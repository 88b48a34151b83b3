"""The directory that a build works in, and how it is removed without following a mount that was left in it."""

import re
import shutil
import subprocess
from pathlib import Path

from lab.box.failure import BoxFailed


def remove(directory: Path) -> None:
    """Unmount what a killed build left mounted below the directory, and remove it.

    mmdebstrap mounts the machine's /dev into the tree. Removing that tree with the mount in it would empty /dev.
    """
    for mount in reversed(mounts_below(directory)):
        subprocess.run(["umount", mount], check=False, capture_output=True)
    if left := mounts_below(directory):
        raise BoxFailed(f"{left[-1]} is still mounted: `umount` it, then `rm -r {directory}`.")
    if directory.exists():
        shutil.rmtree(directory)


def mounts_below(directory: Path, *, table: Path = Path("/proc/self/mountinfo")) -> list[Path]:
    """Mount points in a directory, those inside of others last (proc(5), mountinfo)."""
    points = [Path(_unescape(line.split()[4])) for line in table.read_text().splitlines()]
    resolved = directory.resolve()
    return sorted({point for point in points if point.is_relative_to(resolved)})


def _unescape(text: str) -> str:
    return re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), text)
