"""Takes out of a root file tree what differs from one build to the next: logs, caches, identities, times."""

import os
import shutil
from pathlib import Path

from lab.box.commands import SOURCE_DATE_EPOCH

EMPTIED = ("etc/machine-id", "etc/resolv.conf")
"""Must be there and say nothing: a clone finds its own identity, and the build host's name servers are its own."""
REMOVED = (
    # Identities
    *("etc/ssh/ssh_host_*", "var/lib/dbus/machine-id", "var/lib/systemd/random-seed", "etc/hostid"),
    # The build's own settings
    *("etc/fstab", "etc/apt/apt.conf.d/99mmdebstrap", "etc/dpkg/dpkg.cfg.d/99mmdebstrap"),
    # Caches and what apt downloaded
    *("var/lib/apt/lists/*", "var/cache/apt/*", "var/cache/ldconfig/*", "var/cache/debconf/*-old", "var/cache/man/*"),
    *("usr/lib/udev/hwdb.bin", "var/lib/systemd/catalog/database", "tmp/*", "var/tmp/*", "run/*"),
    # An empty list of modules, for which a service would run at each boot; whoever writes another file there has it
    "etc/modules-load.d/modules.conf",
    # Former states of databases
    *("etc/passwd-", "etc/shadow-", "etc/group-", "etc/gshadow-", "etc/subuid-", "etc/subgid-", "etc/.pwd.lock"),
    *("var/lib/dpkg/*-old", "var/lib/ucf/*.[0-9]", "var/lib/dpkg/lock*"),
)
"""Patterns of paths in the tree. A pattern that matches nothing is no error: packages come and go."""
EMPTIED_DIRECTORY = "var/log"
"""Its files go, its directories stay: services write there."""
UPDATED = ("etc/.updated", "var/.updated")
"""systemd compares their times to /usr's and would otherwise bring caches up to date at the first boot."""


def scrub(root: Path) -> None:
    """Do so; the same packages then give the same tree."""
    for name in EMPTIED:
        path = root / name
        path.unlink(missing_ok=True)
        path.write_bytes(b"")
        path.chmod(0o644)
    for pattern in REMOVED:
        for path in root.glob(pattern):
            _remove(path)
    for directory, _, names in os.walk(root / EMPTIED_DIRECTORY):
        for name in names:
            os.unlink(os.path.join(directory, name))
    for name in UPDATED:
        (root / name).write_text(f"TIMESTAMP_NSEC={SOURCE_DATE_EPOCH}000000000\n")
    _fix_times(root)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _fix_times(root: Path) -> None:
    """Let no file be younger than the box's day."""
    for directory, subdirectories, names in os.walk(root, topdown=False):
        for name in [*names, *subdirectories]:
            _fix_time(os.path.join(directory, name))
    _fix_time(str(root))


def _fix_time(path: str) -> None:
    seconds = min(int(os.lstat(path).st_mtime), SOURCE_DATE_EPOCH)
    os.utime(path, (seconds, seconds), follow_symlinks=False)
