"""What this machine must have for the lab, checked before anything is changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from harness.lab.interface import LabError
from harness.lab.netns import run_directory

# The program and the Debian package that has it.
_PROGRAMS = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "ip": "iproute2",
    "ss": "iproute2",
    "nft": "nftables",
    "ethtool": "ethtool",
    "ping": "iputils-ping",
    "ps": "procps",
    "sshfs": "sshfs",
    "nbdkit": "nbdkit",
    "nbdfuse": "libnbd-bin",
    "etcd": "etcd-server",
}


def check_prerequisites() -> None:
    """Raise `LabError` with one sentence that says what to do."""
    if os.geteuid() != 0:
        raise LabError("the lab `netns` makes namespaces and links: run it as root")
    missing = {package for program, package in _PROGRAMS.items() if shutil.which(program) is None}
    if not Path("/usr/sbin/sshd").exists():
        missing.add("openssh-server")
    if missing:
        raise LabError(
            f"the lab `netns` needs programs that are missing here: apt-get install {' '.join(sorted(missing))}"
        )
    for device in ("/dev/net/tun", "/dev/fuse"):
        if not Path(device).exists():
            raise LabError(f"the lab `netns` needs {device}")
    memory = run_directory.ROOT.parent
    if not memory.is_mount() or shutil.disk_usage(memory).free < run_directory.BYTES_MIN:
        raise LabError(
            f"the lab `netns` keeps its hosts' disks in memory and needs {run_directory.BYTES_MIN >> 20} MiB free in"
            f" {memory}: mount -t tmpfs -o size=1g tmpfs {memory}"
        )
