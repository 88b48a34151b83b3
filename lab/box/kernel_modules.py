"""Checks that the kernel in a root file tree has the modules that the lab's faults and storage need."""

from collections.abc import Iterable
from pathlib import Path

from lab.box.failure import BoxFailed


def check(root: Path, *, wanted: Iterable[str]) -> str:
    """Look for each module, as a file or built in, and return the kernel's release. Raises BoxFailed."""
    releases = sorted(path.name for path in (root / "usr/lib/modules").glob("*"))
    if len(releases) != 1:
        raise BoxFailed(f"The box should have one kernel, and has {len(releases)}: {' '.join(releases) or 'none'}.")
    directory = root / "usr/lib/modules" / releases[0]
    present = {_name(path.name) for path in directory.rglob("*.ko*")}
    present |= {_name(line) for line in (directory / "modules.builtin").read_text().split()}
    if missing := sorted(module for module in wanted if _name(module) not in present):
        raise BoxFailed(
            f"The kernel {releases[0]} in the box lacks {', '.join(missing)}: lab/box/contents.py says what each is "
            "for. Choose another kernel package there."
        )
    return releases[0]


def _name(file: str) -> str:
    """A module's name has no directory, no ``.ko.xz``, and ``-`` is the same as ``_``."""
    return file.rpartition("/")[2].partition(".")[0].replace("-", "_")
